// DeepSeekMoE (report section 2.1.2; SPEC C.3): a router, routed experts without token dropping,
// shared experts. Its work is split into the parts that a pipeline schedule moves around: route
// (belongs to the attention part of a block), dispatch, experts, combine.
//
// The gate weight of a row multiplies SwiGLU's output instead of the expert's: down is linear, so
// the sum is the same, combine adds rows without weights, and backward needs no expert outputs.
#pragma once

#include <string>

#include "core/arena.h"
#include "model/config.h"
#include "model/feed_forward.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/token_exchange.h"
#include "runtime/context.h"

namespace fathom {

struct MoeParameters {
  TensorView router_ED;
  TensorView router_bias_E;  // empty without bias
  TensorView w1_EXD;         // [E, gate | up, D]
  TensorView w2_EDF;
  FeedForwardParameters shared;  // empty without shared experts

  static MoeParameters of(const ParameterSet& set, const ModelConfig& config,
                          const std::string& prefix);
};

// How the balance loss enters the router's gradient; weight 0: not at all.
struct BalanceTerm {
  double weight = 0;
  int64_t span_tokens = 0;
  bool from_routing = false;
};

class Moe {
 public:
  Moe(const ModelConfig& config, const Policy& policy, const MoeParameters& weights,
      const TokenExchange& exchange);

  struct Saved {
    TensorView scores_TE, weight_TA;
    RoutedRows routed;
    TensorView row_scale_U;
    TensorView x_UD;
    TensorView gate_up_UX;  // after experts_backward_input: its gradient
    TensorView h_UF;
    TensorView y_UD;  // expert outputs; after combine_backward: their gradients
    TensorView dx_UD, drow_scale_U;
    FeedForward::Saved shared;
    TensorView dout_TD;  // act copy, left by combine_backward
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;
  // What the forward parts need, from scratch: inference.
  Saved allocate_temporary(Scratch& scratch, int64_t num_tokens) const;
  // The first num_tokens tokens of it, and num_tokens * A routed rows.
  Saved narrow(const Saved& saved, int64_t num_tokens) const;

  void route(Context& ctx, const TensorView& z_TD, const Saved& saved) const;
  void dispatch(Context& ctx, const TensorView& z_TD, const Saved& saved) const;
  void experts(Context& ctx, const TensorView& z_TD, const Saved& saved,
               const TensorView& out_TD) const;                                    // out += shared
  void combine(Context& ctx, const Saved& saved, const TensorView& out_TD) const;  // out += routed

  // dout is in the residual dtype; dz (residual dtype) collects the gradient of z.
  void combine_backward(Context& ctx, const Saved& saved, const TensorView& dout_TD) const;
  void experts_backward_input(Context& ctx, const Saved& saved) const;
  void dispatch_backward(Context& ctx, const Saved& saved, const TensorView& dz_TD) const;  // dz =
  void route_backward(Context& ctx, const TensorView& z_TD, const Saved& saved,
                      const BalanceTerm& balance, const MoeParameters& gradients,
                      const TensorView& dz_TD) const;  // dz +=
  void experts_backward_weight(Context& ctx, const TensorView& z_TD, const Saved& saved,
                               const MoeParameters& gradients) const;

  // counts_E += the rows that each expert received.
  void count_experts(const Saved& saved, int64_t* counts_E) const;
  // The balance loss of the routing at hand, without weight.
  double balance_loss_value(Context& ctx, const Saved& saved, int64_t span_tokens,
                            bool from_routing) const;

 private:
  template <typename Memory>
  Saved allocate_forward(Memory& memory, int64_t num_tokens) const;
  bool has_shared() const { return config_.n_shared_experts > 0; }
  ModelConfig config_;
  Policy policy_;
  MoeParameters w_;
  FeedForward shared_;
  const TokenExchange* exchange_;
};

}  // namespace fathom
