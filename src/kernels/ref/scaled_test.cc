#include <limits>

#include "kernels/ref/ref.h"
#include "kernels/ref/scaled_elements.h"
#include "kernels/ref/tensor_core.h"
#include "kernels/scaled_test_tensor.h"

namespace fathom {
namespace {

// What a tile is, written from the definition: amax over all elements that share a scale index.
struct TileOracle {
  ScaleGrain grain;
  std::vector<int64_t> offsets;
  // A number that is the same exactly for elements of one tile.
  int64_t tile(int64_t row, int64_t col, int64_t cols) const {
    const int64_t across = col / 128, tiles_across = (cols + 127) / 128;
    switch (grain) {
      case ScaleGrain::kRow:
        return row * tiles_across + across;
      case ScaleGrain::kBlock:
        return row / 128 * tiles_across + across;
      case ScaleGrain::kTensor:
        return 0;
      default: {
        int64_t down = row / 128;
        if (!offsets.empty()) {
          down = 0;
          for (size_t e = 0; e + 1 < offsets.size(); ++e) {
            if (row < offsets[e + 1]) {
              down += (row - offsets[e]) / 128;
              break;
            }
            down += (offsets[e + 1] - offsets[e] + 127) / 128;
          }
        }
        return down * cols + col;
      }
    }
  }
};

float exact_scale(double amax, double largest, bool power_of_two) {
  const float s = std::max(static_cast<float>(amax), 1e-4f) / static_cast<float>(largest);
  return power_of_two ? static_cast<float>(std::exp2(std::ceil(std::log2(static_cast<double>(s)))))
                      : s;
}

TEST(RefQuantize, MatchesTheDefinitionTileByTile) {
  Context ctx(1, IsaLevel::kReference);
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 130}, {150, 7}, {257, 200}, {0, 5}}) {
    TestTensor x(DType::kF32, {rows, cols}, "x", 3);
    x.normal(1, 2.0);
    if (x.size() > 3) x.set(3, 1e4);  // an outlier
    for (const ScaleGrain grain :
         {ScaleGrain::kRow, ScaleGrain::kColumn, ScaleGrain::kBlock, ScaleGrain::kTensor}) {
      for (const bool power_of_two : {false, true}) {
        for (const bool ragged : {false, true}) {
          if (ragged && grain != ScaleGrain::kColumn) continue;
          TileOracle oracle{grain, {}};
          if (ragged) oracle.offsets = {0, rows / 3, rows / 3, rows};
          ScaledTensor y(DType::kE4M3, grain, rows, cols, oracle.offsets);
          quantize(ctx, {.x = plain(x),
                         .y = y,
                         .power_of_two = power_of_two,
                         .offsets = ragged ? oracle.offsets.data() : nullptr,
                         .num_experts = ragged ? 3 : 0});
          std::vector<double> amax(static_cast<size_t>((rows + 3) * (cols + 1) + 1), 0);
          for (int64_t i = 0; i < x.size(); ++i) {
            double& a = amax[static_cast<size_t>(oracle.tile(i / cols, i % cols, cols))];
            a = std::max(a, std::fabs(x[i]));
          }
          const std::vector<uint16_t> codes = y.codes();
          for (int64_t i = 0; i < x.size(); ++i) {
            const float s =
                exact_scale(amax[static_cast<size_t>(oracle.tile(i / cols, i % cols, cols))], 448,
                            power_of_two);
            ASSERT_EQ(y.scale(i / cols, i % cols), s) << "element " << i;
            ASSERT_EQ(codes[static_cast<size_t>(i)], e4m3(static_cast<float>(x[i]) / s).bits);
          }
          EXPECT_TRUE(y.guards_intact());
        }
      }
    }
  }
}

// SYSTEMS row 49: one outlier of 1e4 changes the values of its own tile only.
TEST(RefQuantize, AnOutlierChangesItsOwnTileOnly) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t rows = 4, cols = 512;
  TestTensor x(DType::kF32, {rows, cols}, "x");
  x.normal(2);
  ScaledTensor before(DType::kE4M3, ScaleGrain::kRow, rows, cols),
      after(DType::kE4M3, ScaleGrain::kRow, rows, cols);
  quantize(ctx, {.x = plain(x), .y = before});
  const int64_t outlier = 2 * cols + 300;  // tile 2 of row 2
  x.set(outlier, 1e4);
  quantize(ctx, {.x = plain(x), .y = after});
  int64_t changed = 0;
  for (int64_t i = 0; i < x.size(); ++i) {
    const bool same = before.value(i / cols, i % cols) == after.value(i / cols, i % cols);
    const bool in_tile = i / cols == 2 && i % cols / 128 == 2;
    EXPECT_TRUE(same || in_tile) << i;
    changed += same ? 0 : 1;
  }
  EXPECT_GT(changed, 100);
}

