// The row kernels themselves, and which entry a level selects.
#include "kernels/cpu/row_kernels.h"

#include <bit>
#include <tuple>

#include "kernels/cpu/entry_walk.h"

namespace fathom {
namespace {

std::vector<const cpu::RowKernels*> row_kernels_here() {
  std::vector<const cpu::RowKernels*> all;
  if (runs_here(IsaLevel::kAvx2)) all.push_back(&cpu::kRowsAvx2);
  if (runs_here(IsaLevel::kAvx512)) all.push_back(&cpu::kRowsAvx512);
  return all;
}

// exp over every binade of both signs, and exact at the ends. Over all floats the worst error
// is 1.013 units in the last place, at 0x1.da72c4p+5.
TEST(RowExp, IsWithin102HundredthsOfAUnitInTheLastPlace) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    std::vector<float> x, y;
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 2999) {
      const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (std::fabs(value) <= 110) x.push_back(value);
    }
    x.push_back(0x1.da72c4p+5f);
    y.resize(x.size());
    rows->exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      if (want >= 0x1.ffffffp127) {
        ASSERT_TRUE(std::isinf(y[i])) << x[i];
        continue;
      }
      int exponent = 0;
      std::frexp(want, &exponent);
      const double unit = std::ldexp(1.0, std::max(exponent - 24, -149));
      worst = std::max(worst, std::fabs(y[i] - want) / unit);
    }
    RecordProperty("worst_error_in_units", std::to_string(worst));
    EXPECT_LT(worst, 1.02);
    const float special_in[] = {0.0f,  -0.0f,   INFINITY, -INFINITY, NAN,
                                89.0f, -105.0f, 1e30f,    -1e30f};
    float special[9];
    rows->exp(special_in, special, 9);
    const float want[] = {1, 1, INFINITY, 0, NAN, INFINITY, 0, INFINITY, 0};
    for (int i = 0; i < 9; ++i)
      EXPECT_TRUE(special[i] == want[i] || (i == 4 && std::isnan(special[i]))) << special_in[i];
  }
}

// Conversion to bf16: every upper half with the lower halves that decide the rounding.
TEST(RowCast, RoundsEveryKindOfNumberLikeTheScalarType) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    std::vector<float> x;
    for (uint32_t high = 0; high < 0x10000; ++high) {
      for (const uint32_t low : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
        x.push_back(std::bit_cast<float>(high << 16 | low));
    }
    std::vector<uint16_t> y(x.size());
    rows->cast[0][1](x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(y[i], bf16(x[i]).bits) << std::bit_cast<uint32_t>(x[i]);
    std::vector<float> back(y.size());
    rows->cast[1][0](y.data(), back.data(), static_cast<int64_t>(y.size()));
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), static_cast<uint32_t>(y[i]) << 16);
  }
}

TEST(RowArgmax, IsTheLowestOfTheLargestAndPassesOverNan) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    for (const int64_t n : {1, 7, 8, 9, 16, 17, 40}) {
      for (int64_t at = 0; at < n; ++at) {
        std::vector<float> x(static_cast<size_t>(n) + 8, 99.0f);  // beyond the end: larger than all
        for (int64_t i = 0; i < n; ++i)
          x[static_cast<size_t>(i)] = i < at ? -3.0f : i == at ? -1.0f : i % 3 == 0 ? NAN : -1.0f;
        EXPECT_EQ(rows->argmax(x.data(), n), at) << n;
      }
      const std::vector<float> none(static_cast<size_t>(n), -INFINITY),
          nans(static_cast<size_t>(n), NAN);
      EXPECT_EQ(rows->argmax(none.data(), n), -1);
      EXPECT_EQ(rows->argmax(nans.data(), n), -1);
    }
  }
}

TEST(Dispatch, Fp64RunsTheReferenceAtEveryLevel) {
  for (const IsaLevel level : supported_isa_levels()) {
    Context ctx(1, level);
    TestTensor x(DType::kF64, {2, 4}, "x"), y(DType::kF32, {2, 4}, "y"), w(DType::kF64, {4}, "w");
    EXPECT_STREQ(select_kernel(ctx, RmsNormForward{.x_TD = x, .w_D = w, .y_TD = x}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{x, y}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{y, x}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{y, y}).name, level == IsaLevel::kReference ? "ref"
                                                            : level == IsaLevel::kAvx2    ? "avx2"
                                                                                       : "avx512");
  }
}

// An entry that fell out of its table would otherwise go unnoticed: the walks test what is there.
TEST(Dispatch, EveryTableHoldsBothInstructionSetsAndTheReference) {
  int num_tables = 0;
  const auto expect_full = [&](const auto& entries) {
    ++num_tables;
    ASSERT_EQ(entries.size(), 3u);
    EXPECT_STREQ(entries[0].name, "avx512");
    EXPECT_EQ(entries[0].isa, IsaLevel::kAvx512);
    EXPECT_STREQ(entries[1].name, "avx2");
    EXPECT_EQ(entries[1].isa, IsaLevel::kAvx2);
    EXPECT_STREQ(entries[2].name, "ref");
    EXPECT_EQ(entries[2].isa, IsaLevel::kReference);
  };
  [&]<typename... Params>(std::tuple<Params...>*) {
    (expect_full(kernel_entries<Params>()), ...);
  }(static_cast<std::tuple<RmsNormForward, RmsNormBackward, RopeParams, SwigluForward,
                           SwigluBackward, RouterForward, RouterBackward, BalanceLossCall,
                           GatherRowsParams, CombineRowsParams, EmbeddingForwardParams,
                           EmbeddingBackwardParams, CrossEntropyParams, CastParams, AddParams,
                           ScaleParams, SumOfSquaresParams, AdamwParams>*>(nullptr));
  EXPECT_EQ(num_tables, 18);
  EXPECT_EQ(kernel_entries<DispatchPlan>().size(), 1u);
}

// Negative control of the walk itself: a wrong kernel must not pass.
TEST(Dispatch, TheComparisonSeesAKernelThatSkipsTheLastElement) {
  TestTensor want(DType::kF32, {33}, "y"), got(DType::kF32, {33}, "y");
  want.normal(1);
  for (int64_t i = 0; i < 32; ++i) got.set(i, want[i]);
  EXPECT_FALSE(near_all(got, want.values(), 1e30));
  got.set(32, want[32]);
  EXPECT_TRUE(near_all(got, want.values(), 0.0));
}

}  // namespace
}  // namespace fathom
