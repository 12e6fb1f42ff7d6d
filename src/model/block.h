// One transformer block, as four parts both ways: attention (with the norm before the FFN and the
// router), dispatch, experts, combine. A pipeline schedule may interleave the parts of two
// micro-batches; forward() and backward_input() simply run them in order. In a dense layer the
// whole FFN is in the experts part, and dispatch and combine do nothing.
#pragma once

#include "core/arena.h"
#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/grouped_attention.h"
#include "model/moe.h"

namespace fathom {

struct BlockParameters {
  AttentionParameters attention;  // one of the two
  GroupedAttentionParameters grouped_attention;
  TensorView ffn_norm_D;
  FeedForwardParameters dense;  // one of the two
  MoeParameters moe;

  static BlockParameters of(const ParameterSet& set, const ModelConfig& config, int64_t layer_idx);
};

class Block {
 public:
  Block(const ModelConfig& config, const Policy& policy, int64_t layer_idx,
        const BlockParameters& weights, const TokenExchange& exchange = local_token_exchange());

  // What forward keeps for the backward pass.
  struct Saved {
    Attention::Saved attention;
    TensorView h_TD;      // the residual stream between attention and FFN
    TensorView z_rstd_T;  // FFN norm
    TensorView z_TD;      // its output; empty where the policy recomputes it
    FeedForward::Saved dense;
    Moe::Saved moe;
  };
  // What lies between two parts of one pass, and what backward_input leaves for backward_weight.
  // Blocks of one kind that run one after the other can share one.
  struct Deferred {
    Attention::Deferred attention;
    TensorView z_TD;  // of recomputation, in either pass
    FeedForward::Deferred dense;
    TensorView dout_TD;  // dense layers: act copy of the output's gradient
    Moe::Deferred moe;
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;
  Deferred allocate_deferred(Arena& arena, int64_t max_tokens) const;
  Saved narrow(const Saved& saved, int64_t num_tokens) const;
  Deferred narrow(const Deferred& deferred, int64_t num_tokens) const;

  bool is_moe() const { return is_moe_; }
  void use_expert_source(ExpertSource* source) {
    if (is_moe_) moe_.use_expert_source(source, layer_idx_);
  }
  int64_t layer_idx() const { return layer_idx_; }

  // x and out: [T, D] in the residual dtype, distinct.
  // routing kSend: what the tokens' experts are is known here, but not yet what comes from other
  // ranks; finish_routing() waits for that.
  void attention_forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                         const Saved& saved, const Deferred& deferred,
                         Half routing = Half::kBoth) const;
  void finish_routing(Context& ctx, const Saved& saved) const;
  void dispatch_forward(Context& ctx, const Saved& saved, const Deferred& deferred,
                        Half half = Half::kBoth) const;
  void experts_forward(Context& ctx, const Saved& saved, const Deferred& deferred,
                       const TensorView& out_TD) const;
  void combine_forward(Context& ctx, const Saved& saved, const Deferred& deferred,
                       const TensorView& out_TD, Half half = Half::kBoth) const;

  void combine_backward(Context& ctx, const Saved& saved, const Deferred& deferred,
                        const TensorView& dout_TD, Half half = Half::kBoth) const;
  void experts_backward_input(Context& ctx, const Saved& saved, const Deferred& deferred,
                              const TensorView& dz_TD) const;
  void dispatch_backward(Context& ctx, const Saved& saved, const Deferred& deferred,
                         const TensorView& dz_TD, Half half = Half::kBoth) const;
  // dx may be dout.
  void attention_backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                                const Saved& saved, const Deferred& deferred,
                                const BalanceTerm& balance, const TensorView& dz_TD,
                                const TensorView& dout_TD, const BlockParameters& gradients,
                                const TensorView& dx_TD) const;

  // Weight gradients in pieces that can stand between other parts, a matrix or less each, always in
  // this order: first early ones (of the routed experts), possible after experts_backward_input;
  // the others after attention_backward_input.
  int64_t num_early_weight_pieces() const;
  int64_t num_weight_pieces() const;
  void backward_weight_piece(Context& ctx, int64_t piece, const Saved& saved,
                             const Deferred& deferred, const BlockParameters& gradients) const;

  void forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& saved,
               const Deferred& deferred, const TensorView& out_TD) const;
  void backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                      const Saved& saved, const Deferred& deferred, const BalanceTerm& balance,
                      const TensorView& dout_TD, const BlockParameters& gradients,
                      const TensorView& dx_TD) const;
  void backward_weight(Context& ctx, const Saved& saved, const Deferred& deferred,
                       const BlockParameters& gradients) const;

  // Inference; x in place. next: what is read behind this block. expert_counts: += rows of each
  // expert; expert_choices_TA: = the experts of each row; both may be null.
  void forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                      const RowLayout& rows, const TensorView& x_TD, const NextRead& next,
                      int64_t* expert_counts, int32_t* expert_choices_TA = nullptr) const;
  // What forward_cached reads first.
  NextRead first_read() const {
    return config_.has_latent_attention() ? NextRead{&attention_.first_weights()} : NextRead{};
  }

  const Moe& moe() const { return moe_; }  // of an MoE layer
  // Whether a receive half would not wait.
  bool routing_has_come(const Saved& saved) const {
    return !is_moe_ || moe_.routing_has_come(saved.moe);
  }
  bool rows_have_come(const Saved& saved, Way way) const {
    return !is_moe_ || moe_.rows_have_come(saved.moe, way);
  }

 private:
  // Of the shared experts or the dense network.
  int64_t num_ffn_weight_pieces() const {
    return is_moe_ ? moe_.num_shared_weight_pieces() : FeedForward::kNumWeightPieces;
  }
  void expect_experts(Context& ctx, const TensorView& x_TD) const;
  void norm_ffn_input(Context& ctx, const Saved& saved, const TensorView& z_TD) const;
  const TensorView& z(const Saved& s, const Deferred& d) const {
    return policy_.recompute ? d.z_TD : s.z_TD;
  }
  ModelConfig config_;
  Policy policy_;
  int64_t layer_idx_;
  bool is_moe_;
  BlockParameters w_;
  Attention attention_;
  GroupedAttention grouped_attention_;
  FeedForward dense_;
  Moe moe_;
};

}  // namespace fathom