TEST(RefQuantize, ValuesThatAreNotFiniteShow) {
  Context ctx(1, IsaLevel::kReference);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    TestTensor x(DType::kF32, {2, 256}, "x");
    x.normal(3);
    x.set(130, bad);
    ScaledTensor y(DType::kE4M3, ScaleGrain::kRow, 2, 256);
    quantize(ctx, {.x = plain(x), .y = y});
    EXPECT_TRUE(std::isfinite(y.scale(0, 0)));
    EXPECT_TRUE(std::isnan(y.scale(0, 130)));
    TestTensor back(DType::kF32, {2, 256}, "back");
    dequantize(ctx, {.x = y, .y = back});
    EXPECT_TRUE(std::isnan(back[130]));
    EXPECT_TRUE(std::isnan(back[200]));
    EXPECT_FALSE(std::isnan(back[127]));
  }
}

// SYSTEMS row 58: with power-of-two scales, regrouping 1x128 to 128x1 keeps the value of every
// element that stays normal; with free scales it does not.
TEST(RefQuantize, RegroupingIsExactWithPowerOfTwoScalesOnly) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t rows = 256, cols = 256;
  TestTensor x(DType::kF32, {rows, cols}, "x");
  x.normal(4);
  for (const bool power_of_two : {true, false}) {
    ScaledTensor row(DType::kE5M6, ScaleGrain::kRow, rows, cols),
        column(DType::kE5M6, ScaleGrain::kColumn, rows, cols);
    quantize(ctx, {.x = plain(x), .y = row, .power_of_two = power_of_two});
    quantize(ctx, {.x = row, .y = column, .power_of_two = power_of_two});
    int64_t normal = 0, kept = 0;
    for (int64_t i = 0; i < x.size(); ++i) {
      const double value = row.value(i / cols, i % cols);
      if (std::fabs(value) / column.scale(i / cols, i % cols) < 0x1p-14) continue;
      ++normal;
      kept += value == column.value(i / cols, i % cols) ? 1 : 0;
    }
    EXPECT_GT(normal, x.size() * 99 / 100);
    if (power_of_two) {
      EXPECT_EQ(kept, normal) << "of " << x.size();
    } else {
      EXPECT_LT(kept, normal / 2);
    }
  }
}

// Products against fp64 sums of the dequantised values: 128 sums and one scaling per slice in fp32.
TEST(RefScaledGemm, MatchesSumsOfDequantisedProducts) {
  Context ctx(1, IsaLevel::kReference);
  for (const GemmLayout layout : {GemmLayout::kNt, GemmLayout::kNn, GemmLayout::kTn}) {
    const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
    for (const auto& [m, n, k] :
         std::vector<std::array<int64_t, 3>>{{3, 5, 300}, {130, 140, 129}, {1, 1, 1}, {2, 2, 0}}) {
      ScaledTensor a(DType::kE4M3, tn ? ScaleGrain::kColumn : ScaleGrain::kRow, tn ? k : m,
                     tn ? m : k),
          b(DType::kE4M3, tn ? ScaleGrain::kColumn : ScaleGrain::kBlock, nt ? n : k, nt ? k : n);
      a.quantize_normal(ctx, 5);
      b.quantize_normal(ctx, 6);
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const bool accumulate : {false, true}) {
          TestTensor c(out, {m, n}, "c", 2);
          if (accumulate) c.fill(0.75);
          scaled_gemm(ctx, {.layout = layout, .a = a, .b = b, .c = c, .accumulate = accumulate});
          std::vector<double> want, tolerance;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double sum = accumulate ? 0.75 : 0, magnitude = 1;
              for (int64_t l = 0; l < k; ++l) {
                const double product = static_cast<double>(tn ? a.value(l, i) : a.value(i, l)) *
                                       static_cast<double>(nt ? b.value(j, l) : b.value(l, j));
                sum += product;
                magnitude += std::fabs(product);
              }
              want.push_back(sum);
              tolerance.push_back((130 + static_cast<double>(k) / 128) * 0x1p-24 * magnitude +
                                  1.01 * unit_roundoff(out) * (std::fabs(sum) + 1));
            }
          }
          EXPECT_TRUE(near_all(c, want, tolerance));
        }
      }
    }
  }
}

