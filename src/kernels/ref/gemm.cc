#include "kernels/ref/elements.h"
#include "kernels/ref/ref.h"

namespace fathom::ref {
namespace {

// One product; a(i, l), b(l, j) are addressed by row and column strides, so the layouts differ only
// in how these are filled in.
template <typename In, typename Out>
void product(int64_t m, int64_t n, int64_t k, const In* a, int64_t a_row, int64_t a_col,
             const In* b, int64_t b_row, int64_t b_col, Out* c, int64_t c_row, bool accumulate) {
  using C = compute_type<In>;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      C sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += static_cast<C>(a[i * a_row + l * a_col]) * static_cast<C>(b[l * b_row + j * b_col]);
      }
      Out& out = c[i * c_row + j];
      out = Out(accumulate ? static_cast<C>(out) + sum : sum);
    }
  }
}

template <typename In, typename Out>
void product(GemmLayout layout, const TensorView& a, const TensorView& b, const TensorView& c,
             bool accumulate) {
  const int64_t m = c.dim(0), n = c.dim(1);
  const int64_t k = layout == GemmLayout::kTn ? a.dim(0) : a.dim(1);
  const bool a_transposed = layout == GemmLayout::kTn;
  const bool b_transposed = layout == GemmLayout::kNt;
  product<In, Out>(m, n, k, a.as<In>(), a_transposed ? 1 : a.stride[0],
                   a_transposed ? a.stride[0] : 1, b.as<In>(), b_transposed ? 1 : b.stride[0],
                   b_transposed ? b.stride[0] : 1, c.as<Out>(), c.stride[0], accumulate);
}

void product(GemmLayout layout, const TensorView& a, const TensorView& b, const TensorView& c,
             bool accumulate) {
  if (a.dtype == DType::kF64) return product<double, double>(layout, a, b, c, accumulate);
  if (a.dtype == DType::kF32) return product<float, float>(layout, a, b, c, accumulate);
  if (c.dtype == DType::kF32) return product<bf16, float>(layout, a, b, c, accumulate);
  product<bf16, bf16>(layout, a, b, c, accumulate);
}

}  // namespace

void gemm(Context&, const GemmParams& p) {
  if (p.c.shape.num_dims == 2) return product(p.layout, p.a, p.b, p.c, p.accumulate);
  for (int64_t i = 0; i < p.c.dim(0); ++i)
    product(p.layout, p.a.at(i), p.b.at(i), p.c.at(i), p.accumulate);
}

void grouped_gemm(Context&, const GroupedGemmParams& p) {
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t begin = p.offsets[e], count = p.offsets[e + 1] - begin;
    const bool weight_gradient = p.layout == GemmLayout::kTn;
    product(p.layout, p.a.rows(begin, count), weight_gradient ? p.b.rows(begin, count) : p.b.at(e),
            weight_gradient ? p.c.at(e) : p.c.rows(begin, count), p.accumulate);
  }
}

}  // namespace fathom::ref
