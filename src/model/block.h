// One transformer block, as four parts both ways: attention (with the norm before the FFN and the
// router), dispatch, experts, combine. A pipeline schedule may interleave the parts of two
// micro-batches; forward() and backward_input() simply run them in order. In a dense layer the
// whole FFN is in the experts part, and dispatch and combine do nothing.
#pragma once

#include "core/arena.h"
#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/moe.h"

namespace fathom {

struct BlockParameters {
  AttentionParameters attention;
  TensorView ffn_norm_D;
  FeedForwardParameters dense;  // one of the two
  MoeParameters moe;

  static BlockParameters of(const ParameterSet& set, const ModelConfig& config, int64_t layer_idx);
};

class Block {
 public:
  Block(const ModelConfig& config, const Policy& policy, int64_t layer_idx,
        const BlockParameters& weights, const TokenExchange& exchange = local_token_exchange());

  struct Saved {
    Attention::Saved attention;
    TensorView h_TD;            // the residual stream between attention and FFN
    TensorView z_rstd_T, z_TD;  // FFN norm
    FeedForward::Saved dense;
    TensorView dout_TD;  // dense layers: act copy of the output's gradient
    Moe::Saved moe;
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;
  Saved narrow(const Saved& saved, int64_t num_tokens) const;

  bool is_moe() const { return is_moe_; }
  int64_t layer_idx() const { return layer_idx_; }

  // x and out: [T, D] in the residual dtype, distinct.
  void attention_forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                         const Saved& saved) const;
  void dispatch_forward(Context& ctx, const Saved& saved) const;
  void experts_forward(Context& ctx, const Saved& saved, const TensorView& out_TD) const;
  void combine_forward(Context& ctx, const Saved& saved, const TensorView& out_TD) const;

  void combine_backward(Context& ctx, const Saved& saved, const TensorView& dout_TD) const;
  void experts_backward_input(Context& ctx, const Saved& saved, const TensorView& dz_TD) const;
  void dispatch_backward(Context& ctx, const Saved& saved, const TensorView& dz_TD) const;
  // dx may be dout.
  void attention_backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                                const Saved& saved, const BalanceTerm& balance,
                                const TensorView& dz_TD, const TensorView& dout_TD,
                                const BlockParameters& gradients, const TensorView& dx_TD) const;

  void experts_backward_weight(Context& ctx, const Saved& saved,
                               const BlockParameters& gradients) const;
  void attention_backward_weight(Context& ctx, const Saved& saved,
                                 const BlockParameters& gradients) const;

  void forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& saved,
               const TensorView& out_TD) const;
  void backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                      const Saved& saved, const BalanceTerm& balance, const TensorView& dout_TD,
                      const BlockParameters& gradients, const TensorView& dx_TD) const;
  void backward_weight(Context& ctx, const Saved& saved, const BlockParameters& gradients) const;

  // Inference; x in place. expert_counts: += rows of each expert; may be null.
  void forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                      const RowLayout& rows, const TensorView& x_TD, int64_t* expert_counts) const;

  const Moe& moe() const { return moe_; }  // of an MoE layer

 private:
  ModelConfig config_;
  Policy policy_;
  int64_t layer_idx_;
  bool is_moe_;
  BlockParameters w_;
  Attention attention_;
  FeedForward dense_;
  Moe moe_;
};

}  // namespace fathom
