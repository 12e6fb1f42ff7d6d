// Products with weights in panels against the reference: to the bit where both operands are
// integers, and where activations are bf16 within the rounding of sums in another order. Every row
// alone has the bits that it has in a batch.
#include "kernels/cpu/entry_walk.h"
#include "kernels/panel_test_tensor.h"
#include "kernels/ref/ref.h"
#include "kernels/scaled_test_tensor.h"

namespace fathom {
namespace {

constexpr DType kFormats[] = {DType::kI8, DType::kI4x2};
// Rows: one tile of 12, its neighbours, two and a rest, so many that i8 is decoded into blocks.
// Panels of 16: one, an odd number, many. Depths: parts of groups, and more than a block of them.
constexpr int64_t kRows[] = {1, 2, 11, 12, 13, 29, 45, 46};
constexpr int64_t kCols[] = {16, 48, 160};
constexpr int64_t kDepths[] = {32, 96, 128, 416, 2208};

// Activations of either kind, wider in memory than the product is.
struct Activations {
  TestTensor plain_rows;
  ScaledTensor codes;
  bool integers;

  Activations(Context& ctx, bool of_i8, int64_t m, int64_t k)
      : plain_rows(DType::kBF16, {m, k}, "x", 5),
        codes(DType::kI8, ScaleGrain::kRow, m, k, {}, 5),
        integers(of_i8) {
    plain_rows.normal(3);
    ref::quantize(ctx, {.x = plain(plain_rows), .y = codes});
  }
  ScaledView view() const { return integers ? ScaledView(codes) : plain(plain_rows); }
};

const KernelEntry<ScaledGemmParams>& panel_entry() {
  return kernel_entries<ScaledGemmParams>().front();
}

// sum |a w| times the roundings of two orders of summation, and those of the result.
double tolerance(const ScaledView& a, const ScaledView& w, int64_t i, int64_t j, int64_t k,
                 DType dtype, double value) {
  double magnitude = 0;
  for (int64_t l = 0; l < k; ++l) {
    magnitude += std::fabs(static_cast<double>(ref::code_value(a, i, l)) *
                           static_cast<double>(panel_code(w, j, l) * panel_scale(w, j, l)));
  }
  return 2 * magnitude * static_cast<double>(k + k / 32 + 4) * kUnit +
         2.01 * unit_roundoff(dtype) * std::fabs(value);
}

TEST(PanelEntries, MatchTheReferenceOnEveryEdge) {
  if (!runs_here(IsaLevel::kAvx512Bf16)) GTEST_SKIP();
  Context& reference = test_context(IsaLevel::kReference, 1);
  for (const DType format : kFormats) {
    for (const bool integers : {false, true}) {
      for (const int64_t k : kDepths) {
        for (const int64_t n : kCols) {
          PanelTensor w(format, n, k);
          w.quantize_normal(reference, 4);
          for (const int64_t m : kRows) {
            const Activations x(reference, integers, m, k);
            const bool add = (m + n) % 32 > 16;
            const DType c_dtype = m % 2 == 0 ? DType::kBF16 : DType::kF32;
            TestTensor want(c_dtype, {m, n}, "want", 3);
            if (add) want.fill(0.75);
            TestTensor one = want, two = want;
            ref::scaled_gemm(reference, {.a = x.view(), .b = w, .c = want, .accumulate = add});
            ScaledGemmParams p{.a = x.view(), .b = w, .c = one, .accumulate = add};
            Context &one_thread = test_context(IsaLevel::kAvx512Bf16, 1),
                    &two_threads = test_context(IsaLevel::kAvx512Bf16, 2);
            ASSERT_EQ(&select_kernel(one_thread, p), &panel_entry());
            panel_entry().run(one_thread, p);
            p.c = two;
            panel_entry().run(two_threads, p);
            ASSERT_EQ(one.bytes(), two.bytes()) << "two threads give other bits";
            ASSERT_TRUE(one.guards_intact());
            if (integers) {
              ASSERT_EQ(one.bytes(), want.bytes()) << m << " " << n << " " << k;
              continue;
            }
            std::vector<double> bound;
            for (int64_t i = 0; i < m; ++i) {
              for (int64_t j = 0; j < n; ++j)
                bound.push_back(tolerance(x.view(), w, i, j, k, c_dtype, want[i * n + j]));
            }
            ASSERT_TRUE(near_all(one, want.values(), bound)) << m << " " << n << " " << k;
          }
        }
      }
    }
  }
}

TEST(PanelEntries, ARowHasItsBitsInAnyBatchAndAsAnExperts) {
  if (!runs_here(IsaLevel::kAvx512Bf16)) GTEST_SKIP();
  Context& ctx = test_context(IsaLevel::kAvx512Bf16, 2);
  constexpr int64_t m = 60, n = 80, k = 2208, E = 4;
  const int64_t offsets[] = {0, 1, 1, 16, m};
  for (const DType format : kFormats) {
    for (const bool integers : {false, true}) {
      const Activations x(test_context(IsaLevel::kReference, 1), integers, m, k);
      PanelTensor w(format, n, k, E);
      for (int64_t e = 0; e < E; ++e) w.quantize_normal(ctx, 30 + static_cast<uint64_t>(e), e);
      TestTensor grouped(DType::kF32, {m, n}, "grouped", 1);
      scaled_grouped_gemm(
          ctx, {.a = x.view(), .b = w, .c = grouped, .offsets = offsets, .num_experts = E});
      for (int64_t e = 0; e < E; ++e) {
        TestTensor batch(DType::kF32, {m, n}, "batch");
        scaled_gemm(ctx, {.a = x.view(), .b = w.expert(e), .c = batch});
        for (int64_t row = offsets[e]; row < offsets[e + 1]; ++row) {
          TestTensor alone(DType::kF32, {1, n}, "alone");
          scaled_gemm(
              ctx, {.a = ref::expert_rows(x.view(), row, 1, 0, 0), .b = w.expert(e), .c = alone});
          for (int64_t j = 0; j < n; ++j) {
            ASSERT_EQ(batch[row * n + j], alone[j]) << row << ", " << j;
            ASSERT_EQ(grouped[row * n + j], alone[j]) << row << ", " << j;
          }
        }
      }
      EXPECT_TRUE(grouped.guards_intact());
    }
  }
}

// Contracted over the rows of the weights (nn), one product and several side by side.
TEST(PanelEntries, ColumnsMatchTheReferenceOnEveryEdge) {
  if (!runs_here(IsaLevel::kAvx512Bf16)) GTEST_SKIP();
  Context &reference = test_context(IsaLevel::kReference, 1),
          &one_thread = test_context(IsaLevel::kAvx512Bf16, 1),
          &two_threads = test_context(IsaLevel::kAvx512Bf16, 2);
  for (const DType format : kFormats) {
    for (const int64_t k : {16, 48, 128}) {
      for (const int64_t n : {32, 96, 160, 288}) {
        PanelTensor w(format, k, n);
        w.quantize_normal(reference, 6);
        for (const int64_t m : {1, 2, 3, 8}) {
          const Activations x(reference, false, m, k);
          const bool add = (m + n / 32) % 2 == 1;
          const DType c_dtype = m % 2 == 0 ? DType::kBF16 : DType::kF32;
          TestTensor want(c_dtype, {m, n}, "want", 3);
          if (add) want.fill(0.75);
          TestTensor one = want, two = want;
          ScaledGemmParams p{
              .layout = GemmLayout::kNn, .a = x.view(), .b = w, .c = want, .accumulate = add};
          ref::scaled_gemm(reference, p);
          p.c = one;
          ASSERT_EQ(&select_kernel(one_thread, p), &panel_entry());
          panel_entry().run(one_thread, p);
          p.c = two;
          panel_entry().run(two_threads, p);
          ASSERT_EQ(one.bytes(), two.bytes()) << "two threads give other bits";
          ASSERT_TRUE(one.guards_intact());
          std::vector<double> bound;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double magnitude = add ? 0.75 : 0;
              for (int64_t l = 0; l < k; ++l) {
                const double value = panel_code(w, l, j) * panel_scale(w, l, j);
                magnitude +=
                    std::fabs(static_cast<double>(ref::code_value(x.view().codes, i, l)) * value);
              }
              bound.push_back(2 * magnitude * static_cast<double>(k + 4) * kUnit +
                              2.01 * unit_roundoff(c_dtype) * std::fabs(want[i * n + j]));
            }
          }
          ASSERT_TRUE(near_all(one, want.values(), bound)) << m << " " << n << " " << k;
          if (add || m == 1) continue;
          // A row alone has the same bits.
          TestTensor alone(c_dtype, {1, n}, "alone");
          for (int64_t i = 0; i < m; ++i) {
            p.a = ref::expert_rows(x.view(), i, 1, 0, 0);
            p.c = alone;
            panel_entry().run(two_threads, p);
            for (int64_t j = 0; j < n; ++j) ASSERT_EQ(alone[j], one[i * n + j]) << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST(PanelEntries, ProductsSideBySideAreThoseOneByOne) {
  if (!runs_here(IsaLevel::kAvx512Bf16)) GTEST_SKIP();
  Context& ctx = test_context(IsaLevel::kAvx512Bf16, 2);
  constexpr int64_t H = 3, m = 5, rows = 48, cols = 160;
  for (const DType format : kFormats) {
    PanelTensor w(format, rows, cols, H);
    for (int64_t h = 0; h < H; ++h) w.quantize_normal(ctx, 60 + static_cast<uint64_t>(h), h);
    for (const GemmLayout layout : {GemmLayout::kNt, GemmLayout::kNn}) {
      const bool nt = layout == GemmLayout::kNt;
      const int64_t n = nt ? rows : cols, k = nt ? cols : rows;
      // As attention has them: heads side by side in the rows of one matrix.
      TestTensor a(DType::kBF16, {m, H * k}, "a"), c(DType::kF32, {m, H * n}, "c");
      a.normal(9);
      const auto heads = [](const TensorView& all, int64_t width) {
        TensorView view(all.data, all.dtype, Shape{H, m, width}, "heads");
        view.stride[0] = width;
        view.stride[1] = all.stride[0];
        return view;
      };
      scaled_gemm(
          ctx,
          {.layout = layout, .a = {heads(a, k), {}, ScaleGrain::kNone}, .b = w, .c = heads(c, n)});
      for (int64_t h = 0; h < H; ++h) {
        TestTensor alone(DType::kF32, {m, n}, "alone");
        scaled_gemm(ctx, {.layout = layout,
                          .a = {TensorView(a).columns(h * k, k), {}, ScaleGrain::kNone},
                          .b = w.expert(h),
                          .c = alone});
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j)
            ASSERT_EQ(c[i * H * n + h * n + j], alone[i * n + j]) << h << " " << i << " " << j;
        }
      }
    }
  }
}

// Negative control of the comparisons above: one activation code off by one changes its row's bits
// and no other.
TEST(PanelEntries, OneCodeShows) {
  if (!runs_here(IsaLevel::kAvx512Bf16)) GTEST_SKIP();
  Context& ctx = test_context(IsaLevel::kAvx512Bf16, 1);
  PanelTensor w(DType::kI8, 32, 160);
  w.quantize_normal(ctx, 5);
  Activations x(ctx, true, 14, 160);
  TestTensor before(DType::kF32, {14, 32}, "before"), after(DType::kF32, {14, 32}, "after");
  scaled_gemm(ctx, {.a = x.view(), .b = w, .c = before});
  auto* code = static_cast<int8_t*>(x.view().codes.data) + 13 * x.view().codes.stride[0] + 159;
  *code = static_cast<int8_t>(*code > 0 ? *code - 1 : *code + 1);
  scaled_gemm(ctx, {.a = x.view(), .b = w, .c = after});
  int64_t changed = 0;
  for (int64_t i = 0; i < 14 * 32; ++i) {
    if (i < 13 * 32) {
      ASSERT_EQ(before[i], after[i]);
    }
    changed += before[i] != after[i];
  }
  EXPECT_GT(changed, 16);
}

}  // namespace
}  // namespace fathom
