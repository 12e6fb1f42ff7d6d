// Every entry of gemm and grouped_gemm against sums in float64, for sizes around every tile edge.
// Inputs lie in wider tensors whose other columns are NaN, outputs and scratch start as NaN, so
// whatever is read or left out beside the operands shows.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/gemm_blocked.h"
#include "kernels/cpu/test_operand.h"
#include "kernels/panel.h"

namespace fathom {
namespace {

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {
    {DType::kF32, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kF32}};
constexpr GemmLayout kLayouts[] = {GemmLayout::kNt, GemmLayout::kNn, GemmLayout::kTn};
constexpr double kOld = 0.75;  // what c holds before an accumulating product

// c and the sum of |a||b|, which bounds its rounding.
struct Expected {
  std::vector<double> c, magnitude;
};
Expected multiply_f64(GemmLayout layout, const double* a, const double* b, int64_t m, int64_t n,
                      int64_t k) {
  Expected e{std::vector<double>(static_cast<size_t>(m * n)),
             std::vector<double>(static_cast<size_t>(m * n))};
  for (int64_t l = 0; l < k; ++l) {
    for (int64_t i = 0; i < m; ++i) {
      const double av = layout == GemmLayout::kTn ? a[l * m + i] : a[i * k + l];
      for (int64_t j = 0; j < n; ++j) {
        const double product = av * (layout == GemmLayout::kNt ? b[j * k + l] : b[l * n + j]);
        e.c[static_cast<size_t>(i * n + j)] += product;
        e.magnitude[static_cast<size_t>(i * n + j)] += std::fabs(product);
      }
    }
  }
  return e;
}

// A sum of k products in fp32, in any order, is off by at most k 2^-24 times the sum of magnitudes
// (to first order; VDPBF16PS takes denormals as zero, which adds k 2^-126), adding the old value
// rounds once more, and so does the output format.
double tolerance(double value, double magnitude, const Types& types, int64_t k, bool accumulate) {
  const double sum =
      0x1p-24 * (static_cast<double>(k + 2) * magnitude + (accumulate ? std::fabs(value) : 0));
  return sum + unit_roundoff(types.out) * 1.01 * std::fabs(value) + 0x1p-110;
}

// The largest error in units of its tolerance.
double margin_of(const Operand& c, const Expected& e, const Types& types, int64_t k,
                 bool accumulate) {
  std::vector<double> want, tolerances;
  for (size_t i = 0; i < e.c.size(); ++i) {
    want.push_back(e.c[i] + (accumulate ? kOld : 0));
    tolerances.push_back(tolerance(want.back(), e.magnitude[i], types, k, accumulate));
  }
  return worst_margin(c.values(), want, tolerances);
}

struct Sizes {
  int64_t m, n, k;
};

std::vector<Sizes> edge_sizes() {
  std::vector<Sizes> sizes = {{1, 1, 1},      {0, 3, 2},      {3, 0, 2},      {4, 5, 0},
                              {1, 257, 2049}, {1, 40, 4098},  {200, 33, 5},   {30, 200, 7},
                              {15, 17, 4097}, {70, 70, 2100}, {29, 600, 2051}};
  const int64_t edges[] = {1,  2,  3,  7,  8,  13, 14, 15, 16,  17,  31,
                           32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129};
  const Random random(5, RandomPurpose::kTest);
  for (uint64_t i = 0; i < 24; ++i) {
    const auto pick = [&](uint64_t j) { return edges[random.below(3 * i + j, std::size(edges))]; };
    sizes.push_back({pick(0), pick(1), pick(2)});
  }
  return sizes;
}

class Gemm : public ::testing::TestWithParam<GemmLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, Gemm, ::testing::ValuesIn(kLayouts));

struct Operands {
  Operands(GemmLayout layout, const Types& types, const Sizes& s)
      : a(types.in, layout == GemmLayout::kTn ? Shape{s.k, s.m} : Shape{s.m, s.k}, "a"),
        b(types.in, layout == GemmLayout::kNt ? Shape{s.n, s.k} : Shape{s.k, s.n}, "b") {
    a.normal(1);
    b.normal(2);
  }
  Operand a, b;
};

Operand output(DType dtype, const Sizes& s, bool accumulate) {
  Operand c(dtype, {s.m, s.n}, "c");
  if (accumulate) c.fill(kOld);
  return c;
}

TEST_P(Gemm, EveryEntryMatchesFloat64AtEveryEdge) {
  const GemmLayout layout = GetParam();
  Context one(1), two(2);
  double worst = 0;
  int num_runs = 0;
  for (const Types& types : kTypes) {
    for (const Sizes& s : edge_sizes()) {
      const Operands in(layout, types, s);
      const Expected e =
          multiply_f64(layout, in.a.values().data(), in.b.values().data(), s.m, s.n, s.k);
      for (const bool accumulate : {false, true}) {
        for (const auto& entry :
             fast_entries(GemmParams{layout, in.a.view(), in.b.view(), TensorView{}})) {
          Operand c = output(types.out, s, accumulate), again = output(types.out, s, accumulate);
          poison_scratch(one);
          poison_scratch(two);
          entry.run(one, {layout, in.a.view(), in.b.view(), c.view(), accumulate});
          entry.run(two, {layout, in.a.view(), in.b.view(), again.view(), accumulate});
          const double margin = margin_of(c, e, types, s.k, accumulate);
          ASSERT_LE(margin, 1) << entry.name << " m " << s.m << " n " << s.n << " k " << s.k
                               << " out " << dtype_name(types.out) << " accumulate " << accumulate;
          ASSERT_TRUE(c.untouched_beside())
              << entry.name << " m " << s.m << " n " << s.n << " k " << s.k;
          ASSERT_EQ(c.bytes(), again.bytes())
              << entry.name << ": bits depend on the number of threads";
          if (types.out == DType::kF32)
            worst = std::max(worst, margin);  // bf16 reaches half a unit by rounding
          ++num_runs;
        }
      }
    }
  }
  std::printf("worst fp32 error %.3f of its tolerance; %d products\n", worst, num_runs);
}

// The comparison sees one missing product of k, a transposed operand, and a dropped old value.
TEST_P(Gemm, ComparisonSeesMistakes) {
  const GemmLayout layout = GetParam();
  const Types types{DType::kBF16, DType::kBF16};
  const Sizes s{33, 33, 33};
  const Operands in(layout, types, s);
  Context ctx(1);
  const auto margin = [&](const TensorView& a, const TensorView& b, bool accumulate) {
    Operand c = output(types.out, s, false);
    gemm(ctx, {layout, a, b, c.view()});
    return margin_of(
        c, multiply_f64(layout, in.a.values().data(), in.b.values().data(), s.m, s.n, s.k), types,
        s.k, accumulate);
  };
  EXPECT_LE(margin(in.a.view(), in.b.view(), false), 1);
  EXPECT_GT(margin(in.a.view(), in.b.view(), true), 1);
  const bool k_first_a = layout == GemmLayout::kTn, k_first_b = layout != GemmLayout::kNt;
  EXPECT_GT(margin(k_first_a ? in.a.view().rows(0, 32) : in.a.view().columns(0, 32),
                   k_first_b ? in.b.view().rows(0, 32) : in.b.view().columns(0, 32), false),
            1);
  EXPECT_GT(margin(in.b.view(), in.a.view(), false), 1);
}

// NaN and infinity go through, as IEEE says, and only where they belong.
TEST_P(Gemm, NonFiniteInputsReachTheirOutputsOnly) {
  const GemmLayout layout = GetParam();
  const Sizes s{20, 40, 9};
  for (const Types& types : kTypes) {
    Operands in(layout, types, s);
    const int64_t row = 17, column = 35;
    in.a.set(layout == GemmLayout::kTn ? 3 * s.m + row : row * s.k + 3, NAN);
    in.b.set(layout == GemmLayout::kNt ? column * s.k + 8 : 8 * s.n + column, INFINITY);
    Context ctx(1);
    for (const auto& entry :
         fast_entries(GemmParams{layout, in.a.view(), in.b.view(), TensorView{}})) {
      Operand c = output(types.out, s, false);
      entry.run(ctx, {layout, in.a.view(), in.b.view(), c.view()});
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < s.n; ++j) {
          const double value = c[i * s.n + j];
          EXPECT_EQ(std::isnan(value), i == row) << entry.name << i << "," << j;
          EXPECT_EQ(std::isinf(value), i != row && j == column) << entry.name << i << "," << j;
        }
      }
    }
  }
}

