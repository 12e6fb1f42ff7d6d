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
#include "model/expert_source.h"
#include "model/feed_forward.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/token_exchange.h"
#include "runtime/context.h"

namespace fathom {

struct MoeParameters {
  TensorView router_ED;
  TensorView router_bias_E;  // empty without bias
  LinearView w1_EXD;         // [E, gate | up, D]
  LinearView w2_EDF;
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

  // What forward keeps for the backward pass.
  struct Saved {
    TensorView scores_TE, weight_TA;
    RoutedRows routed;
    TensorView row_scale_U;
    ScaledView x_UD;  // as it was dispatched: plain, or codes
    SwigluMemory::Saved swiglu;
    FeedForward::Saved shared;
  };
  // What lies between two parts of one pass, and what backward_input leaves for backward_weight.
  // Blocks that run one after the other can share one.
  struct Deferred {
    TensorView y_UD;   // expert outputs
    ScaledView dy_UD;  // their gradients, as dispatched
    TensorView dx_UD, drow_scale_U;
    TensorView dweight_TA;  // drow_scale back at the tokens
    SwigluMemory::Deferred swiglu;
    FeedForward::Deferred shared;
    TensorView dout_TD;  // act copy
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;
  Deferred allocate_deferred(Arena& arena, int64_t max_tokens) const;
  // What the forward parts need, from scratch: inference.
  Saved allocate_temporary(Scratch& scratch, int64_t num_tokens, Deferred& deferred) const;
  // The first num_tokens tokens of it, and num_tokens * A routed rows.
  Saved narrow(const Saved& saved, int64_t num_tokens) const;
  Deferred narrow(const Deferred& deferred, int64_t num_tokens) const;

  void route(Context& ctx, const TensorView& z_TD, const Saved& saved,
             Half half = Half::kBoth) const;
  void finish_routing(Context& ctx, const Saved& saved) const {
    exchange_->plan(ctx, saved.routed, Half::kReceive);
  }
  bool routing_has_come(const Saved& saved) const { return exchange_->plan_has_come(saved.routed); }
  bool rows_have_come(const Saved& saved, Way way) const {
    return exchange_->has_come(saved.routed, way);
  }
  void dispatch(Context& ctx, const TensorView& z_TD, const Saved& saved,
                Half half = Half::kBoth) const;
  // out += shared. next: what is read behind this.
  void experts(Context& ctx, const TensorView& z_TD, const Saved& saved, const Deferred& deferred,
               const TensorView& out_TD, const NextRead& next = {}) const;
  void combine(Context& ctx, const Saved& saved, const Deferred& deferred, const TensorView& out_TD,
               Half half = Half::kBoth) const;  // out += routed

  // dout is in the residual dtype; dz (residual dtype) collects the gradient of z.
  void combine_backward(Context& ctx, const Saved& saved, const Deferred& deferred,
                        const TensorView& dout_TD, Half half = Half::kBoth) const;
  void experts_backward_input(Context& ctx, const Saved& saved, const Deferred& deferred) const;
  void dispatch_backward(Context& ctx, const Saved& saved, const Deferred& deferred,
                         const TensorView& dz_TD, Half half = Half::kBoth) const;  // dz =
  void route_backward(Context& ctx, const TensorView& z_TD, const Saved& saved,
                      const Deferred& deferred, const BalanceTerm& balance,
                      const MoeParameters& gradients, const TensorView& dz_TD) const;  // dz +=
  // Weight gradients: of the routed experts, one matrix of a few experts at a time; of the shared
  // ones.
  struct WeightPiece {
    int64_t group = 0, num_groups = 1;
    bool of_down = true;  // or of gate and up
  };
  int64_t num_weight_groups() const;
  void routed_backward_weight(Context& ctx, const WeightPiece& piece, const Saved& saved,
                              const Deferred& deferred, const MoeParameters& gradients) const;
  int64_t num_shared_weight_pieces() const {
    return has_shared() ? FeedForward::kNumWeightPieces : 0;
  }
  void shared_backward_weight(Context& ctx, int64_t piece, const TensorView& z_TD,
                              const Saved& saved, const Deferred& deferred,
                              const MoeParameters& gradients) const;

  // Inference with experts that are not all in memory; the layer's weights must be plain or kept
  // codes.
  void use_expert_source(ExpertSource* source, int64_t layer_idx) {
    source_ = source;
    layer_idx_ = layer_idx;
  }
  bool has_expert_source() const { return source_ != nullptr; }
  LinearView router() const { return {.w = w_.router_ED}; }
  // Tells the source which experts these inputs would take, ahead of the layer's turn.
  void expect_experts(Context& ctx, const TensorView& z_TD) const;

  // counts_E += the choices of each expert by these tokens.
  void count_experts(const Saved& saved, int64_t* counts_E) const;
  // The balance loss of the routing at hand, without weight.
  double balance_loss_value(Context& ctx, const Saved& saved, int64_t span_tokens,
                            bool from_routing) const;

 private:
  void experts_from_source(Context& ctx, const Saved& saved, const TensorView& gate_up_UX,
                           const TensorView& h_UF, const TensorView& y_UD,
                           int64_t num_tokens) const;
  // Rows that came to the experts of this rank: known once the tokens are routed.
  Saved arrived(const Saved& saved) const;
  Deferred arrived(const Saved& saved, const Deferred& deferred) const;
  Saved with_rows(Saved saved, int64_t num_rows) const;
  Deferred with_rows(Deferred deferred, int64_t num_rows) const;
  int64_t max_rows(int64_t num_tokens) const {
    return exchange_->max_rows(num_tokens, config_.num_experts_per_tok, num_experts_here());
  }
  int64_t num_experts_here() const { return w_.w1_EXD.w.dim(0); }
  template <typename Memory>
  Saved allocate_forward(Memory& memory, int64_t num_tokens) const;
  // Rows to their experts, in the form that is dispatched: plain, or codes quantised here.
  void dispatch_rows(Context& ctx, const TensorView& x_TD, DType code, const Saved& saved,
                     const ScaledView& x_UD, Half half) const;
  ExpertRows expert_rows(const Saved& s) const {
    return {s.routed.offsets.as<int64_t>(), num_experts_here()};
  }
  bool has_shared() const { return config_.n_shared_experts > 0; }
  ModelConfig config_;
  Policy policy_;
  LinearMath linear_;
  SwigluMemory swiglu_;
  MoeParameters w_;
  FeedForward shared_;
  const TokenExchange* exchange_;
  ExpertSource* source_ = nullptr;
  int64_t layer_idx_ = -1;  // with a source
};

}  // namespace fathom
