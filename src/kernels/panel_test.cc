#include "kernels/panel.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/panel_test_tensor.h"
#include "kernels/ref/ref.h"
#include "kernels/scaled_test_tensor.h"

namespace fathom {
namespace {

constexpr DType kFormats[] = {DType::kI8, DType::kI4x2};

// The layout written a second time, from the page about the format: lines of 64 bytes, words of
// four, halves of 16 bits.
int raw_code(const ScaledView& v, int64_t row, int64_t col, int64_t cols) {
  const auto* bytes = static_cast<const uint8_t*>(v.codes.data);
  const int64_t per_line = v.codes.dtype == DType::kI8 ? 4 : 8;
  const uint8_t* line = bytes + (row / 16) * (cols / per_line * 64) + (col / per_line) * 64;
  const uint8_t* word = line + row % 16 * 4;
  if (v.codes.dtype == DType::kI8) {
    const int order[4] = {0, 2, 1, 3};
    return static_cast<int8_t>(word[order[col % 4]]);
  }
  const unsigned halves[2] = {word[0] | static_cast<unsigned>(word[1]) << 8,
                              word[2] | static_cast<unsigned>(word[3]) << 8};
  return kI4Codebook[(halves[col % 2] >> (4 * (col % 8 / 2))) & 15];
}

TEST(Panels, LieAsThePageSays) {
  Context ctx(2);
  for (const DType format : kFormats) {
    PanelTensor w(format, 48, 160);
    w.quantize_normal(ctx, 1);
    const ScaledView v = w;
    const int64_t group = format == DType::kI8 ? 128 : 32, groups = (160 + group - 1) / group;
    TestTensor y(DType::kF32, {48, 160}, "y", 3);
    dequantize_panels(ctx, v, y);
    for (int64_t i = 0; i < 48; ++i) {
      for (int64_t j = 0; j < 160; ++j) {
        const float scale = static_cast<float>(
            static_cast<const bf16*>(v.scales.data)[(i / 16 * groups + j / group) * 16 + i % 16]);
        ASSERT_EQ(y[i * 160 + j],
                  static_cast<double>(static_cast<float>(raw_code(v, i, j, 160)) * scale))
            << dtype_name(format) << " " << i << ", " << j;
      }
    }
    EXPECT_TRUE(y.guards_intact());
    EXPECT_EQ(v.codes.num_bytes() + v.scales.num_bytes(), panel_bytes(format, 48, 160));
  }
  EXPECT_EQ(panel_bytes(DType::kI8, 16, 128), 16 * (128 + 2));
  EXPECT_EQ(panel_bytes(DType::kI4x2, 16, 128), 16 * 128 * 9 / 16);  // 4.5 bits
}

TEST(Panels, EightBitCodesAreTheNearestToTheirScale) {
  Context ctx(1);
  TestTensor x(DType::kF32, {16, 160}, "x", 1);
  x.normal(2, 0.02);
  PanelTensor w(DType::kI8, 16, 160);
  quantize_panels(ctx, {.x = x, .y = w});
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t begin = 0; begin < 160; begin += 128) {
      const int64_t end = std::min<int64_t>(160, begin + 128);
      double amax = 0;
      for (int64_t j = begin; j < end; ++j) amax = std::max(amax, std::fabs(x[i * 160 + j]));
      const double scale = static_cast<double>(panel_scale(w, i, begin));
      EXPECT_GE(scale * 127, amax * (1 - 1e-6));
      EXPECT_LE(scale * 127, amax * (1 + 0x1p-7 + 1e-6));
      for (int64_t j = begin; j < end; ++j) {
        // Half a step, and the rounding of the quotient.
        EXPECT_NEAR(static_cast<double>(panel_code(w, i, j)) * scale, x[i * 160 + j],
                    scale * (0.5 + 127 * 0x1p-23));
      }
    }
  }
}

