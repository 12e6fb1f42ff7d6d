#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace fathom {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

std::array<uint32_t, 4> Random::draw(uint64_t index) const {
  // The step shares the counter's upper half with the purpose: 2^48 steps are enough for anyone.
  FATHOM_CHECK_LT(step_, uint64_t{1} << 48);
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(step_),
                     static_cast<uint32_t>(step_ >> 32) | (static_cast<uint32_t>(purpose_) << 16)},
                    {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
}

uint64_t Random::bits(uint64_t index) const {
  const auto words = draw(index);
  return (static_cast<uint64_t>(words[1]) << 32) | words[0];
}

double Random::uniform(uint64_t index) const {
  return static_cast<double>(bits(index) >> 11) * 0x1.0p-53;
}

uint64_t Random::below(uint64_t index, uint64_t bound) const {
  FATHOM_CHECK_GT(bound, uint64_t{0});
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(index)) * bound) >> 64);
}

double Random::normal(uint64_t index) const {
  const auto words = draw(index);
  const double u1 =
      ((static_cast<double>((static_cast<uint64_t>(words[1]) << 32 | words[0]) >> 11)) + 1.0) *
      0x1.0p-53;  // in (0, 1]: the logarithm is finite
  const double u2 =
      static_cast<double>((static_cast<uint64_t>(words[3]) << 32 | words[2]) >> 11) * 0x1.0p-53;
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
}

}  // namespace fathom
