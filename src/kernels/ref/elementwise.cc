#include <cmath>

#include "kernels/ref/elements.h"
#include "kernels/ref/ref.h"

namespace fathom::ref {
namespace {

// body(begins of the rows of both tensors, width) for every row: leading dimensions in order.
template <typename F>
void for_each_row(const TensorView& x, F&& body) {
  const int last = x.shape.num_dims - 1;
  if (last < 0 || x.num_elements() == 0) return;
  int64_t num_rows = 1;
  for (int d = 0; d < last; ++d) num_rows *= x.dim(d);
  for (int64_t r = 0; r < num_rows; ++r) {
    int64_t index[kMaxDims] = {};
    int64_t rest = r;
    for (int d = last - 1; d >= 0; --d) {
      index[d] = rest % x.dim(d);
      rest /= x.dim(d);
    }
    body(index, last > 0 ? x.dim(last) : x.dim(0));
  }
}

}  // namespace

void cast(Context&, const CastParams& p) {
  // fp32 holds every narrower value exactly; with fp64 on either side the value passes through
  // fp64. fp64 to bf16 rounds twice (fp64 -> fp32 -> bf16), as PyTorch does.
  with_compute_type(p.x.dtype == DType::kF64 || p.y.dtype == DType::kF64, [&]<typename C>(C) {
    for_each_row(p.x, [&](const int64_t* i, int64_t width) {
      const auto x = elements<C>(p.x, i[0], i[1], i[2]);
      const auto y = elements<C>(p.y, i[0], i[1], i[2]);
      for (int64_t d = 0; d < width; ++d) y.set(d, x[d]);
    });
  });
}

void add(Context&, const AddParams& p) {
  with_compute_type(p.y.dtype == DType::kF64, [&]<typename C>(C) {
    for_each_row(p.x, [&](const int64_t* i, int64_t width) {
      const auto x = elements<C>(p.x, i[0], i[1], i[2]);
      const auto y = elements<C>(p.y, i[0], i[1], i[2]);
      for (int64_t d = 0; d < width; ++d) y.set(d, y[d] + x[d]);
    });
  });
}

void scale(Context&, const ScaleParams& p) {
  with_compute_type(p.x.dtype == DType::kF64, [&]<typename C>(C) {
    for_each_row(p.x, [&](const int64_t* i, int64_t width) {
      const auto x = elements<C>(p.x, i[0], i[1], i[2]);
      for (int64_t d = 0; d < width; ++d) x.set(d, x[d] * static_cast<C>(p.factor));
    });
  });
}

void sum_of_squares(Context&, const SumOfSquaresParams& p) {
  double sum = 0;
  for_each_row(p.x, [&](const int64_t* i, int64_t width) {
    const auto x = elements<double>(p.x, i[0], i[1], i[2]);
    for (int64_t d = 0; d < width; ++d) sum += x[d] * x[d];
  });
  *p.result = sum;
}

// The order of operations of torch.optim.AdamW:
//   p *= 1 - lr wd;  m += (g - m)(1 - beta1);  v = v beta2 + (1 - beta2) g g;
//   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
void adamw(Context&, const AdamwParams& p) {
  with_compute_type(p.master.dtype == DType::kF64, [&]<typename C>(C) {
    const auto master = elements<C>(p.master), grad = elements<C>(p.grad),
               weights = elements<C>(p.weights);
    const auto first = elements<C>(p.m), second = elements<C>(p.v);
    const double correction1 = 1 - std::pow(p.beta1, static_cast<double>(p.step));
    const double correction2 = 1 - std::pow(p.beta2, static_cast<double>(p.step));
    const C decay = static_cast<C>(1 - p.lr * p.weight_decay),
            step_size = static_cast<C>(p.lr / correction1);
    const C root_correction2 = static_cast<C>(std::sqrt(correction2)), eps = static_cast<C>(p.eps);
    const C beta2 = static_cast<C>(p.beta2), one_minus_beta2 = static_cast<C>(1 - p.beta2);
    const C one_minus_beta1 = static_cast<C>(1 - p.beta1),
            grad_scale = static_cast<C>(p.grad_scale);
    for (int64_t i = 0; i < p.master.num_elements(); ++i) {
      const C g = grad[i] * grad_scale;
      const C m = first[i] + one_minus_beta1 * (g - first[i]);
      const C v = second[i] * beta2 + one_minus_beta2 * (g * g);
      const C denominator = std::sqrt(v) / root_correction2 + eps;
      const C updated = master[i] * decay - step_size * (m / denominator);
      first.set(i, m);
      second.set(i, v);
      master.set(i, updated);
      if (!p.weights.empty()) weights.set(i, updated);
    }
  });
}

}  // namespace fathom::ref