double group_error(const ScaledView& w, const TestTensor& x, const TestTensor* importance,
                   int64_t row, int64_t begin, int64_t cols) {
  double sum = 0;
  for (int64_t j = begin; j < begin + 32; ++j) {
    const double d =
        x[row * cols + j] - static_cast<double>(panel_code(w, row, j) * panel_scale(w, row, j));
    sum += d * d * (importance == nullptr ? 1.0 : (*importance)[j]);
  }
  return sum;
}

TEST(Panels, FourBitCodesAreTheNearestToTheirScale) {
  Context ctx(2);
  const int64_t rows = 64, cols = 256;
  TestTensor x(DType::kBF16, {rows, cols}, "x");
  x.normal(3, 0.02);
  PanelTensor w(DType::kI4x2, rows, cols);
  quantize_panels(ctx, {.x = x, .y = w});
  double error = 0, square = 0, plain_error = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const double scale = static_cast<double>(panel_scale(w, i, j)), value = x[i * cols + j];
      double nearest = 1e9;
      for (const int8_t number : kI4Codebook)
        nearest = std::min(nearest, std::fabs(value - scale * number));
      const double got = std::fabs(value - scale * static_cast<double>(panel_code(w, i, j)));
      EXPECT_LE(got, nearest + std::fabs(scale) * 1e-4);
      error += got * got;
      square += value * value;
    }
    for (int64_t begin = 0; begin < cols; begin += 32) {
      // The scale that needs no search: the largest element at the lower end.
      double largest = 0;
      for (int64_t j = begin; j < begin + 32; ++j) {
        if (std::fabs(x[i * cols + j]) > std::fabs(largest)) largest = x[i * cols + j];
      }
      for (int64_t j = begin; j < begin + 32; ++j) {
        double nearest = 1e9;
        for (const int8_t number : kI4Codebook)
          nearest = std::min(nearest, std::fabs(x[i * cols + j] - largest / -127 * number));
        plain_error += nearest * nearest;
      }
    }
  }
  RecordProperty("relative_error_per_mille", static_cast<int>(1000 * error / square));
  EXPECT_LT(error / square, 0.0060);  // the page says 0.0055 for normal data
  EXPECT_LT(error, 0.93 * plain_error);
}

TEST(Panels, HaveTheSameBitsOnEveryInstructionSet) {
  for (const DType format : kFormats) {
    TestTensor x(DType::kBF16, {48, 160}, "x"), importance(DType::kF32, {160}, "importance");
    x.normal(6, 0.02);
    x.set(3, 0.0);
    importance.normal(7);
    for (int64_t j = 0; j < 160; ++j) importance.set(j, 0.1 + std::fabs(importance[j]));
    std::string codes, scales;
    for (const IsaLevel isa : supported_isa_levels()) {
      Context ctx(1, isa);
      PanelTensor w(format, 48, 160);
      quantize_panels(ctx, {.x = x, .importance = importance, .y = w});
      const ScaledView v = w;
      const std::string got_codes(static_cast<const char*>(v.codes.data),
                                  static_cast<size_t>(v.codes.num_bytes())),
          got_scales(static_cast<const char*>(v.scales.data),
                     static_cast<size_t>(v.scales.num_bytes()));
      if (codes.empty()) {
        codes = got_codes;
        scales = got_scales;
      }
      EXPECT_EQ(got_codes, codes) << isa_name(isa);
      EXPECT_EQ(got_scales, scales) << isa_name(isa);
    }
  }
}

TEST(Panels, ImportanceMovesTheErrorToWhereItMattersLeast) {
  Context ctx(1);
  const int64_t rows = 32, cols = 128;
  TestTensor x(DType::kF32, {rows, cols}, "x"), importance(DType::kF32, {cols}, "importance");
  x.normal(4);
  for (int64_t j = 0; j < cols; ++j) importance.set(j, j % 4 == 0 ? 100.0 : 0.01);
  PanelTensor plain(DType::kI4x2, rows, cols), weighted(DType::kI4x2, rows, cols);
  quantize_panels(ctx, {.x = x, .y = plain});
  quantize_panels(ctx, {.x = x, .importance = importance, .y = weighted});
  double plain_weighted = 0, weighted_weighted = 0, plain_error = 0, weighted_error = 0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t begin = 0; begin < cols; begin += 32) {
      plain_weighted += group_error(plain, x, &importance, i, begin, cols);
      weighted_weighted += group_error(weighted, x, &importance, i, begin, cols);
      plain_error += group_error(plain, x, nullptr, i, begin, cols);
      weighted_error += group_error(weighted, x, nullptr, i, begin, cols);
    }
  }
  EXPECT_LT(weighted_weighted, 0.8 * plain_weighted);
  EXPECT_GT(weighted_error, plain_error);
}