// A row gives the same bits whatever else is in the batch.
TEST(GemmInvariance, ARowDoesNotDependOnTheOthers) {
  const Sizes s{150, 130, 2300};
  for (const Types& types : kTypes) {
    const Operands in(GemmLayout::kNt, types, s);
    Context ctx(2);
    for (const auto& entry :
         fast_entries(GemmParams{GemmLayout::kNt, in.a.view(), in.b.view(), TensorView{}})) {
      Operand all = output(types.out, s, false);
      entry.run(ctx, {GemmLayout::kNt, in.a.view(), in.b.view(), all.view()});
      for (const int64_t count : {1, 3, 16, 140}) {
        Operand few = output(types.out, {count, s.n, s.k}, false);
        entry.run(ctx, {GemmLayout::kNt, in.a.view().rows(5, count), in.b.view(), few.view()});
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t j = 0; j < s.n; ++j) {
            ASSERT_EQ(few[i * s.n + j], all[(5 + i) * s.n + j]) << entry.name << " " << count;
          }
        }
      }
    }
  }
}

// A product whose shared panels do not fit into one batch or one job is cut, and gives the same
// bits.
TEST(GemmBatches, SmallBudgetGivesTheSameBits) {
  if (supported_isa_levels().back() < IsaLevel::kAvx2) GTEST_SKIP() << "no AVX2";
  Context ctx(2);
  for (const GemmLayout layout : kLayouts) {
    const Sizes s{100, 90, 2200};
    const Operands in(layout, kTypes[1], s);
    Operand whole = output(DType::kBF16, s, false), cut = output(DType::kBF16, s, false);
    const auto run = [&](Operand& c, int64_t batch_bytes, int64_t job_bytes) {
      cpu::Product p{
          in.a.view().data,      in.b.view().data,      c.view().data,      s.m, s.n, s.k,
          in.a.view().stride[0], in.b.view().stride[0], c.view().stride[0], {},  {}};
      cpu::multiply(ctx, cpu::kGemmAvx2,
                    {.layout = layout,
                     .a_source = cpu::kSourceBf16,
                     .b_source = cpu::kSourceBf16,
                     .c_bf16 = true,
                     .batch_panel_bytes = batch_bytes,
                     .job_panel_bytes = job_bytes},
                    &p, 1);
    };
    run(whole, cpu::kBatchPanelBytes, cpu::kJobPanelBytes);
    for (const int64_t batch_bytes : {int64_t{1000}, int64_t{100000}, cpu::kBatchPanelBytes}) {
      for (const int64_t job_bytes : {int64_t{1000}, int64_t{300000}, cpu::kJobPanelBytes}) {
        run(cut, batch_bytes, job_bytes);
        EXPECT_EQ(whole.bytes(), cut.bytes()) << batch_bytes << " " << job_bytes;
      }
    }
  }
}

