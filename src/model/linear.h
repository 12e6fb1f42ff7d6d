// The three products of a Linear, y = x W^T, under a precision policy: plain operands go to gemm,
// FP8 weights to scaled_gemm with operands quantised here (report section 3.3; SPEC C.10). The same
// functions serve one matrix and a stack of experts' matrices over ragged rows.
//
//   Fprop  y  (+)= x W^T       x 1x128 along its columns, W 128x128
//   Dgrad  dx (+)= dy W        dy 1x128 along its columns, W the same codes
//   Wgrad  dW  +=  dy^T x      both 128x1, along the tokens
#pragma once

#include "core/arena.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "runtime/context.h"

namespace fathom {

// Rows [offsets[e], offsets[e+1]) belong to expert e; without offsets one matrix takes all.
struct ExpertRows {
  const int64_t* offsets = nullptr;
  int64_t num_experts = 0;
};

inline ScaledView plain_rows(const TensorView& x) { return {x, {}, ScaleGrain::kNone}; }

// Codes for `rows` x `cols` in the recipe's row tiles, from an Arena or a Scratch. Two static
// strings name them.
template <typename Memory>
ScaledView allocate_codes(Memory& memory, DType dtype, ScaleGrain grain, int64_t rows, int64_t cols,
                          const char* name) {
  return {memory.allocate(dtype, Shape{rows, cols}, name),
          memory.allocate(DType::kF32, scale_shape(grain, rows, cols), name), grain};
}

// Rows [0, n) of a tensor whose scales, if any, go by row or are one for all.
inline ScaledView first_rows(const ScaledView& v, int64_t n) {
  ScaledView rows = v;
  if (!v.codes.empty()) rows.codes = v.codes.rows(0, n);
  if (v.grain == ScaleGrain::kRow && !v.scales.empty()) rows.scales = v.scales.rows(0, n);
  return rows;
}

// The weights of a product to come, perhaps none.
struct NextRead {
  const LinearView* w = nullptr;
  ExpertRows experts;
};
// A hint, before a product, of the one behind it (ThreadPool::read_ahead). Nothing happens for so
// many rows that reading the weights is not what takes the time.
void will_read(Context& ctx, const NextRead& next, int64_t num_rows);

class LinearMath {
 public:
  explicit LinearMath(const Policy& policy) : policy_(policy) {}

  bool scaled() const { return policy_.fp8.enabled; }

  // The form in which Fprop reads x: x itself, or codes in `memory` (Scratch or Saved).
  template <typename Memory>
  ScaledView allocate_input(Memory& memory, int64_t rows, int64_t cols, const char* name) const {
    return allocate_codes(memory, policy_.fp8.forward_codes, policy_.fp8.activations, rows, cols,
                          name);
  }
  template <typename Memory>
  ScaledView allocate_gradient(Memory& memory, int64_t rows, int64_t cols, const char* name) const {
    return allocate_codes(memory, policy_.fp8.gradient_codes, policy_.fp8.activations, rows, cols,
                          name);
  }
  // x as Fprop reads it: x itself, or quantised into `codes` (allocate_input).
  ScaledView input(Context& ctx, const TensorView& x, const ScaledView& codes) const;

  void forward(Context& ctx, const LinearView& w, const ScaledView& x, const TensorView& y,
               bool accumulate = false, const ExpertRows& experts = {}) const;
  // dy: plain, or codes where they were dispatched as such.
  void backward_input(Context& ctx, const LinearView& w, const ScaledView& dy, const TensorView& dx,
                      bool accumulate = false, const ExpertRows& experts = {}) const;
  // dw is the plain gradient of w; x is plain or codes (then regrouped). power_of_two: of the
  // scales that Wgrad's operands get, where they come from dispatched codes or E5M6.
  struct WeightGradient {
    LinearView dw;
    ScaledView dy, x;
    ExpertRows experts;
    bool power_of_two_dy = false, power_of_two_x = false;
  };
  void backward_weight(Context& ctx, const WeightGradient& p) const;

 private:
  // Fprop with weights that are kept in codes while activations are not (inference).
  void forward_kept(Context& ctx, const LinearView& w, const TensorView& x, const TensorView& y,
                    bool accumulate, const ExpertRows& experts) const;
  ScaledView by_column(Context& ctx, const ScaledView& x, DType dtype, bool power_of_two,
                       const ExpertRows& experts) const;
  Policy policy_;
};

}  // namespace fathom