TEST(Panels, ValuesThatAreNotFiniteShowAndZerosStay) {
  Context ctx(1);
  for (const DType format : kFormats) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      TestTensor x(DType::kF32, {16, 256}, "x");
      x.normal(5);
      x.set(3 * 256 + 130, bad);
      for (int64_t j = 0; j < 256; ++j) x.set(7 * 256 + j, 0);
      for (int64_t j = 0; j < 256; ++j) x.set(8 * 256 + j, j == 0 ? 1e-41 : 0);  // subnormal
      PanelTensor w(format, 16, 256);
      quantize_panels(ctx, {.x = x, .y = w});
      TestTensor y(DType::kF32, {16, 256}, "y");
      dequantize_panels(ctx, w, y);
      EXPECT_TRUE(std::isnan(y[3 * 256 + 130]));
      EXPECT_TRUE(std::isnan(y[3 * 256 + 150]));
      EXPECT_FALSE(std::isnan(y[3 * 256 + 127]));
      for (int64_t j = 0; j < 256; ++j) {
        EXPECT_EQ(y[7 * 256 + j], 0);
        EXPECT_NEAR(y[8 * 256 + j], 0, 1e-40);
      }
    }
  }
}

// The product against float64 over the values that codes and scales stand for. Each element: at
// most k roundings of relative size 2^-24 on sums bounded by sum |a w|, one more for each group,
// and one for a bf16 result.
testing::AssertionResult product_matches(const ScaledView& a, const ScaledView& w,
                                         const TestTensor& c, int64_t k) {
  const int64_t m = c.view().dim(0), n = c.view().dim(1);
  std::vector<double> want(static_cast<size_t>(m * n)), tolerance(want.size());
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double product = static_cast<double>(ref::code_value(a, i, l)) *
                               static_cast<double>(ref::scale_value(a, i, l)) *
                               static_cast<double>(panel_code(w, j, l)) *
                               static_cast<double>(panel_scale(w, j, l));
        sum += product;
        magnitude += std::fabs(product);
      }
      const auto at = static_cast<size_t>(i * n + j);
      want[at] = sum;
      tolerance[at] = magnitude * static_cast<double>(k + k / 32 + 4) * 0x1p-24 +
                      std::fabs(sum) * unit_roundoff(c.view().dtype);
    }
  }
  return near_all(c, want, tolerance);
}

TEST(PanelProduct, MatchesFloat64) {
  Context ctx(2);
  for (const DType format : kFormats) {
    for (const int64_t m : {0, 1, 5}) {
      for (const int64_t k : {32, 128, 224}) {
        PanelTensor w(format, 48, k);
        w.quantize_normal(ctx, 6);
        for (const DType dtype : {DType::kF32, DType::kBF16}) {
          TestTensor x(dtype, {m, k}, "x", 2), c(DType::kF32, {m, 48}, "c", 1),
              c16(DType::kBF16, {m, 48}, "c16", 1);
          x.normal(7);
          scaled_gemm(ctx, {.a = plain(x), .b = w, .c = c});
          EXPECT_TRUE(product_matches(plain(x), w, c, k)) << m << " " << k;
          scaled_gemm(ctx, {.a = plain(x), .b = w, .c = c16});
          EXPECT_TRUE(product_matches(plain(x), w, c16, k)) << m << " " << k;
          if (m == 0) continue;
          // Negative control: another panel's scale.
          PanelTensor broken = w;
          broken.swap_scales(0, 16);
          EXPECT_FALSE(product_matches(plain(x), broken, c, k));
        }
      }
    }
  }
}