class GroupedGemm : public ::testing::TestWithParam<GemmLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, GroupedGemm, ::testing::ValuesIn(kLayouts));

// An expert's tensors [E, x, y] with NaN columns beside, as a view of its rows.
TensorView by_expert(const Operand& t, int64_t num_experts) {
  TensorView v = t.view();
  const int64_t rows = t.view().dim(0) / num_experts;
  v.shape = Shape{num_experts, rows, t.view().dim(1)};
  v.stride = {rows * t.view().stride[0], t.view().stride[0], 1};
  return v;
}

TEST_P(GroupedGemm, EveryEntryEqualsOneProductPerExpert) {
  const GemmLayout layout = GetParam();
  const bool weight_gradient = layout == GemmLayout::kTn;
  Context one(1), two(2);
  const std::vector<std::vector<int64_t>> partitions = {{0, 5, 5, 38, 39, 140},
                                                        {0, 0, 0, 77, 77, 77},
                                                        {0, 0, 0, 0, 0, 0},
                                                        {0, 1, 2, 3, 4, 5},
                                                        {0, 15, 47, 560, 561, 590}};
  for (const Types& types : kTypes) {
    for (const std::vector<int64_t>& offsets : partitions) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{33, 47}, {64, 14}, {1, 2051}}) {
        const int64_t num_experts = 5, rows = offsets.back();
        // nt and nn: c[U, n] = a[U, k] b_e; tn: c_e[k, n] = a[U, k]^T b[U, n].
        Operand a(types.in, {rows, k}, "a");
        Operand b(types.in,
                  {weight_gradient ? rows : num_experts * (layout == GemmLayout::kNt ? n : k),
                   layout == GemmLayout::kNt ? k : n},
                  "b");
        a.normal(3);
        b.normal(4);
        const Sizes c_sizes{weight_gradient ? num_experts * k : rows, n, 0};
        for (const bool accumulate : {false, true}) {
          const auto params = [&](const Operand& c) {
            return GroupedGemmParams{.layout = layout,
                                     .a = a.view(),
                                     .b = weight_gradient ? b.view() : by_expert(b, num_experts),
                                     .c = weight_gradient ? by_expert(c, num_experts) : c.view(),
                                     .offsets = offsets.data(),
                                     .num_experts = num_experts,
                                     .accumulate = accumulate};
          };
          Operand want = output(types.out, c_sizes, accumulate);
          for (const auto& entry : fast_entries(params(want))) {
            // The dense entry of the same name was tested above and must agree in every bit.
            want = output(types.out, c_sizes, accumulate);
            const GroupedGemmParams p = params(want);
            for (int64_t e = 0; e < num_experts; ++e) {
              const int64_t begin = offsets[static_cast<size_t>(e)],
                            count = offsets[static_cast<size_t>(e) + 1] - begin;
              const GemmParams dense{layout, p.a.rows(begin, count),
                                     weight_gradient ? p.b.rows(begin, count) : p.b.at(e),
                                     weight_gradient ? p.c.at(e) : p.c.rows(begin, count),
                                     accumulate};
              for (const auto& dense_entry : fast_entries(dense)) {
                if (std::string_view(dense_entry.name) == entry.name) dense_entry.run(one, dense);
              }
            }
            for (Context* ctx : {&one, &two}) {
              Operand c = output(types.out, c_sizes, accumulate);
              poison_scratch(*ctx);
              entry.run(*ctx, params(c));
              ASSERT_EQ(c.bytes(), want.bytes())
                  << entry.name << " rows " << rows << " n " << n << " k " << k;
              ASSERT_TRUE(c.untouched_beside());
            }
          }
        }
      }
    }
  }
}

