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
#include "kernels/cache_rows.h"
#include "model/config.h"
#include "model/linear.h"
#include "model/parameters.h"
#include "model/policy.h"
#include "model/rows.h"
#include "runtime/context.h"

namespace fathom {

// Views over one ParameterSet: the weights, or their gradients.
struct AttentionParameters {
  TensorView input_norm_D;
  LinearView a_proj_XD;  // [q_a | kv_a]: X = Q + C + R, or [q | kv_a] without query compression
  TensorView q_norm_Q;   // empty without query compression
  LinearView q_b_YQ;     // Y = H (N + R); empty without query compression
  TensorView kv_norm_C;
  LinearView kv_b_ZC;  // Z = H (N + P), per head N key rows, then P value rows
  // Where kv_b is in panels: its key rows transposed, in panels too.
  TensorView keys_HCN;
  LinearView o_DP;  // [D, H P]

  static AttentionParameters of(const ParameterSet& set, const ModelConfig& config,
                                int64_t layer_idx);
};

// Consecutive tokens of one sequence in a cached forward: consecutive rows of the input.
struct CachedSequence {
  CacheRows cache;         // of this layer
  int64_t num_cached = 0;  // rows already there; the new ones are appended behind
  int64_t num_new = 0;
  // Attend in the expanded form: keys and values of all heads are computed from the cached rows,
  // which costs a product a row but makes each (query, key) pair (C + R + C) / (N + R + P) times
  // cheaper. For many new tokens; few ones attend in latent space.
  bool expanded = false;
};

class Attention {
 public:
  Attention(const ModelConfig& config, const Policy& policy, const AttentionParameters& weights);

  // What the projections read and the up-projections give: kept from forward to backward, or
  // computed again there. Inputs are codes under an FP8 policy.
  struct Inputs {
    ScaledView y_TD;         // after the input norm
    ScaledView cq_TQ, c_TC;  // query latent and latent, after their norms
    TensorView q_TY;         // queries, rotated
    TensorView kv_TZ;        // keys and values

    template <typename F>
    void visit_tensors(F&& f) {
      for (ScaledView* view : {&y_TD, &cq_TQ, &c_TC}) visit_rows(*view, f);
      f(q_TY);
      f(kv_TZ);
    }
  };
  // What forward keeps for the backward pass.
  struct Saved {
    TensorView rstd_T, q_rstd_T, kv_rstd_T;  // of the three norms
    TensorView a_TX;  // first projections; the rope key in it is rotated in place
    TensorView lse_TH;
    TensorView o_TP;  // attention output; or, where the policy keeps it in E5M6:
    TensorView o_bytes_TX, o_scales_TX;
    Inputs inputs;  // empty where the policy recomputes them

    template <typename F>
    void visit_tensors(F&& f) {
      for (TensorView* view :
           {&rstd_T, &q_rstd_T, &kv_rstd_T, &a_TX, &lse_TH, &o_TP, &o_bytes_TX, &o_scales_TX})
        f(*view);
      inputs.visit_tensors(f);
    }
  };
  // What backward_input leaves for backward_weight. Blocks whose weight gradients follow at once
  // can share one.
  struct Deferred {
    TensorView dout_TD, dq_TY, dkv_TZ, da_TX;
    Inputs inputs;  // of recomputation; q and kv are not needed any more

    template <typename F>
    void visit_tensors(F&& f) {
      for (TensorView* view : {&dout_TD, &dq_TY, &dkv_TZ, &da_TX}) f(*view);
      inputs.visit_tensors(f);
    }
  };
  Saved allocate_saved(Arena& arena, int64_t max_tokens) const;
  Deferred allocate_deferred(Arena& arena, int64_t max_tokens) const;

  // out = x + branch(x); all [T, D] in the residual dtype.
  void forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& saved,
               const TensorView& out_TD) const;
  // dx = dout + d(branch)/dx; adds to the gradients of the norms.
  void backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                      const Saved& saved, const Deferred& deferred, const TensorView& dout_TD,
                      const AttentionParameters& gradients, const TensorView& dx_TD) const;
  // Adds to the gradient of one projection.
  int64_t num_weight_pieces() const { return compresses_query() ? 4 : 3; }
  void backward_weight(Context& ctx, int64_t piece, const Saved& saved, const Deferred& deferred,
                       const AttentionParameters& gradients) const;

  // Inference: appends the new tokens' latents to each sequence's cache, then attends over it; so a
  // sequence may come in several entries. Entries that are expanded stand behind all others.
  // positions_T: rope positions. x and out are [T, D]; out may be x. A token's result has the same
  // bits whatever other tokens are in the call. next: what is read behind this.
  void forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                      const RowLayout& rows, const TensorView& x_TD, const TensorView& out_TD,
                      const NextRead& next) const;
  const LinearView& first_weights() const { return w_.a_proj_XD; }

 private:
  template <typename Memory>
  Inputs allocate_inputs(Memory& memory, int64_t num_tokens, bool up_projections) const;
  // Input norm, as the first projections read it.
  void norm_input(Context& ctx, const TensorView& x_TD, const TensorView& rstd_T,
                  const ScaledView& y_TD) const;
  // The latents' norms, from a_TX, as the up-projections read them.
  void norm_latents(Context& ctx, const Saved& saved, const Inputs& inputs) const;
  // Queries, rotated.
  void project_queries(Context& ctx, const RowLayout& rows, const Saved& saved,
                       const Inputs& inputs) const;
  void norm(Context& ctx, const TensorView& x, const TensorView& w, double eps,
            const TensorView& rstd_T, const ScaledView& y) const;
  // o_TP = attention of the rows' queries over their sequences, in latent space or expanded.
  void attend_in_latents(Context& ctx, std::span<const CachedSequence> sequences,
                         const TensorView& q_TY, const TensorView& o_TP) const;
  void attend_expanded(Context& ctx, const CachedSequence& sequence, const TensorView& q_TY,
                       const TensorView& o_TP) const;
  void keep_output(Context& ctx, const TensorView& o_TP, const Saved& saved) const;
  // E5M6 codes of the attention output, from scratch.
  ScaledView output_codes(Context& ctx, const Saved& saved, int64_t num_tokens) const;
  int64_t query_width() const { return heads_ * config_.qk_head_dim(); }
  bool compresses_query() const { return config_.q_lora_rank > 0; }
  bool keeps_e5m6() const { return policy_.fp8.enabled && policy_.fp8.attention_output_e5m6; }
  // Width of the first projections.
  int64_t first_width() const {
    return latent_column() + config_.kv_lora_rank + config_.qk_rope_head_dim;
  }
  // Where the latent starts in a_TX.
  int64_t latent_column() const { return compresses_query() ? config_.q_lora_rank : query_width(); }

  ModelConfig config_;
  Policy policy_;
  LinearMath linear_;
  AttentionParameters w_;
  int64_t heads_;
};

}  // namespace fathom
