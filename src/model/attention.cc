#include "model/attention.h"

#include <vector>

namespace fathom {
namespace {

// The norms of the two latents have an epsilon of their own: DeepSeek's code (and transformers')
// never passes them rms_norm_eps.
constexpr double kLatentNormEps = 1e-6;

}  // namespace

AttentionParameters AttentionParameters::of(const ParameterSet& set, const ModelConfig& config,
                                            int64_t layer_idx) {
  const std::string layer = fmt::format("model.layers.{}.", layer_idx);
  const std::string attn = layer + "self_attn.";
  AttentionParameters p;
  p.input_norm_D = set[layer + "input_layernorm.weight"];
  if (config.q_lora_rank > 0) {
    p.a_proj_XD = set.fused_rows(attn + "q_a_proj.weight", 2);
    p.q_norm_Q = set[attn + "q_a_layernorm.weight"];
    p.q_b_YQ = set[attn + "q_b_proj.weight"];
  } else {
    p.a_proj_XD = set.fused_rows(attn + "q_proj.weight", 2);
  }
  p.kv_norm_C = set[attn + "kv_a_layernorm.weight"];
  p.kv_b_ZC = set[attn + "kv_b_proj.weight"];
  p.o_DP = set[attn + "o_proj.weight"];
  return p;
}

Attention::Attention(const ModelConfig& config, const Policy& policy,
                     const AttentionParameters& weights)
    : config_(config), policy_(policy), w_(weights), heads_(config.num_attention_heads) {}

Attention::Saved Attention::allocate_saved(Arena& arena, int64_t max_tokens) const {
  const int64_t T = max_tokens;
  const DType act = policy_.activations;
  const int64_t X = latent_column() + config_.kv_lora_rank + config_.qk_rope_head_dim;
  const int64_t Z = heads_ * (config_.qk_nope_head_dim + config_.v_head_dim);
  const int64_t P = heads_ * config_.v_head_dim;
  Saved s;
  s.rstd_T = arena.allocate(policy_.small, Shape{T}, "attn.rstd_T");
  s.y_TD = arena.allocate(act, Shape{T, config_.hidden_size}, "attn.y_TD");
  s.a_TX = arena.allocate(act, Shape{T, X}, "attn.a_TX");
  if (compresses_query()) {
    s.q_rstd_T = arena.allocate(policy_.small, Shape{T}, "attn.q_rstd_T");
    s.cq_TQ = arena.allocate(act, Shape{T, config_.q_lora_rank}, "attn.cq_TQ");
  }
  s.q_TY = arena.allocate(act, Shape{T, query_width()}, "attn.q_TY");
  s.kv_rstd_T = arena.allocate(policy_.small, Shape{T}, "attn.kv_rstd_T");
  s.c_TC = arena.allocate(act, Shape{T, config_.kv_lora_rank}, "attn.c_TC");
  s.kv_TZ = arena.allocate(act, Shape{T, Z}, "attn.kv_TZ");
  s.o_TP = arena.allocate(act, Shape{T, P}, "attn.o_TP");
  s.lse_TH = arena.allocate(policy_.small, Shape{T, heads_}, "attn.lse_TH");
  s.dout_TD = arena.allocate(act, Shape{T, config_.hidden_size}, "attn.dout_TD");
  s.dq_TY = arena.allocate(act, Shape{T, query_width()}, "attn.dq_TY");
  s.dkv_TZ = arena.allocate(act, Shape{T, Z}, "attn.dkv_TZ");
  s.da_TX = arena.allocate(act, Shape{T, X}, "attn.da_TX");
  return s;
}

// Everything before attention itself: norms, projections, rotation.
void Attention::project(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                        const Saved& s) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim,
                N = config_.qk_nope_head_dim;
  rms_norm_forward(ctx, {.x_TD = x_TD,
                         .w_D = w_.input_norm_D,
                         .eps = config_.rms_norm_eps,
                         .y_TD = s.y_TD,
                         .rstd_T = s.rstd_T});
  gemm(ctx, {.layout = GemmLayout::kNt, .a = s.y_TD, .b = w_.a_proj_XD, .c = s.a_TX});
  if (compresses_query()) {
    rms_norm_forward(ctx, {.x_TD = s.a_TX.columns(0, config_.q_lora_rank),
                           .w_D = w_.q_norm_Q,
                           .eps = kLatentNormEps,
                           .y_TD = s.cq_TQ,
                           .rstd_T = s.q_rstd_T});
    gemm(ctx, {.layout = GemmLayout::kNt, .a = s.cq_TQ, .b = w_.q_b_YQ, .c = s.q_TY});
  } else {
    cast(ctx, s.a_TX.columns(0, query_width()), s.q_TY);
  }
  rms_norm_forward(ctx, {.x_TD = s.a_TX.columns(latent_column(), C),
                         .w_D = w_.kv_norm_C,
                         .eps = kLatentNormEps,
                         .y_TD = s.c_TC,
                         .rstd_T = s.kv_rstd_T});
  rope(ctx, {.x_THR = split_heads(s.q_TY, heads_).columns(N, R),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T});
  rope(ctx, {.x_THR = split_heads(s.a_TX.columns(latent_column() + C, R), 1),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T});
}