// Columns of one tensor as matrices side by side: [x, count * y] as [count, x, y].
TensorView side_by_side(const Operand& t, int64_t count) {
  TensorView v = t.view();
  const int64_t columns = v.dim(1) / count;
  v.shape = Shape{count, v.dim(0), columns};
  v.stride = {columns, t.view().stride[0], 1};
  return v;
}

// The heads of a few tokens: a leading dimension, rows far apart. The reference too.
TEST_P(Gemm, ProductsSideBySideEqualOneAfterTheOther) {
  const GemmLayout layout = GetParam();
  constexpr int64_t kCount = 3;
  Context one(1), two(2);
  for (const Types& types : kTypes) {
    for (const Sizes& s :
         {Sizes{1, 70, 33}, Sizes{17, 5, 2200}, Sizes{1, 1, 1}, Sizes{40, 33, 2}}) {
      const bool a_by_k = layout == GemmLayout::kTn, b_by_n = layout == GemmLayout::kNt;
      Operand a(types.in, {a_by_k ? s.k : s.m, kCount * (a_by_k ? s.m : s.k)}, "a");
      Operand b(types.in, {kCount * (b_by_n ? s.n : s.k), b_by_n ? s.k : s.n}, "b");
      a.normal(6);
      b.normal(7);
      for (const bool accumulate : {false, true}) {
        const auto params = [&](const Operand& c) {
          return GemmParams{layout, side_by_side(a, kCount), by_expert(b, kCount),
                            side_by_side(c, kCount), accumulate};
        };
        const Sizes c_sizes{s.m, kCount * s.n, 0};
        Operand none = output(types.out, c_sizes, accumulate);
        for (const auto& entry : kernel_entries<GemmParams>()) {
          if (entry.isa > supported_isa_levels().back() || !entry.supports(params(none))) continue;
          Operand want = output(types.out, c_sizes, accumulate);
          const GemmParams p = params(want);
          for (int64_t i = 0; i < kCount; ++i)
            entry.run(one, {layout, p.a.at(i), p.b.at(i), p.c.at(i), accumulate});
          for (Context* ctx : {&one, &two}) {
            Operand c = output(types.out, c_sizes, accumulate);
            poison_scratch(*ctx);
            entry.run(*ctx, params(c));
            ASSERT_EQ(c.bytes(), want.bytes()) << entry.name << " m " << s.m;
            ASSERT_TRUE(c.untouched_beside());
          }
        }
      }
    }
  }
}

