#include "kernels/ref/ref.h"
#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::kF64, DType::kF64},
                            {DType::kF32, DType::kF32},
                            {DType::kBF16, DType::kBF16},
                            {DType::kBF16, DType::kF32}};

// c and the sum of |a||b| that bounds its rounding, from values alone.
struct Expected {
  std::vector<double> c, magnitude;
};
Expected multiply(GemmLayout layout, const TestTensor& a, int64_t a_begin, const TestTensor& b,
                  int64_t b_begin, int64_t m, int64_t n, int64_t k) {
  Expected e;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t l = 0; l < k; ++l) {
        const double av = a[a_begin + (layout == GemmLayout::kTn ? l * m + i : i * k + l)];
        const double bv = b[b_begin + (layout == GemmLayout::kNt ? j * k + l : l * n + j)];
        sum += av * bv;
        magnitude += std::fabs(av * bv);
      }
      e.c.push_back(sum);
      e.magnitude.push_back(magnitude);
    }
  }
  return e;
}

// k products and k sums in the compute type, one rounding of the output; accumulation adds one
// more.
std::vector<double> tolerance(const Expected& e, const Types& types, int64_t k) {
  const double compute = types.in == DType::kF64 ? 0x1p-53 : 0x1p-24;
  std::vector<double> t;
  for (size_t i = 0; i < e.c.size(); ++i) {
    t.push_back(static_cast<double>(k + 2) * compute * e.magnitude[i] +
                unit_roundoff(types.out) * (std::fabs(e.c[i]) + 1) * 1.01);
  }
  return t;
}

class RefGemm : public ::testing::TestWithParam<GemmLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, RefGemm,
                         ::testing::Values(GemmLayout::kNt, GemmLayout::kNn, GemmLayout::kTn));

TEST_P(RefGemm, MatchesSumsOfProducts) {
  Context ctx(1, IsaLevel::kReference);
  const GemmLayout layout = GetParam();
  for (const Types& types : kTypes) {
    for (const auto& [m, n, k, padding] : std::vector<std::array<int64_t, 4>>{
             {3, 5, 7, 0}, {1, 1, 1, 3}, {4, 2, 0, 0}, {0, 3, 2, 0}, {3, 0, 2, 1}, {2, 9, 17, 5}}) {
      for (const bool accumulate : {false, true}) {
        TestTensor a(types.in, layout == GemmLayout::kTn ? Shape{k, m} : Shape{m, k}, "a", padding);
        TestTensor b(types.in, layout == GemmLayout::kNt ? Shape{n, k} : Shape{k, n}, "b", padding);
        TestTensor c(types.out, {m, n}, "c", padding);
        a.normal(1);
        b.normal(2);
        if (accumulate) c.fill(0.75);
        Expected e = multiply(layout, a, 0, b, 0, m, n, k);
        if (accumulate) {
          for (double& v : e.c) v += 0.75;
        }
        gemm(ctx, {.layout = layout, .a = a, .b = b, .c = c, .accumulate = accumulate});
        EXPECT_TRUE(near_all(c, e.c, tolerance(e, types, k)));
      }
    }
  }
}

TEST_P(RefGemm, GroupedMatchesOneProductPerExpert) {
  Context ctx(1, IsaLevel::kReference);
  const GemmLayout layout = GetParam();
  const std::vector<int64_t> offsets = {0, 3, 3, 4, 9};
  const int64_t num_experts = 4, num_rows = 9, wide = 5, narrow_width = 3;
  for (const Types& types : kTypes) {
    for (const bool accumulate : {false, true}) {
      const bool tn = layout == GemmLayout::kTn;
      TestTensor a(types.in, {num_rows, wide}, "a");
      TestTensor b(types.in,
                   tn                          ? Shape{num_rows, narrow_width}
                   : layout == GemmLayout::kNt ? Shape{num_experts, narrow_width, wide}
                                               : Shape{num_experts, wide, narrow_width},
                   "b");
      TestTensor c(types.out,
                   tn ? Shape{num_experts, wide, narrow_width} : Shape{num_rows, narrow_width},
                   "c");
      a.normal(3);
      b.normal(4);
      if (accumulate) c.fill(-0.5);
      Expected all;
      for (int64_t e = 0; e < num_experts; ++e) {
        const int64_t begin = offsets[static_cast<size_t>(e)],
                      count = offsets[static_cast<size_t>(e) + 1] - begin;
        const Expected one = tn ? multiply(layout, a, begin * wide, b, begin * narrow_width, wide,
                                           narrow_width, count)
                                : multiply(layout, a, begin * wide, b, e * wide * narrow_width,
                                           count, narrow_width, wide);
        all.c.insert(all.c.end(), one.c.begin(), one.c.end());
        all.magnitude.insert(all.magnitude.end(), one.magnitude.begin(), one.magnitude.end());
      }
      if (accumulate) {
        for (double& v : all.c) v -= 0.5;
      }
      grouped_gemm(ctx, {.layout = layout,
                         .a = a,
                         .b = b,
                         .c = c,
                         .offsets = offsets.data(),
                         .num_experts = num_experts,
                         .accumulate = accumulate});
      EXPECT_TRUE(near_all(c, all.c, tolerance(all, types, wide)));
    }
  }
}

TEST(RefGemm, TheComparatorSeesOneWrongElement) {
  TestTensor c(DType::kF32, {2, 2}, "c");
  c.fill(1.0);
  EXPECT_TRUE(near_all(c, {1, 1, 1, 1}, 1e-6));
  EXPECT_FALSE(near_all(c, {1, 1, 1.001, 1}, 1e-6));
  TestTensor poisoned(DType::kF32, {2, 2}, "poisoned");
  EXPECT_FALSE(near_all(poisoned, {1, 1, 1, 1}, 1e6));
  static_cast<float*>(c.view().data)[4] = 1.0f;
  EXPECT_FALSE(near_all(c, {1, 1, 1, 1}, 1e-6)) << "a write past the end";
}

TEST(GemmChecks, NameTheOperandAndBothShapes) {
  Context ctx(1, IsaLevel::kReference);
  TestTensor a(DType::kF32, {2, 3}, "x_TD"), b(DType::kF32, {4, 5}, "w_FD"),
      c(DType::kF32, {2, 4}, "y_TF");
  try {
    gemm(ctx, {.a = a, .b = b, .c = c});
    FAIL();
  } catch (const CheckFailure& failure) {
    const std::string message = failure.what();
    EXPECT_NE(message.find("w_FD f32[4, 5]"), std::string::npos) << message;
    EXPECT_NE(message.find("[4, 3]"), std::string::npos) << message;
  }
  TestTensor half(DType::kBF16, {4, 3}, "w_FD");
  EXPECT_THROW(gemm(ctx, {.a = a, .b = half, .c = c}), CheckFailure);
}

}  // namespace
}  // namespace fathom
