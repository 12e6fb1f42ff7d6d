// The loop of minhash.cc, compiled once for each instruction set: 128 hash functions of a shingle,
// each the high-order bits of a multilinear function of its two halves, and their minima. Includes
// nothing of the project with inline functions, for the linker may keep any of their copies.

static void fold(const uint64_t* shingles, int64_t count, const uint32_t* low_factors,
                 const uint32_t* high_factors, uint32_t* minima) {
  // A quarter of the lanes at a time, so that the minima stay in registers.
  constexpr int64_t kLanes = 32;
  for (int64_t begin = 0; begin < 128; begin += kLanes) {
    uint32_t lowest[kLanes], a[kLanes], b[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      lowest[i] = minima[begin + i];
      a[i] = low_factors[begin + i];
      b[i] = high_factors[begin + i];
    }
    for (int64_t s = 0; s < count; ++s) {
      const auto low = static_cast<uint32_t>(shingles[s]);
      const auto high = static_cast<uint32_t>(shingles[s] >> 32);
      for (int64_t i = 0; i < kLanes; ++i) {
        const uint32_t hash = low * a[i] + high * b[i];
        lowest[i] = hash < lowest[i] ? hash : lowest[i];
      }
    }
    for (int64_t i = 0; i < kLanes; ++i) minima[begin + i] = lowest[i];
  }
}