// Panels of bf16 are another place for the same numbers: no bit changes, dense or by expert, and
// the reference agrees as far as its order of summation allows.
TEST(Bf16Panels, ProductsAreThoseOfPlainRows) {
  if (!has_loaded_panels(supported_isa_levels().back())) GTEST_SKIP() << "no AVX-512 BF16";
  Context one(1), two(2);
  const auto random_weights = [](int64_t rows, int64_t cols) {
    TestTensor w(DType::kBF16, {rows, cols}, "w");
    return std::move(w.normal(9));
  };
  for (const DType out : {DType::kBF16, DType::kF32}) {
    for (const Sizes& s :
         {Sizes{1, 16, 32}, Sizes{1, 48, 2080}, Sizes{2, 32, 512}, Sizes{3, 80, 96},
          Sizes{12, 64, 4128}, Sizes{13, 64, 4128}, Sizes{16, 48, 2080}, Sizes{17, 48, 2080},
          Sizes{150, 176, 2080}, Sizes{0, 16, 32}}) {
      const TestTensor plain = random_weights(s.n, s.k);
      const TestTensor panels = random_weights(s.n, s.k);
      to_panels(two, panels);
      ASSERT_NE(plain.bytes(), panels.bytes());
      Operand a(DType::kBF16, {s.m, s.k}, "a");
      a.normal(8);
      for (const bool accumulate : {false, true}) {
        Operand want = output(out, s, accumulate), reference = output(out, s, accumulate);
        gemm(one, {.a = a.view(), .b = plain, .c = want.view(), .accumulate = accumulate});
        const auto params = [&](const Operand& c) {
          return ScaledGemmParams{.a = {a.view(), {}, ScaleGrain::kNone},
                                  .b = {panels, {}, ScaleGrain::kPanel},
                                  .c = c.view(),
                                  .accumulate = accumulate};
        };
        kernel_entries<ScaledGemmParams>().back().run(one, params(reference));
        for (int64_t i = 0; i < want.size(); ++i)
          ASSERT_NEAR(reference[i], want[i], 0.01 * (1 + std::fabs(want[i]))) << s.m << "," << s.n;
        for (Context* ctx : {&one, &two}) {
          Operand c = output(out, s, accumulate);
          poison_scratch(*ctx);
          scaled_gemm(*ctx, params(c));
          ASSERT_EQ(c.bytes(), want.bytes()) << s.m << "," << s.n << "," << s.k;
        }
      }
    }
  }
  const int64_t n = 48, k = 160, num_experts = 4;
  const TestTensor plain = random_weights(num_experts * n, k),
                   panels = random_weights(num_experts * n, k);
  to_panels(two, panels);
  const auto stacked = [&](const TestTensor& w) {
    return TensorView(w.view().data, DType::kBF16, Shape{num_experts, n, k}, "w_EXD");
  };
  for (const std::vector<int64_t>& offsets :
       {std::vector<int64_t>{0, 1, 1, 2, 3}, {0, 40, 41, 41, 60}}) {
    Operand a(DType::kBF16, {offsets.back(), k}, "a");
    a.normal(8);
    Operand want = output(DType::kBF16, {offsets.back(), n, k}, false);
    grouped_gemm(one, {.a = a.view(),
                       .b = stacked(plain),
                       .c = want.view(),
                       .offsets = offsets.data(),
                       .num_experts = num_experts});
    Operand c = output(DType::kBF16, {offsets.back(), n, k}, false);
    scaled_grouped_gemm(two, {.a = {a.view(), {}, ScaleGrain::kNone},
                              .b = {stacked(panels), {}, ScaleGrain::kPanel},
                              .c = c.view(),
                              .offsets = offsets.data(),
                              .num_experts = num_experts});
    ASSERT_EQ(c.bytes(), want.bytes());
  }
}

