// The three products of a Linear under the FP8 recipe, against fp64 products of what the operands
// are after quantisation.
#include "model/linear.h"

#include <cmath>

#include "kernels/scaled_test_tensor.h"

namespace fathom {
namespace {

// Two joined parameters and a stack of experts of both kinds of border: on a tile and off it.
std::vector<ParameterSpec> specs(int64_t first_rows, int64_t second_rows, int64_t cols,
                                 int64_t num_experts) {
  std::vector<ParameterSpec> all;
  const auto add = [&](const std::string& name, int64_t rows, bool packed) {
    all.push_back(
        {.name = name, .shape = Shape{rows, cols}, .fp8_in_published = true, .packed = packed});
  };
  add("a", first_rows, false);
  add("b", second_rows, true);
  for (int64_t e = 0; e < num_experts; ++e) {
    add(fmt::format("gate{}", e), first_rows, e > 0);
    add(fmt::format("up{}", e), first_rows, true);
  }
  return all;
}

std::vector<double> values(const ScaledView& v, const std::vector<int64_t>& offsets = {}) {
  const ref::ColumnTiles tiles(offsets.empty() ? nullptr : offsets.data(),
                               offsets.empty() ? 0 : static_cast<int64_t>(offsets.size()) - 1);
  std::vector<double> out;
  for (int64_t i = 0; i < v.codes.dim(0); ++i) {
    for (int64_t j = 0; j < v.codes.dim(1); ++j) {
      out.push_back(static_cast<double>(ref::code_value(v.codes, i, j)) *
                    static_cast<double>(ref::scale_value(v, i, j, tiles)));
    }
  }
  return out;
}

// `x` in the tiles of `grain`, as fp64.
std::vector<double> quantised(Context& ctx, const ScaledView& x, ScaleGrain grain,
                              bool power_of_two, const std::vector<int64_t>& offsets = {}) {
  ScaledTensor y(DType::kE4M3, grain, x.codes.dim(0), x.codes.dim(1), offsets);
  quantize(ctx, {.x = x,
                 .y = y,
                 .power_of_two = power_of_two,
                 .offsets = y.offsets(),
                 .num_experts = y.num_experts()});
  return values(y, offsets);
}

// sum over l of a(l) b(l), and the same of magnitudes.
template <typename A, typename B>
std::pair<double, double> dot(int64_t k, A&& a, B&& b) {
  double sum = 0, magnitude = 0;
  for (int64_t l = 0; l < k; ++l) {
    sum += a(l) * b(l);
    magnitude += std::fabs(a(l) * b(l));
  }
  return {sum, magnitude};
}

void expect_close(double got, std::pair<double, double> want, int64_t k) {
  const double bound =
      (static_cast<double>(std::min<int64_t>(k, 128)) + 2 + static_cast<double>(k) / 128) *
      0x1p-24 * (want.second + 1);
  ASSERT_NEAR(got, want.first, bound);
}

class LinearProducts : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(BorderOnAndOffATile, LinearProducts, ::testing::Values(128, 40));

TEST_P(LinearProducts, OfJoinedParameters) {
  Context ctx(2);
  const int64_t first = GetParam(), second = 24, N = first + second, K = 150, T = 133;
  Policy policy = kPolicyFp8;
  policy.activations = DType::kF32;  // nothing but the recipe rounds
  const auto parameters = specs(first, second, K, 0);
  ParameterSet master("master", parameters, {}),
      weights("weights", parameters, policy.weight_dtypes()),
      gradients("gradients", parameters, {});
  std::vector<double> w;
  for (int64_t i = 0; i < 2; ++i) {
    TestTensor x(DType::kF32, parameters[static_cast<size_t>(i)].shape, "w");
    x.normal(static_cast<uint64_t>(10 + i));
    std::memcpy(master.view(i).data, x.view().data, static_cast<size_t>(x.view().num_bytes()));
    quantize(ctx, {.x = plain_rows(master.view(i)), .y = weights.scaled(i)});
    // Each parameter has its own tiles, as published.
    const auto part = quantised(ctx, plain_rows(master.view(i)), ScaleGrain::kBlock, false);
    w.insert(w.end(), part.begin(), part.end());
  }
  const LinearView view = weights.linear("a", 2);
  EXPECT_EQ(view.num_parts, first == 128 ? 1 : 2);
  const LinearMath linear(policy);
  TestTensor x(DType::kF32, {T, K}, "x"), dy(DType::kF32, {T, N}, "dy");
  x.normal(1);
  dy.normal(2);

  ScaledTensor codes(DType::kE4M3, ScaleGrain::kRow, T, K);
  const ScaledView input = linear.input(ctx, x, codes);
  TestTensor y(DType::kF32, {T, N}, "y"), dx(DType::kF32, {T, K}, "dx");
  linear.forward(ctx, view, input, y);
  linear.backward_input(ctx, view, plain_rows(dy), dx);
  const LinearView dw = gradients.linear("a", 2);
  linear.backward_weight(ctx, {.dw = dw, .dy = plain_rows(dy), .x = input});

  const std::vector<double> xq = values(codes);
  const std::vector<double> x_columns = quantised(ctx, input, ScaleGrain::kColumn, false),
                            dy_columns = quantised(ctx, plain_rows(dy), ScaleGrain::kColumn, false);
  std::vector<double> dy_rows(static_cast<size_t>(T * N));
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, first}, {first, second}}) {
    const auto part =
        quantised(ctx, plain_rows(dy.view().columns(begin, count)), ScaleGrain::kRow, false);
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t j = 0; j < count; ++j)
        dy_rows[static_cast<size_t>(t * N + begin + j)] = part[static_cast<size_t>(t * count + j)];
    }
  }
  const auto at = [](const std::vector<double>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t n = 0; n < N; ++n) {
      expect_close(y[t * N + n],
                   dot(
                       K, [&](int64_t l) { return at(xq, t * K + l); },
                       [&](int64_t l) { return at(w, n * K + l); }),
                   K);
    }
    for (int64_t k = 0; k < K; ++k) {
      expect_close(dx[t * K + k],
                   dot(
                       N, [&](int64_t l) { return at(dy_rows, t * N + l); },
                       [&](int64_t l) { return at(w, l * K + k); }),
                   N + 128);  // two parts: one more sum
    }
  }
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) {
      expect_close(static_cast<double>(dw.w.as<float>()[n * K + k]),
                   dot(
                       T, [&](int64_t l) { return at(dy_columns, l * N + n); },
                       [&](int64_t l) { return at(x_columns, l * K + k); }),
                   T);
    }
  }
}

