// How the tokens of a call lie: B rows of equally many tokens, one after the other (T = B * S), and
// what attention needs to know about each token.
#pragma once

#include <cstdint>
#include <utility>

#include "core/tensor.h"
#include "kernels/scaled.h"

namespace fathom {

struct RowLayout {
  int64_t num_rows = 0;
  int64_t row_tokens = 0;
  const int32_t* positions_T = nullptr;  // rope positions
  const int32_t* first_key_T = nullptr;  // first visible position of the own row; null = 0
  TensorView cos_sin_SR;                 // the rotation table

  int64_t num_tokens() const { return num_rows * row_tokens; }
};

// [T, W] seen as [T, heads, W / heads]; rows may be strided.
inline TensorView split_heads(const TensorView& x_TW, int64_t heads) {
  FATHOM_CHECK_EQ(x_TW.shape.num_dims, 2, "{}", x_TW.name);
  FATHOM_CHECK_EQ(x_TW.dim(1) % heads, 0, "{}", to_string(x_TW));
  TensorView view = x_TW;
  view.shape = Shape{x_TW.dim(0), heads, x_TW.dim(1) / heads};
  view.stride = {};
  view.stride[0] = x_TW.stride[0];
  view.stride[1] = x_TW.dim(1) / heads;
  view.stride[2] = 1;
  return view;
}

// The same with the heads first: [heads, T, W / heads].
inline TensorView heads_first(const TensorView& x_TW, int64_t heads) {
  TensorView view = split_heads(x_TW, heads);
  std::swap(view.shape.dim[0], view.shape.dim[1]);
  std::swap(view.stride[0], view.stride[1]);
  return view;
}

// f on the tensors of `view` that have a row for each token.
template <typename F>
void visit_rows(ScaledView& view, F&& f) {
  f(view.codes);
  if (view.grain == ScaleGrain::kRow) f(view.scales);
}

// A Saved struct lists its tensors in visit_tensors(); this narrows all of them to their first
// `num_tokens` rows (saved activations are allocated for the largest micro-batch).
template <typename Saved>
Saved first_rows(const Saved& saved, int64_t num_tokens) {
  Saved narrowed = saved;
  narrowed.visit_tensors([&](TensorView& view) {
    if (!view.empty()) view = view.rows(0, num_tokens);
  });
  return narrowed;
}

}  // namespace fathom