// With codes on both sides every group's sum is an exact integer, so the product is defined to the
// last bit.
TEST(PanelProduct, OfIntegersHasTheBitsOfItsDefinition) {
  Context ctx(2);
  const int64_t m = 4, n = 32, k = 288;
  for (const DType format : kFormats) {
    PanelTensor w(format, n, k);
    w.quantize_normal(ctx, 8);
    ScaledTensor x(DType::kI8, ScaleGrain::kRow, m, k);
    x.quantize_normal(ctx, 9);
    TestTensor c(DType::kF32, {m, n}, "c", 1);
    scaled_gemm(ctx, {.a = x, .b = w, .c = c});
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float want = 0;
        for (int64_t begin = 0; begin < k; begin += panel_group(format)) {
          int64_t sum = 0;
          for (int64_t l = begin; l < std::min(k, begin + panel_group(format)); ++l)
            sum += static_cast<int64_t>(x.code(i, l)) * raw_code(w, j, l, k);
          want =
              std::fma(static_cast<float>(sum), x.scale(i, begin) * panel_scale(w, j, begin), want);
        }
        ASSERT_EQ(c[i * n + j], static_cast<double>(want)) << i << ", " << j;
      }
    }
    EXPECT_TRUE(c.guards_intact());
  }
}

// Rows do not depend on what else is in the batch, nor on being an expert's.
TEST(PanelProduct, OfExpertsIsTheProductOfEach) {
  Context ctx(2);
  const int64_t E = 3, n = 32, k = 160;
  const int64_t offsets[] = {0, 2, 2, 5};
  for (const DType format : kFormats) {
    for (const bool integers : {false, true}) {
      PanelTensor w(format, n, k, E);
      for (int64_t e = 0; e < E; ++e) w.quantize_normal(ctx, 10 + static_cast<uint64_t>(e), e);
      TestTensor x(DType::kBF16, {5, k}, "x");
      x.normal(20);
      ScaledTensor codes(DType::kI8, ScaleGrain::kRow, 5, k);
      quantize(ctx, {.x = plain(x), .y = codes});
      const ScaledView a = integers ? ScaledView(codes) : plain(x);
      TestTensor c(DType::kF32, {5, n}, "c", 1);
      scaled_grouped_gemm(ctx, {.a = a, .b = w, .c = c, .offsets = offsets, .num_experts = E});
      for (int64_t row = 0; row < 5; ++row) {
        TestTensor one(DType::kF32, {1, n}, "one");
        scaled_gemm(
            ctx,
            {.a = ref::expert_rows(a, row, 1, 0, 0), .b = w.expert(row < 2 ? 0 : 2), .c = one});
        for (int64_t j = 0; j < n; ++j) ASSERT_EQ(c[row * n + j], one[j]) << row << ", " << j;
      }
      EXPECT_TRUE(c.guards_intact());
    }
  }
}

// The message of the check that fails.
std::string failure(Context& ctx, const ScaledGemmParams& p) {
  try {
    scaled_gemm(ctx, p);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "nothing failed";
}

TEST(PanelProduct, WrongOperandsAreNamed) {
  Context ctx(1);
  PanelTensor w(DType::kI8, 16, 64);
  w.quantize_normal(ctx, 1);
  TestTensor x(DType::kF32, {2, 64}, "activations"), c(DType::kF32, {2, 16}, "c");
  x.normal(1);
  ScaledView short_scales = w;
  short_scales.scales.shape.dim[1] = 3;
  EXPECT_NE(failure(ctx, {.a = plain(x), .b = short_scales, .c = c}).find("panel_scales"),
            std::string::npos);
  ScaledView wide_scales = w;
  wide_scales.scales.dtype = DType::kF32;
  EXPECT_NE(failure(ctx, {.a = plain(x), .b = wide_scales, .c = c}).find("bf16"),
            std::string::npos);
  TestTensor odd(DType::kF32, {2, 63}, "odd");
  odd.normal(1);
  EXPECT_NE(failure(ctx, {.a = plain(odd), .b = w, .c = c}).find("63"), std::string::npos);
}

}  // namespace
}  // namespace fathom