TEST_P(LinearProducts, OfExpertsOverRaggedRows) {
  Context ctx(2);
  const int64_t F = GetParam(), N = 2 * F, K = 130, E = 3, U = 200;
  const std::vector<int64_t> offsets = {0, 140, 140, 200};
  Policy policy = kPolicyFp8;
  policy.activations = DType::kF32;
  const auto parameters = specs(F, 1, K, E);
  ParameterSet master("master", parameters, {}),
      weights("weights", parameters, policy.weight_dtypes()),
      gradients("gradients", parameters, {});
  std::vector<double> w;  // [E, N, K]
  for (int64_t i = 2; i < master.size(); ++i) {
    TestTensor x(DType::kF32, {F, K}, "w");
    x.normal(static_cast<uint64_t>(20 + i));
    std::memcpy(master.view(i).data, x.view().data, static_cast<size_t>(x.view().num_bytes()));
    quantize(ctx, {.x = plain_rows(master.view(i)), .y = weights.scaled(i)});
    const auto part = quantised(ctx, plain_rows(master.view(i)), ScaleGrain::kBlock, false);
    w.insert(w.end(), part.begin(), part.end());
  }
  const LinearView view = weights.linear("gate0", 2 * E, E);
  EXPECT_EQ(view.num_parts, F == 128 ? 1 : 2);
  const LinearMath linear(policy);
  const ExpertRows experts{offsets.data(), E};
  TestTensor x(DType::kF32, {U, K}, "x"), dy(DType::kF32, {U, N}, "dy");
  x.normal(1);
  dy.normal(2);
  ScaledTensor codes(DType::kE4M3, ScaleGrain::kRow, U, K);
  quantize(ctx, {.x = plain_rows(x), .y = codes, .power_of_two = true});
  TestTensor y(DType::kF32, {U, N}, "y"), dx(DType::kF32, {U, K}, "dx");
  linear.forward(ctx, view, codes, y, false, experts);
  linear.backward_input(ctx, view, plain_rows(dy), dx, false, experts);
  const LinearView dw = gradients.linear("gate0", 2 * E, E);
  linear.backward_weight(
      ctx,
      {.dw = dw, .dy = plain_rows(dy), .x = codes, .experts = experts, .power_of_two_x = true});

  const std::vector<double> xq = values(codes),
                            x_columns = quantised(ctx, codes, ScaleGrain::kColumn, true, offsets),
                            dy_columns =
                                quantised(ctx, plain_rows(dy), ScaleGrain::kColumn, false, offsets),
                            gate = quantised(ctx, plain_rows(dy.view().columns(0, F)),
                                             ScaleGrain::kRow, false),
                            up = quantised(ctx, plain_rows(dy.view().columns(F, F)),
                                           ScaleGrain::kRow, false);
  const auto at = [](const std::vector<double>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  for (int64_t e = 0; e < E; ++e) {
    const int64_t begin = offsets[static_cast<size_t>(e)],
                  end = offsets[static_cast<size_t>(e) + 1];
    for (int64_t u = begin; u < end; ++u) {
      for (int64_t n = 0; n < N; ++n) {
        expect_close(y[u * N + n],
                     dot(
                         K, [&](int64_t l) { return at(xq, u * K + l); },
                         [&](int64_t l) { return at(w, (e * N + n) * K + l); }),
                     K);
      }
      for (int64_t k = 0; k < K; ++k) {
        // One part: the row's tiles run across the border of gate and up, which lies on one.
        expect_close(
            dx[u * K + k],
            dot(
                N, [&](int64_t l) { return l < F ? at(gate, u * F + l) : at(up, u * F + l - F); },
                [&](int64_t l) { return at(w, (e * N + l) * K + k); }),
            N + 128);
      }
    }
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t k = 0; k < K; ++k) {
        expect_close(
            static_cast<double>(dw.w.as<float>()[(e * N + n) * K + k]),
            dot(
                end - begin, [&](int64_t l) { return at(dy_columns, (begin + l) * N + n); },
                [&](int64_t l) { return at(x_columns, (begin + l) * K + k); }),
            end - begin);
      }
    }
  }
}

