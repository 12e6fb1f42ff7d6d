#include <cmath>

#include "kernels/cpu/row_loop.h"
#include "kernels/cpu/row_ops.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kBlock = 16384;

// Offset of the r-th innermost row, leading dimensions in order.
int64_t row_offset(const TensorView& v, int64_t r) {
  int64_t at = 0;
  for (int d = v.shape.num_dims - 2; d >= 0; --d) {
    at += r % v.dim(d) * v.stride[static_cast<size_t>(d)];
    r /= v.dim(d);
  }
  return at;
}

// body(pointer into x, pointer into y, count) over all elements of two tensors of one shape.
template <typename Body>
void for_pairs(Context& ctx, const TensorView& x, const TensorView& y, Body&& body) {
  if (x.num_elements() == 0) return;
  if (x.contiguous() && y.contiguous()) {
    for_blocks(ctx, x.num_elements(), kBlock, [&](int64_t begin, int64_t count, int64_t) {
      body(element_at(x, begin), element_at(y, begin), count);
    });
    return;
  }
  const int64_t width = x.dim(x.shape.num_dims - 1);
  for_rows(ctx, x.num_elements() / width, width, [&](int64_t r, int) {
    body(element_at(x, row_offset(x, r)), element_at(y, row_offset(y, r)), width);
  });
}

}  // namespace

void cast(Context& ctx, const CastParams& p, const RowKernels& rows) {
  for_pairs(ctx, p.x, p.y, rows.cast[is_bf16(p.x)][is_bf16(p.y)]);
}

void add(Context& ctx, const AddParams& p, const RowKernels& rows) {
  for_pairs(ctx, p.x, p.y, rows.add[is_bf16(p.x)][is_bf16(p.y)]);
}

void scale(Context& ctx, const ScaleParams& p, const RowKernels& rows) {
  for_pairs(ctx, p.x, p.x, [&](void* x, void*, int64_t n) {
    rows.scale(static_cast<float*>(x), static_cast<float>(p.factor), n);
  });
}

void sum_of_squares(Context& ctx, const SumOfSquaresParams& p, const RowKernels& rows) {
  const auto kernel = rows.sum_of_squares[is_bf16(p.x)];
  const int64_t count = p.x.num_elements();
  *p.result = 0;
  if (count == 0) return;
  const bool flat = p.x.contiguous();
  const int64_t width = p.x.dim(p.x.shape.num_dims - 1);
  const int64_t block = flat ? kBlock : width;
  const int64_t num_blocks = div_up(count, block);
  const Scratch::Mark mark(ctx.scratch());
  double* partial = ctx.scratch().allocate<double>(num_blocks, "square_sums");
  for_blocks(ctx, count, block, [&](int64_t begin, int64_t n, int64_t index) {
    partial[index] = kernel(element_at(p.x, flat ? begin : row_offset(p.x, index)), n);
  });
  for (int64_t i = 0; i < num_blocks; ++i) *p.result += partial[i];
}

void adamw(Context& ctx, const AdamwParams& p, const RowKernels& rows) {
  const double correction1 = 1 - std::pow(p.beta1, static_cast<double>(p.step));
  const double correction2 = 1 - std::pow(p.beta2, static_cast<double>(p.step));
  const AdamwConstants constants = {
      .grad_scale = static_cast<float>(p.grad_scale),
      .decay = static_cast<float>(1 - p.lr * p.weight_decay),
      .step_size = static_cast<float>(p.lr / correction1),
      .one_minus_beta1 = static_cast<float>(1 - p.beta1),
      .beta2 = static_cast<float>(p.beta2),
      .one_minus_beta2 = static_cast<float>(1 - p.beta2),
      .root_correction2 = static_cast<float>(std::sqrt(correction2)),
      .eps = static_cast<float>(p.eps),
  };
  const auto kernel = rows.adamw[is_bf16(p.m)][is_bf16(p.weights)];
  const bool separate_weights = !p.weights.empty() && p.weights.data != p.master.data;
  for_blocks(ctx, p.master.num_elements(), kBlock, [&](int64_t begin, int64_t count, int64_t) {
    kernel(constants, p.master.as<float>() + begin, p.grad.as<float>() + begin,
           element_at(p.m, begin), element_at(p.v, begin),
           separate_weights ? element_at(p.weights, begin) : nullptr, count);
  });
}

}  // namespace fathom::cpu