void Attention::forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& s,
                        const TensorView& out_TD) const {
  project(ctx, rows, x_TD, s);
  gemm(ctx, {.layout = GemmLayout::kNt, .a = s.c_TC, .b = w_.kv_b_ZC, .c = s.kv_TZ});
  mla_attention_forward(ctx, {.q_THK = split_heads(s.q_TY, heads_),
                              .kv_THX = split_heads(s.kv_TZ, heads_),
                              .kpe_TR = s.a_TX.columns(latent_column() + config_.kv_lora_rank,
                                                       config_.qk_rope_head_dim),
                              .o_THP = split_heads(s.o_TP, heads_),
                              .lse_TH = s.lse_TH,
                              .num_rows = rows.num_rows,
                              .first_key_T = rows.first_key_T,
                              .scale = config_.softmax_scale()});
  cast(ctx, x_TD, out_TD);
  gemm(ctx,
       {.layout = GemmLayout::kNt, .a = s.o_TP, .b = w_.o_DP, .c = out_TD, .accumulate = true});
}

void Attention::backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                               const Saved& s, const TensorView& dout_TD,
                               const AttentionParameters& g, const TensorView& dx_TD) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim,
                N = config_.qk_nope_head_dim;
  const int64_t T = x_TD.dim(0);
  Scratch::Mark mark(ctx.scratch());

  cast(ctx, dout_TD, s.dout_TD);
  TensorView do_TP = ctx.scratch().allocate(policy_.activations, s.o_TP.shape, "attn.do_TP");
  gemm(ctx, {.layout = GemmLayout::kNn, .a = s.dout_TD, .b = w_.o_DP, .c = do_TP});

  const TensorView dkpe_TR = s.da_TX.columns(latent_column() + C, R);
  mla_attention_backward(ctx, {.q_THK = split_heads(s.q_TY, heads_),
                               .kv_THX = split_heads(s.kv_TZ, heads_),
                               .kpe_TR = s.a_TX.columns(latent_column() + C, R),
                               .o_THP = split_heads(s.o_TP, heads_),
                               .lse_TH = s.lse_TH,
                               .do_THP = split_heads(do_TP, heads_),
                               .dq_THK = split_heads(s.dq_TY, heads_),
                               .dkv_THX = split_heads(s.dkv_TZ, heads_),
                               .dkpe_TR = dkpe_TR,
                               .num_rows = rows.num_rows,
                               .first_key_T = rows.first_key_T,
                               .scale = config_.softmax_scale()});
  // Back through the rotation: the inverse angle.
  rope(ctx, {.x_THR = split_heads(s.dq_TY, heads_).columns(N, R),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T,
             .inverse = true});
  rope(ctx, {.x_THR = split_heads(dkpe_TR, 1),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T,
             .inverse = true});

  // Key and value paths of all heads meet in the latent; the rope key does not pass through its
  // norm.
  TensorView dc_TC = ctx.scratch().allocate(policy_.activations, Shape{T, C}, "attn.dc_TC");
  gemm(ctx, {.layout = GemmLayout::kNn, .a = s.dkv_TZ, .b = w_.kv_b_ZC, .c = dc_TC});
  rms_norm_backward(ctx, {.x_TD = s.a_TX.columns(latent_column(), C),
                          .w_D = w_.kv_norm_C,
                          .rstd_T = s.kv_rstd_T,
                          .dy_TD = dc_TC,
                          .dx_TD = s.da_TX.columns(latent_column(), C),
                          .dw_D = g.kv_norm_C});
  if (compresses_query()) {
    const int64_t Q = config_.q_lora_rank;
    TensorView dcq_TQ = ctx.scratch().allocate(policy_.activations, Shape{T, Q}, "attn.dcq_TQ");
    gemm(ctx, {.layout = GemmLayout::kNn, .a = s.dq_TY, .b = w_.q_b_YQ, .c = dcq_TQ});
    rms_norm_backward(ctx, {.x_TD = s.a_TX.columns(0, Q),
                            .w_D = w_.q_norm_Q,
                            .rstd_T = s.q_rstd_T,
                            .dy_TD = dcq_TQ,
                            .dx_TD = s.da_TX.columns(0, Q),
                            .dw_D = g.q_norm_Q});
  } else {
    cast(ctx, s.dq_TY, s.da_TX.columns(0, query_width()));
  }

  TensorView dy_TD = ctx.scratch().allocate(policy_.activations, s.y_TD.shape, "attn.dy_TD");
  gemm(ctx, {.layout = GemmLayout::kNn, .a = s.da_TX, .b = w_.a_proj_XD, .c = dy_TD});
  if (dx_TD.data != dout_TD.data) cast(ctx, dout_TD, dx_TD);
  rms_norm_backward(ctx, {.x_TD = x_TD,
                          .w_D = w_.input_norm_D,
                          .rstd_T = s.rstd_T,
                          .dy_TD = dy_TD,
                          .dx_TD = dx_TD,
                          .accumulate_dx = true,
                          .dw_D = g.input_norm_D});
}

