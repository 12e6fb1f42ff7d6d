// Every code of every format against arithmetic that shares nothing with types.cc: values by pow in
// double, rounding by comparing distances to the two neighbours.
#include "core/types.h"

#include <cstdlib>

#include "core/error.h"

namespace fathom {
namespace {

struct Format {
  const char* name;
  int exponent_bits, mantissa_bits, bias;
  bool top_is_special;   // the top exponent holds infinity and NaN
  bool all_ones_is_nan;  // e4m3
  bool overflows_to_infinity;
};
constexpr Format kBf16{"bf16", 8, 7, 127, true, false, true};
constexpr Format kFp16{"fp16", 5, 10, 15, true, false, true};
constexpr Format kE4m3{"e4m3", 4, 3, 7, false, true, false};
constexpr Format kE5m2{"e5m2", 5, 2, 15, true, false, false};
constexpr Format kE5m6{"e5m6", 5, 6, 15, false, false, false};

// NaN for NaN codes.
double oracle_value(const Format& f, uint32_t code) {
  const uint32_t mantissa = code % (1u << f.mantissa_bits);
  const uint32_t exponent = (code >> f.mantissa_bits) % (1u << f.exponent_bits);
  const double sign = (code >> (f.mantissa_bits + f.exponent_bits)) % 2 == 1 ? -1 : 1;
  const uint32_t top = (1u << f.exponent_bits) - 1;
  if (f.top_is_special && exponent == top) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  if (f.all_ones_is_nan && exponent == top && mantissa == (1u << f.mantissa_bits) - 1) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double fraction = static_cast<double>(mantissa) / std::pow(2.0, f.mantissa_bits);
  if (exponent == 0) return sign * fraction * std::pow(2.0, 1 - f.bias);
  return sign * (1 + fraction) * std::pow(2.0, static_cast<int>(exponent) - f.bias);
}

uint32_t num_codes(const Format& f) { return 1u << (1 + f.exponent_bits + f.mantissa_bits); }

template <typename T>
float decode(uint32_t code) {
  T number;
  number.bits = static_cast<decltype(number.bits)>(code);
  return static_cast<float>(number);
}
template <typename T>
uint32_t encode(float value) {
  return T(value).bits;
}

// All finite non-negative values in order; index = code.
std::vector<double> positive_values(const Format& f) {
  std::vector<double> values;
  for (uint32_t code = 0; code < num_codes(f) / 2; ++code) {
    const double value = oracle_value(f, code);
    if (!std::isfinite(value)) break;
    values.push_back(value);
  }
  return values;
}

template <typename T>
void check_decoding(const Format& f) {
  for (uint32_t code = 0; code < num_codes(f); ++code) {
    const double expected = oracle_value(f, code);
    const double found = static_cast<double>(decode<T>(code));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << f.name << " " << code;
    } else {
      ASSERT_EQ(found, expected) << f.name << " " << code;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << f.name << " " << code;
    }
  }
}

// Each value, each midpoint between neighbours and the floats beside it, with both signs.
template <typename T>
void check_encoding(const Format& f) {
  const std::vector<double> values = positive_values(f);
  const uint32_t sign_bit = num_codes(f) / 2;
  const auto expect = [&](float value, uint32_t code) {
    ASSERT_EQ(encode<T>(value), code) << f.name << " " << value;
    ASSERT_EQ(encode<T>(-value), code | sign_bit) << f.name << " " << -value;
  };
  for (uint32_t code = 0; code < values.size(); ++code) {
    const float value = static_cast<float>(values[code]);
    expect(value, code);
    if (code + 1 == values.size()) break;
    const double middle = (values[code] + values[code + 1]) / 2;
    const float tie = static_cast<float>(middle);
    // bf16 shares fp32's subnormals, where its smallest midpoints still are floats.
    ASSERT_EQ(static_cast<double>(tie), middle);
    expect(tie, code % 2 == 0 ? code : code + 1);
    expect(std::nextafter(tie, 0.0f), code);
    expect(std::nextafter(tie, std::numeric_limits<float>::infinity()), code + 1);
  }
  // Beyond the largest value: half a step more still rounds down, then infinity or saturation.
  const auto largest = static_cast<uint32_t>(values.size() - 1);
  const double step = values[largest] - values[largest - 1];
  const double border = values[largest] + step / 2;
  const uint32_t beyond = f.overflows_to_infinity ? largest + 1 : largest;
  if (border < static_cast<double>(std::numeric_limits<float>::max())) {
    expect(std::nextafter(static_cast<float>(border), 0.0f), largest);
    expect(static_cast<float>(border), beyond);  // the tie goes to the even code, which is beyond
  }
  expect(std::numeric_limits<float>::infinity(), beyond);
  expect(std::numeric_limits<float>::max(), beyond);
}

TEST(Types, DecodeEveryCode) {
  check_decoding<bf16>(kBf16);
  check_decoding<fp16>(kFp16);
  check_decoding<e4m3>(kE4m3);
  check_decoding<e5m2>(kE5m2);
  check_decoding<e5m6>(kE5m6);
}

TEST(Types, EncodeRoundsToNearestEvenEverywhere) {
  check_encoding<bf16>(kBf16);
  check_encoding<fp16>(kFp16);
  check_encoding<e4m3>(kE4m3);
  check_encoding<e5m2>(kE5m2);
  check_encoding<e5m6>(kE5m6);
}

TEST(Types, LargestValuesAndNaN) {
  EXPECT_EQ(static_cast<float>(e4m3(1e9f)), 448.0f);
  EXPECT_EQ(static_cast<float>(e5m2(-1e9f)), -57344.0f);
  EXPECT_EQ(static_cast<float>(e5m6(1e9f)), 130048.0f);
  EXPECT_EQ(static_cast<float>(fp16(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(static_cast<float>(fp16(65520.0f))));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(nan))));
  EXPECT_TRUE(std::isnan(static_cast<float>(fp16(nan))));
  EXPECT_TRUE(std::isnan(static_cast<float>(e4m3(nan))));
  EXPECT_TRUE(std::isnan(static_cast<float>(e5m2(nan))));
  EXPECT_EQ(static_cast<float>(e5m6(nan)), 130048.0f);  // it has no NaN
  // A NaN whose payload lies in the low bits only must not become infinity.
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Types, PowersOfTwoRoundUp) {
  for (uint32_t code = 0; code < 255; ++code) {
    const double value = std::pow(2.0, static_cast<int>(code) - 127);
    ASSERT_EQ(static_cast<double>(decode<ue8m0>(code)), value);
    const float exact = static_cast<float>(value);
    ASSERT_EQ(encode<ue8m0>(exact), code);
    const float above = std::nextafter(exact, std::numeric_limits<float>::infinity());
    ASSERT_EQ(encode<ue8m0>(above), code < 254 ? code + 1 : 254u);
    ASSERT_EQ(encode<ue8m0>(std::nextafter(exact, 0.0f)), code);
  }
  EXPECT_TRUE(std::isnan(decode<ue8m0>(255)));
  EXPECT_EQ(encode<ue8m0>(0.0f), 0u);
  EXPECT_EQ(encode<ue8m0>(std::numeric_limits<float>::denorm_min()), 0u);
  EXPECT_EQ(encode<ue8m0>(-1.0f), 255u);
  EXPECT_EQ(encode<ue8m0>(std::numeric_limits<float>::infinity()), 255u);
  EXPECT_EQ(encode<ue8m0>(std::numeric_limits<float>::quiet_NaN()), 255u);
}

TEST(Types, OracleSeesAWrongFormat) {
  // The oracle of a format with another bias disagrees at once.
  Format wrong = kE4m3;
  wrong.bias = 8;
  EXPECT_NE(oracle_value(wrong, 0x38), static_cast<double>(decode<e4m3>(0x38)));
  EXPECT_EQ(oracle_value(kE4m3, 0x38), 1.0);
}

TEST(Types, SizesAndNames) {
  EXPECT_EQ(dtype_bytes(DType::kF64) + dtype_bytes(DType::kI64), 16);
  EXPECT_EQ(dtype_bytes(DType::kF32) + dtype_bytes(DType::kI32), 8);
  EXPECT_EQ(dtype_bytes(DType::kBF16) + dtype_bytes(DType::kF16) + dtype_bytes(DType::kE5M6), 6);
  EXPECT_EQ(dtype_bytes(DType::kE4M3) + dtype_bytes(DType::kE5M2) + dtype_bytes(DType::kUE8M0) +
                dtype_bytes(DType::kU8),
            4);
  EXPECT_EQ(dtype_name(DType::kUE8M0), "ue8m0");
  EXPECT_EQ(dtype_of<bf16>, DType::kBF16);
}

}  // namespace
}  // namespace fathom
