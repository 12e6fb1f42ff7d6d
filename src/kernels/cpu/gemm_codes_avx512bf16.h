// 8-bit codes as bf16, exactly: every value of e4m3 and e5m2 is a normal bf16 (or 0, infinity,
// NaN). Included only by *_avx512bf16.cc; internal linkage (see gemm_kernels.h).
#pragma once

#include <immintrin.h>

#include <array>
#include <cstdint>

namespace fathom::cpu {
namespace {

// The upper and lower bytes of the bf16 of the 128 codes without a sign, for VPERMI2B: two look-ups
// decode 64 codes.
struct ByteTables {
  alignas(64) std::array<uint8_t, 128> high{}, low{};
};
constexpr ByteTables byte_tables(int mantissa_bits, int bias, bool has_infinity) {
  ByteTables t;
  for (int code = 0; code < 128; ++code) {
    int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
    int bits = 0;
    if (has_infinity && exponent == 127 >> mantissa_bits) {
      bits = mantissa == 0 ? 0x7f80 : 0x7fc0;
    } else if (!has_infinity && code == 127) {
      bits = 0x7fc0;
    } else if (exponent > 0 || mantissa > 0) {
      if (exponent == 0) {  // a denormal: normal in bf16
        for (exponent = 1; mantissa < 1 << mantissa_bits; mantissa <<= 1) --exponent;
        mantissa -= 1 << mantissa_bits;
      }
      bits = (exponent - bias + 127) << 7 | mantissa << (7 - mantissa_bits);
    }
    t.high[static_cast<size_t>(code)] = static_cast<uint8_t>(bits >> 8);
    t.low[static_cast<size_t>(code)] = static_cast<uint8_t>(bits & 0xff);
  }
  return t;
}
constexpr ByteTables kE4m3 = byte_tables(3, 7, false), kE5m2 = byte_tables(2, 15, true);
static_assert(kE4m3.high[0x7e] == 0x43 && kE4m3.low[0x7e] == 0xe0);  // 448
static_assert(kE4m3.high[1] == 0x3b && kE4m3.low[1] == 0);           // 2^-9
static_assert(kE5m2.high[1] == 0x37 && kE5m2.low[1] == 0x80);        // 2^-16

struct DecodedBytes {
  __m512i low, high;
};
// The bytes of the bf16 of 64 codes.
template <const ByteTables& kTables>
inline DecodedBytes decode_bytes(__m512i codes) {
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kTables.low.data()), codes,
                                               _mm512_load_si512(kTables.low.data() + 64));
  const __m512i high = _mm512_permutex2var_epi8(_mm512_load_si512(kTables.high.data()), codes,
                                                _mm512_load_si512(kTables.high.data() + 64));
  // high | (codes & sign)
  return {low, _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8(-128), 0xf8)};
}

// The magnitudes of codes of i8; 0 has no exponent.
constexpr ByteTables integer_tables() {
  ByteTables t;
  for (int n = 1; n < 128; ++n) {
    int exponent = 6, mantissa = n;
    for (; mantissa < 64; mantissa <<= 1) --exponent;
    const int bits = (exponent + 127) << 7 | (mantissa & 63) << 1;
    t.high[static_cast<size_t>(n)] = static_cast<uint8_t>(bits >> 8);
    t.low[static_cast<size_t>(n)] = static_cast<uint8_t>(bits & 0xff);
  }
  return t;
}
constexpr ByteTables kIntegers = integer_tables();
static_assert(kIntegers.high[127] == 0x42 && kIntegers.low[127] == 0xfe);
static_assert(kIntegers.high[1] == 0x3f && kIntegers.low[1] == 0x80);

// The same of 64 codes of i8.
inline DecodedBytes decode_integers(__m512i codes) {
  const auto [low, high] = decode_bytes<kIntegers>(_mm512_abs_epi8(codes));
  return {low, _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8(-128), 0xf8)};
}

// Of a line of panels (kernels/panel.h): even bytes are one pair of columns, odd ones the next.
inline void panel_words(const DecodedBytes& bytes, __m512i (&out)[2]) {
  const __m512i upper = _mm512_set1_epi16(int16_t{-0x100});
  out[0] = _mm512_ternarylogic_epi64(upper, _mm512_slli_epi16(bytes.high, 8), bytes.low, 0xca);
  out[1] = _mm512_ternarylogic_epi64(upper, bytes.high, _mm512_srli_epi16(bytes.low, 8), 0xca);
}

}  // namespace
}  // namespace fathom::cpu
