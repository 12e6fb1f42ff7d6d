// SwiGLU feed-forward, down(silu(gate x) * up x): the dense FFN of the first layers and the shared
// experts. Gate and up are one fused product.
#pragma once

#include <string>

#include "core/arena.h"
#include "model/linear.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/rows.h"
#include "runtime/context.h"

namespace fathom {

struct FeedForwardParameters {
  LinearView w1_XD;  // [gate | up]: X = 2F
  LinearView w2_DF;

  static FeedForwardParameters of(const ParameterSet& set, const std::string& prefix);
};

// What SwiGLU reads and gives, of dense layers and experts alike: its input is kept from forward to
// backward (as codes under an FP8 policy), its output where nothing is recomputed.
class SwigluMemory {
 public:
  explicit SwigluMemory(const Policy& policy) : policy_(policy), linear_(policy) {}

  struct Saved {
    ScaledView gate_up_TX;
    TensorView h_TF;  // empty where it is computed again
    template <typename F>
    void visit_tensors(F&& f) {
      visit_rows(gate_up_TX, f);
      f(h_TF);
    }
  };
  struct Deferred {
    TensorView dgate_up_TX;
    TensorView h_TF;  // of recomputation
    template <typename F>
    void visit_tensors(F&& f) {
      f(dgate_up_TX);
      f(h_TF);
    }
  };
  // From an Arena (training) or a Scratch (inference).
  template <typename Memory>
  Saved allocate_saved(Memory& memory, int64_t max_rows, int64_t width) const {
    Saved s;
    s.gate_up_TX = policy_.fp8.enabled
                       ? linear_.allocate_input(memory, max_rows, 2 * width, "ffn.gate_up_TX")
                       : plain_rows(memory.allocate(policy_.activations, Shape{max_rows, 2 * width},
                                                    "ffn.gate_up_TX"));
    if (keeps_output())
      s.h_TF = memory.allocate(policy_.activations, Shape{max_rows, width}, "ffn.h_TF");
    return s;
  }
  Deferred allocate_deferred(Arena& arena, int64_t max_rows, int64_t width) const {
    Deferred d;
    d.dgate_up_TX =
        arena.allocate(policy_.activations, Shape{max_rows, 2 * width}, "ffn.dgate_up_TX");
    if (!keeps_output())
      d.h_TF = arena.allocate(policy_.activations, Shape{max_rows, width}, "ffn.h_TF");
    return d;
  }

  // Where the first product writes: what is kept, or scratch that forward() turns into codes.
  TensorView gate_up(Context& ctx, const Saved& saved) const;
  // h = silu(gate) * up * row_scale into `h`; the input is kept as the policy says.
  void forward(Context& ctx, const TensorView& gate_up_TX, const TensorView& row_scale_T,
               const Saved& saved, const TensorView& h_TF) const;
  // From dh: dgate_up (and drow_scale); h again where it was not kept.
  void backward(Context& ctx, const Saved& saved, const TensorView& row_scale_T,
                const TensorView& dh_TF, const Deferred& deferred,
                const TensorView& drow_scale_T) const;
  bool keeps_output() const { return !policy_.recompute && !policy_.fp8.enabled; }
  const TensorView& output(const Saved& s, const Deferred& d) const {
    return keeps_output() ? s.h_TF : d.h_TF;
  }

 private:
  Policy policy_;
  LinearMath linear_;
};

class FeedForward {
 public:
  FeedForward(const Policy& policy, const FeedForwardParameters& weights)
      : policy_(policy), linear_(policy), swiglu_(policy), w_(weights) {}

  using Saved = SwigluMemory::Saved;
  using Deferred = SwigluMemory::Deferred;
  template <typename Memory>
  Saved allocate_saved(Memory& memory, int64_t max_tokens) const {
    return swiglu_.allocate_saved(memory, max_tokens, width());
  }
  Deferred allocate_deferred(Arena& arena, int64_t max_tokens) const {
    return swiglu_.allocate_deferred(arena, max_tokens, width());
  }

  // out += ffn(z). next: what is read behind this.
  void forward(Context& ctx, const TensorView& z_TD, const Saved& saved, const TensorView& out_TD,
               const NextRead& next = {}) const;
  const LinearView& first_weights() const { return w_.w1_XD; }
  // dz = or += the input gradient; dout_TD is in the activation dtype.
  void backward_input(Context& ctx, const Saved& saved, const Deferred& deferred,
                      const TensorView& dout_TD, const TensorView& dz_TD, bool accumulate) const;
  // Of one of the matrices: 0 down, 1 gate and up.
  static constexpr int64_t kNumWeightPieces = 2;
  void backward_weight(Context& ctx, int64_t piece, const TensorView& z_TD, const Saved& saved,
                       const Deferred& deferred, const TensorView& dout_TD,
                       const FeedForwardParameters& gradients) const;

 private:
  // z as the first product reads it, from scratch where it is codes.
  ScaledView input(Context& ctx, const TensorView& z_TD) const;
  int64_t width() const { return w_.w1_XD.rows() / 2; }  // codes of w2 may share bytes
  Policy policy_;
  LinearMath linear_;
  SwigluMemory swiglu_;
  FeedForwardParameters w_;
};

}  // namespace fathom