// Several products side by side: heads of tokens, rows apart and strided, weights apart.
TEST(Bf16Panels, ProductsSideBySideAreThoseOfEach) {
  if (!has_loaded_panels(supported_isa_levels().back())) GTEST_SKIP() << "no AVX-512 BF16";
  Context one(1), two(2);
  const int64_t H = 3, N = 32, C = 48, Z = 64;
  for (const int64_t T : {1, 2, 9, 17, 40}) {
    TestTensor w(DType::kBF16, {H, Z, N}, "w"), q(DType::kBF16, {T, H * Z}, "q");
    w.normal(3);
    q.normal(4);
    const auto heads = [&](const TensorView& x, int64_t width) {
      TensorView v(x.data, DType::kBF16, Shape{H, T, width}, "heads");
      v.stride[0] = x.dim(1) / H;
      v.stride[1] = x.dim(1);
      return v;
    };
    TestTensor want(DType::kBF16, {T, H * C}, "want"), got(DType::kBF16, {T, H * C}, "got");
    TestTensor reference(DType::kBF16, {T, H * C}, "reference");
    TensorView b(w.view().data, DType::kBF16, Shape{H, C, N}, "b");
    b.stride[0] = Z * N;
    gemm(one, {.a = heads(q, N), .b = b, .c = heads(want, C)});
    to_panels(one, w.view().reshaped(Shape{H * Z, N}));
    const ScaledGemmParams params{.a = {heads(q, N), {}, ScaleGrain::kNone},
                                  .b = {b, {}, ScaleGrain::kPanel},
                                  .c = heads(got, C)};
    poison_scratch(two);
    scaled_gemm(two, params);
    EXPECT_EQ(got.bytes(), want.bytes()) << T;
    EXPECT_TRUE(got.guards_intact());
    ScaledGemmParams by_reference = params;
    by_reference.c = heads(reference, C);
    kernel_entries<ScaledGemmParams>().back().run(one, by_reference);
    for (int64_t i = 0; i < want.size(); ++i)
      ASSERT_NEAR(reference[i], want[i], 0.01 * (1 + std::fabs(want[i]))) << T;
  }
}