// SYSTEMS row 50: scales along the wrong axis fail.
TEST(RefScaledGemm, WrongScalesAreSeen) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t k = 256, m = 4, n = 4;
  ScaledTensor a(DType::kE4M3, ScaleGrain::kRow, m, k), b(DType::kE4M3, ScaleGrain::kBlock, n, k);
  a.quantize_normal(ctx, 5);
  b.quantize_normal(ctx, 6);
  TestTensor right(DType::kF32, {m, n}, "right"), wrong(DType::kF32, {m, n}, "wrong");
  scaled_gemm(ctx, {.a = a, .b = b, .c = right});
  a.swap_scales(0, 1);
  scaled_gemm(ctx, {.a = a, .b = b, .c = wrong});
  EXPECT_FALSE(near_all(wrong, right.values(), 1e-3));
  ScaledView across = a;
  across.grain = ScaleGrain::kColumn;
  EXPECT_THROW(scaled_gemm(ctx, {.a = across, .b = b, .c = right}), std::logic_error);
}

TEST(RefScaledGemm, GroupedMatchesOneProductPerExpert) {
  Context ctx(1, IsaLevel::kReference);
  const std::vector<int64_t> offsets = {0, 3, 3, 140, 141};
  const int64_t E = 4, U = 141, wide = 130, narrow = 6;
  for (const GemmLayout layout : {GemmLayout::kNt, GemmLayout::kNn, GemmLayout::kTn}) {
    const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
    ScaledTensor a(DType::kE4M3, tn ? ScaleGrain::kColumn : ScaleGrain::kRow, U, wide,
                   tn ? offsets : std::vector<int64_t>{});
    a.quantize_normal(ctx, 7);
    ScaledTensor rows_b(DType::kE4M3, ScaleGrain::kColumn, U, narrow, offsets);
    rows_b.quantize_normal(ctx, 8);
    ScaledStack stack_b(DType::kE4M3, E, nt ? narrow : wide, nt ? wide : narrow);
    stack_b.quantize_normal(ctx, 9);
    TestTensor c(DType::kF32, tn ? Shape{E, wide, narrow} : Shape{U, narrow}, "c");
    scaled_grouped_gemm(ctx, {.layout = layout,
                              .a = a,
                              .b = tn ? ScaledView(rows_b) : ScaledView(stack_b),
                              .c = c,
                              .offsets = offsets.data(),
                              .num_experts = E});
    double worst = 0, largest = 0;
    for (int64_t e = 0; e < E; ++e) {
      const int64_t begin = offsets[static_cast<size_t>(e)],
                    end = offsets[static_cast<size_t>(e) + 1];
      for (int64_t i = 0; i < (tn ? wide : end - begin); ++i) {
        for (int64_t j = 0; j < narrow; ++j) {
          double sum = 0;
          if (tn) {
            for (int64_t u = begin; u < end; ++u)
              sum += static_cast<double>(a.value(u, i)) * static_cast<double>(rows_b.value(u, j));
          } else {
            for (int64_t l = 0; l < wide; ++l) {
              sum += static_cast<double>(a.value(begin + i, l)) *
                     static_cast<double>(nt ? stack_b.value(e, j, l) : stack_b.value(e, l, j));
            }
          }
          const int64_t at = tn ? (e * wide + i) * narrow + j : (begin + i) * narrow + j;
          worst = std::max(worst, std::fabs(c[at] - sum));
          largest = std::max(largest, std::fabs(sum));
        }
      }
    }
    EXPECT_GT(largest, 1.0);
    EXPECT_LT(worst, 132 * 0x1p-24 * 500);  // |products| of 130 unit normals sum to below 500
  }
}

// ---- The emulated tensor core

double relative_error(const Accumulator& accumulator, int64_t k, int seed, bool normal) {
  const Random random(static_cast<uint64_t>(seed), RandomPurpose::kTest);
  std::vector<double> products(static_cast<size_t>(k));
  double exact = 0;
  for (int64_t l = 0; l < k; ++l) {
    const auto draw = [&](int64_t i) {
      const double x = normal ? std::fabs(random.normal(static_cast<uint64_t>(i)))
                              : random.uniform(static_cast<uint64_t>(i));
      return static_cast<double>(static_cast<float>(e4m3(static_cast<float>(x * 256)))) / 256;
    };
    products[static_cast<size_t>(l)] = draw(2 * l) * draw(2 * l + 1);
    exact += products[static_cast<size_t>(l)];
  }
  const int64_t interval = accumulator.promotion > 0 ? accumulator.promotion : k;
  float total = 0;
  for (int64_t begin = 0; begin < k; begin += interval) {
    ref::TensorCoreSum sum(accumulator);
    for (int64_t l = begin; l < std::min(k, begin + interval); l += ref::kTensorCoreStep)
      sum.add(products.data() + l, ref::kTensorCoreStep);
    total += static_cast<float>(sum.value());
  }
  return std::fabs(static_cast<double>(total) - exact) / exact;
}