// SYSTEMS row 62: with outliers that come with tokens, 128x128 tiles of gradients lose more than
// 1x128 tiles.
TEST(LinearRecipe, BlockwiseGradientsLoseMoreThanTilewise) {
  Context ctx(2);
  const int64_t T = 256, N = 256, K = 128;
  TestTensor dy(DType::kF32, {T, N}, "dy"), exact(DType::kF32, {T, K}, "dx");
  dy.normal(3);
  for (int64_t t = 0; t < T; t += 37) {
    for (int64_t n = 0; n < N; ++n) dy.set(t * N + n, dy[t * N + n] * 30000);
  }
  ScaledTensor w(DType::kE4M3, ScaleGrain::kBlock, N, K);
  w.quantize_normal(ctx, 4);
  scaled_gemm(ctx, {.layout = GemmLayout::kNn, .a = plain(dy), .b = w, .c = exact});
  double decibels[2];
  int i = 0;
  for (const ScaleGrain grain : {ScaleGrain::kRow, ScaleGrain::kBlock}) {
    ScaledTensor codes(DType::kE4M3, grain, T, N);
    quantize(ctx, {.x = plain(dy), .y = codes});
    TestTensor dx(DType::kF32, {T, K}, "dx");
    scaled_gemm(ctx, {.layout = GemmLayout::kNn, .a = codes, .b = w, .c = dx});
    double signal = 0, noise = 0;  // of the ordinary tokens
    for (int64_t t = 0; t < T; ++t) {
      if (t % 37 == 0) continue;
      for (int64_t k = 0; k < K; ++k) {
        signal += exact[t * K + k] * exact[t * K + k];
        noise += std::pow(dx[t * K + k] - exact[t * K + k], 2);
      }
    }
    decibels[i++] = 10 * std::log10(signal / noise);
  }
  EXPECT_GT(decibels[0], 25);
  EXPECT_LT(decibels[1], decibels[0] - 3);
}

}  // namespace
}  // namespace fathom