// Panels of FP8 codes: what the same codes give as they lie in files, for few rows and many, over
// slices that are not full, dense or by expert.
TEST(CodePanels, ProductsAreThoseOfBlocks) {
  if (!has_loaded_panels(supported_isa_levels().back())) GTEST_SKIP() << "no AVX-512 BF16";
  Context one(1), two(2);
  struct Blocks {
    TestTensor codes, scales;
    ScaledView view(ScaleGrain grain) const {
      ScaledView v{codes, scales, grain};
      return v;
    }
  };
  const auto blocks = [&](Context& ctx, int64_t rows, int64_t cols, bool panels) {
    TestTensor x(DType::kF32, {rows, cols}, "x");
    x.normal(9, 0.05);
    const Shape scales = scale_shape(ScaleGrain::kBlock, rows, cols);
    Blocks b{TestTensor(DType::kE4M3, {rows, cols}, "codes"),
             TestTensor(DType::kF32, {scales[0], scales[1]}, "scales")};
    quantize(ctx, {.x = {x, {}, ScaleGrain::kNone}, .y = b.view(ScaleGrain::kBlock)});
    if (panels) to_panels(ctx, b.codes);
    return b;
  };
  for (const DType out : {DType::kBF16, DType::kF32}) {
    for (const Sizes& s :
         {Sizes{1, 16, 32}, Sizes{1, 48, 2080}, Sizes{2, 160, 512}, Sizes{3, 80, 96},
          Sizes{8, 64, 1056}, Sizes{9, 272, 4256}, Sizes{16, 48, 2080}, Sizes{17, 48, 2080},
          Sizes{150, 176, 2080}, Sizes{0, 16, 32}}) {
      const Blocks plain = blocks(one, s.n, s.k, false), panels = blocks(one, s.n, s.k, true);
      ASSERT_NE(plain.codes.bytes(), panels.codes.bytes());
      Operand a(DType::kBF16, {s.m, s.k}, "a");
      a.normal(8);
      for (const bool accumulate : {false, true}) {
        const auto params = [&](const Blocks& b, ScaleGrain grain, const Operand& c) {
          return ScaledGemmParams{.a = {a.view(), {}, ScaleGrain::kNone},
                                  .b = b.view(grain),
                                  .c = c.view(),
                                  .accumulate = accumulate};
        };
        Operand want = output(out, s, accumulate), reference = output(out, s, accumulate);
        scaled_gemm(one, params(plain, ScaleGrain::kBlock, want));
        kernel_entries<ScaledGemmParams>().back().run(
            one, params(panels, ScaleGrain::kBlockPanel, reference));
        for (int64_t i = 0; i < want.size(); ++i)
          ASSERT_NEAR(reference[i], want[i], 0.01 * (1 + std::fabs(want[i]))) << s.m << "," << s.n;
        for (Context* ctx : {&one, &two}) {
          Operand c = output(out, s, accumulate);
          poison_scratch(*ctx);
          scaled_gemm(*ctx, params(panels, ScaleGrain::kBlockPanel, c));
          ASSERT_EQ(c.bytes(), want.bytes()) << s.m << "," << s.n << "," << s.k;
        }
      }
    }
  }
  const int64_t n = 256, k = 160, num_experts = 4;
  const Blocks plain = blocks(one, num_experts * n, k, false),
               panels = blocks(one, num_experts * n, k, true);
  const auto stacked = [&](const Blocks& b, ScaleGrain grain) {
    return ScaledView{b.codes.view().reshaped(Shape{num_experts, n, k}),
                      b.scales.view().reshaped(Shape{num_experts, 2, 2}), grain};
  };
  for (const std::vector<int64_t>& offsets :
       {std::vector<int64_t>{0, 1, 1, 2, 3}, {0, 40, 41, 41, 60}}) {
    Operand a(DType::kBF16, {offsets.back(), k}, "a");
    a.normal(8);
    std::vector<std::vector<uint8_t>> bytes;
    for (const bool in : {false, true}) {
      Operand c = output(DType::kBF16, {offsets.back(), n, k}, false);
      scaled_grouped_gemm(two, {.a = {a.view(), {}, ScaleGrain::kNone},
                                .b = stacked(in ? panels : plain,
                                             in ? ScaleGrain::kBlockPanel : ScaleGrain::kBlock),
                                .c = c.view(),
                                .offsets = offsets.data(),
                                .num_experts = num_experts});
      const auto raw = c.bytes();
      bytes.emplace_back(raw.begin(), raw.end());
    }
    ASSERT_EQ(bytes[0], bytes[1]);
  }
}

TEST(GemmScratch, AllocatesNothingTheSecondTime) {
  Context ctx(1);
  const Operands in(GemmLayout::kNt, kTypes[1], {100, 90, 2200});
  Operand c = output(DType::kBF16, {100, 90, 2200}, false);
  gemm(ctx, {GemmLayout::kNt, in.a.view(), in.b.view(), c.view()});
  const int64_t shared = ctx.scratch().capacity_bytes(),
                own = ctx.thread_scratch(0).capacity_bytes();
  gemm(ctx, {GemmLayout::kNt, in.a.view(), in.b.view(), c.view()});
  EXPECT_EQ(ctx.scratch().capacity_bytes(), shared);
  EXPECT_EQ(ctx.thread_scratch(0).capacity_bytes(), own);
}

}  // namespace
}  // namespace fathom
