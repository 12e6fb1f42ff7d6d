#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

constexpr DType kActs[] = {DType::kF64, DType::kF32, DType::kBF16};

TEST(RefElementwise, CastRoundsOnceToTheTarget) {
  Context ctx(1, IsaLevel::kReference);
  for (const DType from : kActs) {
    for (const DType to : kActs) {
      TestTensor x(from, {2, 3, 5}, "x", 1), y(to, {2, 3, 5}, "y", 2),
          want(to, {2, 3, 5}, "want", 2);
      x.normal(1);
      for (int64_t i = 0; i < x.size(); ++i) want.set(i, x[i]);
      cast(ctx, x, y);
      EXPECT_EQ(y.bytes(), want.bytes()) << dtype_name(from) << " to " << dtype_name(to);
    }
  }
}

TEST(RefElementwise, AddScaleAndZero) {
  Context ctx(1, IsaLevel::kReference);
  for (const DType x_type : kActs) {
    for (const DType y_type : kActs) {
      if (dtype_bytes(x_type) > dtype_bytes(y_type)) continue;
      TestTensor x(x_type, {3, 5}, "x", 1), y(y_type, {3, 5}, "y", 2);
      x.normal(1);
      y.normal(2);
      const TestTensor before = y;
      add(ctx, x, y);
      for (int64_t i = 0; i < y.size(); ++i) {
        EXPECT_NEAR(y[i], before[i] + x[i], unit_roundoff(y_type) * std::fabs(before[i] + x[i]));
      }
      EXPECT_TRUE(y.guards_intact());
      fill_zero(ctx, y);
      EXPECT_TRUE(near_all(y, std::vector<double>(15, 0.0), 0.0));
    }
  }
  TestTensor x(DType::kF32, {3, 5}, "x", 1);
  x.fill(1.5);
  scale(ctx, x, -2);
  EXPECT_TRUE(near_all(x, std::vector<double>(15, -3.0), 0.0));
  TestTensor narrow(DType::kBF16, {3, 5}, "narrow");
  EXPECT_THROW(add(ctx, x, narrow), CheckFailure);
}

TEST(RefElementwise, SumsInDoubleAndFindsTheFirstBadElement) {
  Context ctx(1, IsaLevel::kReference);
  for (const DType dtype : kActs) {
    TestTensor x(dtype, {3, 2000}, "x", 1);
    x.normal(1);
    double squares = 0, total = 0;
    for (int64_t i = 0; i < x.size(); ++i) {
      squares += x[i] * x[i];
      total += x[i];
    }
    EXPECT_NEAR(sum_of_squares(ctx, x), squares, 1e-12 * squares);
    if (dtype != DType::kBF16) {
      EXPECT_NEAR(sum(x), total, 1e-10);
    }
    EXPECT_EQ(first_non_finite(x), -1);
    for (const int64_t at : {5999, 4001, 1500, 3, 0}) {
      x.set(at, at % 2 == 0 ? std::nan("") : -INFINITY);
      EXPECT_EQ(first_non_finite(x), at);
    }
    EXPECT_FALSE(std::isfinite(sum_of_squares(ctx, x)));
  }
  TestTensor largest(DType::kF32, {1}, "largest");
  largest.set(0, 3.4028234e38);
  EXPECT_EQ(first_non_finite(largest), -1);
  EXPECT_EQ(first_non_finite(TestTensor(DType::kF32, {0}, "none")), -1);
}

// Adam as in the paper (Loshchilov & Hutter, algorithm 2 with alpha folded in), three steps in
// fp64.
TEST(RefAdamw, MatchesThePaper) {
  Context ctx(1, IsaLevel::kReference);
  const double lr = 0.01, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, clip = 0.5;
  TestTensor p(DType::kF64, {7}, "p"), g(DType::kF64, {7}, "g"), m(DType::kF64, {7}, "m"),
      v(DType::kF64, {7}, "v"), w(DType::kF64, {7}, "w");
  p.normal(1);
  m.fill(0);
  v.fill(0);
  std::vector<double> theta = p.values(), m1(7, 0.0), m2(7, 0.0);
  for (int64_t step = 1; step <= 3; ++step) {
    g.normal(static_cast<uint64_t>(10 + step));
    adamw(ctx, {.master = p,
                .grad = g,
                .m = m,
                .v = v,
                .weights = w,
                .lr = lr,
                .beta1 = beta1,
                .beta2 = beta2,
                .eps = eps,
                .weight_decay = decay,
                .grad_scale = clip,
                .step = step});
    for (size_t i = 0; i < 7; ++i) {
      const double grad = clip * g[static_cast<int64_t>(i)];
      m1[i] = beta1 * m1[i] + (1 - beta1) * grad;
      m2[i] = beta2 * m2[i] + (1 - beta2) * grad * grad;
      const double m_hat = m1[i] / (1 - std::pow(beta1, step)),
                   v_hat = m2[i] / (1 - std::pow(beta2, step));
      theta[i] -= lr * (m_hat / (std::sqrt(v_hat) + eps) + decay * theta[i]);
      EXPECT_NEAR(p[static_cast<int64_t>(i)], theta[i], 1e-14);
      EXPECT_EQ(w[static_cast<int64_t>(i)], p[static_cast<int64_t>(i)]);
    }
  }
}

// bf16 moments: the update uses the moments before they are rounded, and stores them rounded.
TEST(RefAdamw, RoundsMomentsAndWeightsToNearestEven) {
  Context ctx(1, IsaLevel::kReference);
  TestTensor p(DType::kF32, {33}, "p"), g(DType::kF32, {33}, "g"), m(DType::kBF16, {33}, "m"),
      v(DType::kBF16, {33}, "v"), w(DType::kBF16, {33}, "w");
  p.normal(1);
  g.normal(2);
  m.fill(0);
  v.fill(0);
  TestTensor p32 = p, m32(DType::kF32, {33}, "m"), v32(DType::kF32, {33}, "v");
  m32.fill(0);
  v32.fill(0);
  const AdamwParams half{
      .master = p, .grad = g, .m = m, .v = v, .weights = w, .lr = 0.1, .step = 1};
  AdamwParams full = half;
  full.master = p32;
  full.m = m32;
  full.v = v32;
  full.weights = {};
  adamw(ctx, half);
  adamw(ctx, full);
  for (int64_t i = 0; i < 33; ++i) {
    EXPECT_EQ(p[i], p32[i]);
    EXPECT_EQ(m[i], static_cast<float>(bf16(static_cast<float>(m32[i]))));
    EXPECT_EQ(v[i], static_cast<float>(bf16(static_cast<float>(v32[i]))));
    EXPECT_EQ(w[i], static_cast<float>(bf16(static_cast<float>(p[i]))));
  }
}

}  // namespace
}  // namespace fathom