double worst_error(Accumulator accumulator, bool normal) {
  double worst = 0;
  for (int seed = 0; seed < 300; ++seed)
    worst = std::max(worst, relative_error(accumulator, 4096, seed, normal));
  return worst;
}

// SYSTEMS rows 54 and 55: the published brackets of SPEC C.10's table, to a third (the table is of
// another sample), and the promotion's gain.
TEST(TensorCore, ErrorsLieInTheBracketsOfTheTable) {
  using Model = Accumulator::Model;
  const struct {
    Model model;
    bool normal;
    double without, with;
  } kTable[] = {{Model::kAlignAll, false, 7.0e-2, 6.1e-4},
                {Model::kAlignProducts, false, 3.1e-3, 1.4e-4},
                {Model::kAlignAll, true, 7.4e-2, 7.4e-4},
                {Model::kAlignProducts, true, 3.6e-3, 1.4e-4}};
  for (const auto& row : kTable) {
    const double without = worst_error({row.model, 14, 0}, row.normal),
                 with = worst_error({row.model, 14, 128}, row.normal);
    EXPECT_NEAR(without / row.without, 1, 0.34) << without;
    EXPECT_NEAR(with / row.with, 1, 0.34) << with;
    EXPECT_GE(without, 10 * with);
  }
}

// SYSTEMS row 134: the error falls with every bit.
TEST(TensorCore, ErrorFallsWithTheWidth) {
  for (const auto model : {Accumulator::Model::kAlignAll, Accumulator::Model::kAlignProducts}) {
    double before = 1;
    for (const int bits : {12, 14, 18, 22, 24}) {
      const double error = worst_error({model, bits, 0}, true);
      EXPECT_LT(error, before) << bits;
      before = error;
    }
    EXPECT_LT(before, 1e-4);
  }
}

// SYSTEMS row 56: sums of 32 products of one sign need 34 bits to be right to a unit in the last
// place of fp32; with 14 they are more than a hundred such units off.
TEST(TensorCore, ThirtyFourBitsGiveAnFp32Sum) {
  const Random random(11, RandomPurpose::kTest);
  double worst[2] = {};
  uint64_t draw = 0;
  for (int group = 0; group < 20000; ++group) {
    double products[ref::kTensorCoreStep], exact = 0;
    for (double& product : products) {
      const auto code = [&] {
        // Any positive finite code: exponents over the whole range.
        return static_cast<double>(static_cast<float>(
            std::bit_cast<e4m3>(static_cast<uint8_t>(random.uniform(draw++) * 0x7e))));
      };
      product = code() * code();
      exact += product;
    }
    if (exact == 0) continue;
    const double ulp = std::ldexp(1, std::ilogb(exact) - 23);
    int i = 0;
    for (const int bits : {34, 14}) {
      ref::TensorCoreSum sum({Accumulator::Model::kAlignAll, bits, 0});
      sum.add(products, ref::kTensorCoreStep);
      worst[i] = std::max(worst[i], std::fabs(sum.value() - exact) / ulp);
      ++i;
    }
  }
  EXPECT_LE(worst[0], 1);
  EXPECT_GT(worst[1], 100);
}

TEST(TensorCore, RunsInsideTheProduct) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t m = 3, n = 4, k = 256;
  ScaledTensor a(DType::kE4M3, ScaleGrain::kRow, m, k), b(DType::kE4M3, ScaleGrain::kBlock, n, k);
  a.quantize_normal(ctx, 5);
  b.quantize_normal(ctx, 6);
  TestTensor exact(DType::kF32, {m, n}, "exact"), wide(DType::kF32, {m, n}, "wide"),
      narrow(DType::kF32, {m, n}, "narrow");
  using Model = Accumulator::Model;
  scaled_gemm(ctx, {.a = a, .b = b, .c = exact});
  scaled_gemm(ctx, {.a = a, .b = b, .c = wide, .accumulator = {Model::kAlignProducts, 36}});
  scaled_gemm(ctx, {.a = a, .b = b, .c = narrow, .accumulator = {Model::kAlignProducts, 10}});
  EXPECT_TRUE(near_all(wide, exact.values(), 1e-4));
  EXPECT_FALSE(near_all(narrow, exact.values(), 1e-2));
  // Scales that change every 128 cannot wait for the end.
  EXPECT_THROW(
      scaled_gemm(ctx, {.a = a, .b = b, .c = wide, .accumulator = {Model::kAlignAll, 14, 0}}),
      std::logic_error);
}

}  // namespace
}  // namespace fathom
