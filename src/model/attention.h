// Multi-head latent attention (report section 2.1.1; SPEC C.1), with or without query compression,
// as a residual branch: out = x + o_proj(attention(norm(x))).
//
// Training runs the expanded form over packed rows. Inference keeps, per token, the normed latent
// and the rotated shared key (C + R values), and attends in latent space (the absorbed form), where
// the up-projections of key and value are folded into query and output.
#pragma once

#include <cstdint>
#include <span>

#include "core/arena.h"
#include "model/config.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/rows.h"
#include "runtime/context.h"

namespace fathom {

// Views over one ParameterSet: the weights, or their gradients.
struct AttentionParameters {
  TensorView input_norm_D;
  TensorView a_proj_XD;  // [q_a | kv_a]: X = Q + C + R, or [q | kv_a] without query compression
  TensorView q_norm_Q;   // empty without query compression
  TensorView q_b_YQ;     // Y = H (N + R); empty without query compression
  TensorView kv_norm_C;
  TensorView kv_b_ZC;  // Z = H (N + P), per head N key rows, then P value rows
  TensorView o_DP;     // [D, H P]

  static AttentionParameters of(const ParameterSet& set, const ModelConfig& config,
                                int64_t layer_idx);
};

// One sequence in a cached forward: its new tokens are consecutive rows of the input.
struct CachedSequence {
  TensorView cache_SX;     // this layer's [capacity, C + R]
  int64_t num_cached = 0;  // tokens already there; the new ones are appended behind
  int64_t num_new = 0;
};

class Attention {
 public:
  Attention(const ModelConfig& config, const Policy& policy, const AttentionParameters& weights);

  struct Saved {
    TensorView rstd_T, y_TD;     // input norm
    TensorView a_TX;             // first projections; the rope key in it is rotated in place
    TensorView q_rstd_T, cq_TQ;  // query latent after its norm
    TensorView q_TY;             // queries, rotated
    TensorView kv_rstd_T, c_TC;  // latent after its norm
    TensorView kv_TZ;
    TensorView o_TP, lse_TH;
    // Left by backward_input for backward_weight.
    TensorView dout_TD, dq_TY, dkv_TZ, da_TX;

    template <typename F>
    void visit_tensors(F&& f) {
      for (TensorView* view : {&rstd_T, &y_TD, &a_TX, &q_rstd_T, &cq_TQ, &q_TY, &kv_rstd_T, &c_TC,
                               &kv_TZ, &o_TP, &lse_TH, &dout_TD, &dq_TY, &dkv_TZ, &da_TX}) {
        f(*view);
      }
    }
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;

  // out = x + branch(x); all [T, D] in the residual dtype.
  void forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& saved,
               const TensorView& out_TD) const;
  // dx = dout + d(branch)/dx; adds to the gradients of the norms.
  void backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                      const Saved& saved, const TensorView& dout_TD,
                      const AttentionParameters& gradients, const TensorView& dx_TD) const;
  // Adds to the gradients of the projections.
  void backward_weight(Context& ctx, const Saved& saved,
                       const AttentionParameters& gradients) const;

  // Inference: appends the new tokens' latents to each sequence's cache and attends over it.
  // positions_T: rope positions. x and out are [T, D]; out may be x.
  void forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                      const RowLayout& rows, const TensorView& x_TD,
                      const TensorView& out_TD) const;

 private:
  void project(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
               const Saved& saved) const;
  int64_t query_width() const { return heads_ * config_.qk_head_dim(); }
  bool compresses_query() const { return config_.q_lora_rank > 0; }
  // Where the latent starts in a_TX.
  int64_t latent_column() const { return compresses_query() ? config_.q_lora_rank : query_width(); }

  ModelConfig config_;
  Policy policy_;
  AttentionParameters w_;
  int64_t heads_;
};

}  // namespace fathom
