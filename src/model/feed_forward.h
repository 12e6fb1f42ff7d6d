// SwiGLU feed-forward, down(silu(gate x) * up x): the dense FFN of the first layers and the shared
// experts. Gate and up are one fused product.
#pragma once

#include <string>

#include "core/arena.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/rows.h"
#include "runtime/context.h"

namespace fathom {

struct FeedForwardParameters {
  TensorView w1_XD;  // [gate | up]: X = 2F
  TensorView w2_DF;

  static FeedForwardParameters of(const ParameterSet& set, const std::string& prefix);
};

class FeedForward {
 public:
  FeedForward(const Policy& policy, const FeedForwardParameters& weights)
      : policy_(policy), w_(weights) {}

  struct Saved {
    TensorView gate_up_TX;  // after backward_input: its gradient
    TensorView h_TF;
    template <typename F>
    void visit_tensors(F&& f) {
      f(gate_up_TX);
      f(h_TF);
    }
  };
  // From an Arena (training) or a Scratch (inference).
  template <typename Memory>
  Saved allocate_saved(Memory& memory, int64_t max_tokens) const {
    Saved s;
    s.gate_up_TX =
        memory.allocate(policy_.activations, Shape{max_tokens, w_.w1_XD.dim(0)}, "ffn.gate_up_TX");
    s.h_TF = memory.allocate(policy_.activations, Shape{max_tokens, w_.w2_DF.dim(1)}, "ffn.h_TF");
    return s;
  }

  // out += ffn(z)
  void forward(Context& ctx, const TensorView& z_TD, const Saved& saved,
               const TensorView& out_TD) const;
  // dz = or += the input gradient; dout_TD is in the activation dtype.
  void backward_input(Context& ctx, const Saved& saved, const TensorView& dout_TD,
                      const TensorView& dz_TD, bool accumulate) const;
  void backward_weight(Context& ctx, const TensorView& z_TD, const Saved& saved,
                       const TensorView& dout_TD, const FeedForwardParameters& gradients) const;

 private:
  Policy policy_;
  FeedForwardParameters w_;
};

}  // namespace fathom