void Attention::backward_weight(Context& ctx, const Saved& s, const AttentionParameters& g) const {
  const auto weight_gradient = [&ctx](const TensorView& dy, const TensorView& x,
                                      const TensorView& dw) {
    gemm(ctx, {.layout = GemmLayout::kTn, .a = dy, .b = x, .c = dw, .accumulate = true});
  };
  weight_gradient(s.dout_TD, s.o_TP, g.o_DP);
  weight_gradient(s.dkv_TZ, s.c_TC, g.kv_b_ZC);
  if (compresses_query()) weight_gradient(s.dq_TY, s.cq_TQ, g.q_b_YQ);
  weight_gradient(s.da_TX, s.y_TD, g.a_proj_XD);
}

// ---- Inference
// ---------------------------------------------------------------------------------------

void Attention::forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                               const RowLayout& rows, const TensorView& x_TD,
                               const TensorView& out_TD) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim;
  const int64_t N = config_.qk_nope_head_dim, P = config_.v_head_dim;
  const int64_t T = x_TD.dim(0), H = heads_;
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);

  Saved s;
  s.y_TD = scratch.allocate(act, Shape{T, config_.hidden_size}, "attn.y_TD");
  s.a_TX = scratch.allocate(act, Shape{T, latent_column() + C + R}, "attn.a_TX");
  if (compresses_query())
    s.cq_TQ = scratch.allocate(act, Shape{T, config_.q_lora_rank}, "attn.cq_TQ");
  s.q_TY = scratch.allocate(act, Shape{T, query_width()}, "attn.q_TY");
  s.c_TC = scratch.allocate(act, Shape{T, C}, "attn.c_TC");
  project(ctx, rows, x_TD, s);
  const TensorView kpe_TR = s.a_TX.columns(latent_column() + C, R);

  // The cache keeps the normed latent and the rotated key. Each new token is one query that sees
  // the cache up to and including itself.
  TensorView* cache_of_token = static_cast<TensorView*>(
      scratch
          .allocate(DType::kU8, Shape{T * static_cast<int64_t>(sizeof(TensorView))},
                    "attn.cache_of_token")
          .data);
  int64_t* num_keys = scratch.allocate<int64_t>(T, "attn.num_keys");
  int64_t t = 0;
  for (const CachedSequence& sequence : sequences) {
    const TensorView fresh = sequence.cache_SX.rows(sequence.num_cached, sequence.num_new);
    cast(ctx, s.c_TC.rows(t, sequence.num_new), fresh.columns(0, C));
    cast(ctx, kpe_TR.rows(t, sequence.num_new), fresh.columns(C, R));
    for (int64_t i = 0; i < sequence.num_new; ++i, ++t) {
      cache_of_token[t] = sequence.cache_SX;
      num_keys[t] = sequence.num_cached + i + 1;
    }
  }
  FATHOM_CHECK_EQ(t, T, "new tokens of the sequences against rows of x");

  TensorView q_latent_TX = scratch.allocate(act, Shape{T, H * C}, "attn.q_latent_TX");
  TensorView ctx_TX = scratch.allocate(act, Shape{T, H * C}, "attn.ctx_TX");
  TensorView o_TP = scratch.allocate(act, Shape{T, H * P}, "attn.o_TP");
  for (int64_t h = 0; h < H; ++h) {
    const TensorView w_uk_NC = w_.kv_b_ZC.rows(h * (N + P), N);
    gemm(ctx, {.layout = GemmLayout::kNn,
               .a = s.q_TY.columns(h * (N + R), N),
               .b = w_uk_NC,
               .c = q_latent_TX.columns(h * C, C)});
  }
  mla_decode(ctx, {.q_BHC = split_heads(q_latent_TX, H),
                   .qpe_BHR = split_heads(s.q_TY, H).columns(N, R),
                   .cache_SX = cache_of_token,
                   .num_keys = num_keys,
                   .ctx_BHC = split_heads(ctx_TX, H),
                   .scale = config_.softmax_scale()});
  for (int64_t h = 0; h < H; ++h) {
    const TensorView w_uv_PC = w_.kv_b_ZC.rows(h * (N + P) + N, P);
    gemm(ctx, {.layout = GemmLayout::kNt,
               .a = ctx_TX.columns(h * C, C),
               .b = w_uv_PC,
               .c = o_TP.columns(h * P, P)});
  }
  if (out_TD.data != x_TD.data) cast(ctx, x_TD, out_TD);
  gemm(ctx, {.layout = GemmLayout::kNt, .a = o_TP, .b = w_.o_DP, .c = out_TD, .accumulate = true});
}

}  // namespace fathom
