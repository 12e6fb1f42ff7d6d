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
    p.a_proj_XD = set.linear(attn + "q_a_proj.weight", 2);
    p.q_norm_Q = set[attn + "q_a_layernorm.weight"];
    p.q_b_YQ = set.linear(attn + "q_b_proj.weight");
  } else {
    p.a_proj_XD = set.linear(attn + "q_proj.weight", 2);
  }
  p.kv_norm_C = set[attn + "kv_a_layernorm.weight"];
  p.kv_b_ZC = set.linear(attn + "kv_b_proj.weight");
  p.keys_HCN = set.transposed_keys(attn + "kv_b_proj.weight");
  p.o_DP = set.linear(attn + "o_proj.weight");
  return p;
}

Attention::Attention(const ModelConfig& config, const Policy& policy,
                     const AttentionParameters& weights)
    : config_(config),
      policy_(policy),
      linear_(policy),
      w_(weights),
      heads_(config.num_attention_heads) {}

template <typename Memory>
Attention::Inputs Attention::allocate_inputs(Memory& memory, int64_t num_tokens,
                                             bool up_projections) const {
  const int64_t T = num_tokens;
  const auto input = [&](int64_t width, const char* name) {
    return linear_.scaled()
               ? linear_.allocate_input(memory, T, width, name)
               : plain_rows(memory.allocate(policy_.activations, Shape{T, width}, name));
  };
  Inputs inputs;
  inputs.y_TD = input(config_.hidden_size, "attn.y_TD");
  if (compresses_query()) inputs.cq_TQ = input(config_.q_lora_rank, "attn.cq_TQ");
  inputs.c_TC = input(config_.kv_lora_rank, "attn.c_TC");
  if (!up_projections) return inputs;
  const int64_t Z = heads_ * (config_.qk_nope_head_dim + config_.v_head_dim);
  inputs.q_TY = memory.allocate(policy_.activations, Shape{T, query_width()}, "attn.q_TY");
  inputs.kv_TZ = memory.allocate(policy_.activations, Shape{T, Z}, "attn.kv_TZ");
  return inputs;
}

Attention::Saved Attention::allocate_saved(Arena& arena, int64_t max_tokens) const {
  const int64_t T = max_tokens;
  const int64_t P = heads_ * config_.v_head_dim;
  const auto small = [&](Shape shape, const char* name) {
    return arena.allocate(policy_.small, shape, name);
  };
  Saved s;
  s.rstd_T = small(Shape{T}, "attn.rstd_T");
  if (compresses_query()) s.q_rstd_T = small(Shape{T}, "attn.q_rstd_T");
  s.kv_rstd_T = small(Shape{T}, "attn.kv_rstd_T");
  s.a_TX = arena.allocate(policy_.activations, Shape{T, first_width()}, "attn.a_TX");
  s.lse_TH = small(Shape{T, heads_}, "attn.lse_TH");
  if (keeps_e5m6()) {
    s.o_bytes_TX = arena.allocate(DType::kU8, Shape{T, packed_e5m6_bytes(P)}, "attn.o_bytes_TX");
    s.o_scales_TX =
        arena.allocate(DType::kF32, scale_shape(ScaleGrain::kRow, T, P), "attn.o_scales_TX");
  } else {
    s.o_TP = arena.allocate(policy_.activations, Shape{T, P}, "attn.o_TP");
  }
  if (!policy_.recompute) s.inputs = allocate_inputs(arena, T, /*up_projections=*/true);
  return s;
}

Attention::Deferred Attention::allocate_deferred(Arena& arena, int64_t max_tokens) const {
  const int64_t T = max_tokens;
  const DType act = policy_.activations;
  const int64_t Z = heads_ * (config_.qk_nope_head_dim + config_.v_head_dim);
  Deferred d;
  d.dout_TD = arena.allocate(act, Shape{T, config_.hidden_size}, "attn.dout_TD");
  d.dq_TY = arena.allocate(act, Shape{T, query_width()}, "attn.dq_TY");
  d.dkv_TZ = arena.allocate(act, Shape{T, Z}, "attn.dkv_TZ");
  d.da_TX = arena.allocate(act, Shape{T, first_width()}, "attn.da_TX");
  if (policy_.recompute) d.inputs = allocate_inputs(arena, T, /*up_projections=*/false);
  return d;
}

// y as its product reads it: plain, or codes of the plain norm.
void Attention::norm(Context& ctx, const TensorView& x, const TensorView& w, double eps,
                     const TensorView& rstd_T, const ScaledView& y) const {
  Scratch::Mark mark(ctx.scratch());
  const TensorView out =
      linear_.scaled() ? ctx.scratch().allocate(policy_.activations, y.codes.shape, "attn.normed")
                       : y.codes;
  rms_norm_forward(ctx, {.x_TD = x, .w_D = w, .eps = eps, .y_TD = out, .rstd_T = rstd_T});
  if (linear_.scaled()) quantize(ctx, {.x = plain_rows(out), .y = y});
}

void Attention::norm_input(Context& ctx, const TensorView& x_TD, const TensorView& rstd_T,
                           const ScaledView& y_TD) const {
  norm(ctx, x_TD, w_.input_norm_D, config_.rms_norm_eps, rstd_T, y_TD);
}

void Attention::norm_latents(Context& ctx, const Saved& s, const Inputs& inputs) const {
  if (compresses_query()) {
    norm(ctx, s.a_TX.columns(0, config_.q_lora_rank), w_.q_norm_Q, kLatentNormEps, s.q_rstd_T,
         inputs.cq_TQ);
  }
  norm(ctx, s.a_TX.columns(latent_column(), config_.kv_lora_rank), w_.kv_norm_C, kLatentNormEps,
       s.kv_rstd_T, inputs.c_TC);
}

void Attention::project_queries(Context& ctx, const RowLayout& rows, const Saved& s,
                                const Inputs& inputs) const {
  if (compresses_query()) {
    linear_.forward(ctx, w_.q_b_YQ, inputs.cq_TQ, inputs.q_TY);
  } else {
    cast(ctx, s.a_TX.columns(0, query_width()), inputs.q_TY);
  }
  rope(ctx, {.x_THR = split_heads(inputs.q_TY, heads_)
                          .columns(config_.qk_nope_head_dim, config_.qk_rope_head_dim),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T});
}

void Attention::keep_output(Context& ctx, const TensorView& o_TP, const Saved& s) const {
  Scratch::Mark mark(ctx.scratch());
  const ScaledView codes{ctx.scratch().allocate(DType::kE5M6, o_TP.shape, "attn.o_codes"),
                         s.o_scales_TX, ScaleGrain::kRow};
  quantize(ctx, {.x = plain_rows(o_TP), .y = codes, .power_of_two = true});
  pack_e5m6(ctx, {.codes = codes.codes, .bytes = s.o_bytes_TX});
}

ScaledView Attention::output_codes(Context& ctx, const Saved& s, int64_t num_tokens) const {
  const ScaledView codes{
      ctx.scratch().allocate(DType::kE5M6, Shape{num_tokens, heads_ * config_.v_head_dim},
                             "attn.o_codes"),
      s.o_scales_TX, ScaleGrain::kRow};
  pack_e5m6(ctx, {.codes = codes.codes, .bytes = s.o_bytes_TX, .unpack = true});
  return codes;
}

void Attention::forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& s,
                        const TensorView& out_TD) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim, T = x_TD.dim(0);
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const Inputs inputs =
      policy_.recompute ? allocate_inputs(scratch, T, /*up_projections=*/true) : s.inputs;
  norm_input(ctx, x_TD, s.rstd_T, inputs.y_TD);
  linear_.forward(ctx, w_.a_proj_XD, inputs.y_TD, s.a_TX);
  rope(ctx, {.x_THR = split_heads(s.a_TX.columns(latent_column() + C, R), 1),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T});
  norm_latents(ctx, s, inputs);
  project_queries(ctx, rows, s, inputs);
  linear_.forward(ctx, w_.kv_b_ZC, inputs.c_TC, inputs.kv_TZ);
  const int64_t P = heads_ * config_.v_head_dim;
  const TensorView o_TP =
      keeps_e5m6() ? scratch.allocate(policy_.activations, Shape{T, P}, "attn.o_TP") : s.o_TP;
  mla_attention_forward(ctx, {.q_THK = split_heads(inputs.q_TY, heads_),
                              .kv_THX = split_heads(inputs.kv_TZ, heads_),
                              .kpe_TR = s.a_TX.columns(latent_column() + C, R),
                              .o_THP = split_heads(o_TP, heads_),
                              .lse_TH = s.lse_TH,
                              .num_rows = rows.num_rows,
                              .first_key_T = rows.first_key_T,
                              .scale = config_.softmax_scale()});
  if (keeps_e5m6()) keep_output(ctx, o_TP, s);
  cast(ctx, x_TD, out_TD);
  ScaledView o_codes;
  if (linear_.scaled()) o_codes = linear_.allocate_input(scratch, T, P, "attn.o_codes");
  linear_.forward(ctx, w_.o_DP, linear_.input(ctx, o_TP, o_codes), out_TD, /*accumulate=*/true);
}

void Attention::backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                               const Saved& s, const Deferred& d, const TensorView& dout_TD,
                               const AttentionParameters& g, const TensorView& dx_TD) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim,
                N = config_.qk_nope_head_dim, P = heads_ * config_.v_head_dim;
  const int64_t T = x_TD.dim(0);
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);

  Inputs inputs = s.inputs;
  if (policy_.recompute) {
    inputs = d.inputs;
    inputs.q_TY = scratch.allocate(act, d.dq_TY.shape, "attn.q_TY");
    inputs.kv_TZ = scratch.allocate(act, d.dkv_TZ.shape, "attn.kv_TZ");
    norm_input(ctx, x_TD, s.rstd_T, inputs.y_TD);
    norm_latents(ctx, s, inputs);
    project_queries(ctx, rows, s, inputs);
    linear_.forward(ctx, w_.kv_b_ZC, inputs.c_TC, inputs.kv_TZ);
  }
  TensorView o_TP = s.o_TP;
  if (keeps_e5m6()) {
    o_TP = scratch.allocate(act, Shape{T, P}, "attn.o_TP");
    Scratch::Mark codes_mark(scratch);
    dequantize(ctx, {.x = output_codes(ctx, s, T), .y = o_TP});
  }

  cast(ctx, dout_TD, d.dout_TD);
  TensorView do_TP = scratch.allocate(act, o_TP.shape, "attn.do_TP");
  linear_.backward_input(ctx, w_.o_DP, plain_rows(d.dout_TD), do_TP);

  const TensorView dkpe_TR = d.da_TX.columns(latent_column() + C, R);
  mla_attention_backward(ctx, {.q_THK = split_heads(inputs.q_TY, heads_),
                               .kv_THX = split_heads(inputs.kv_TZ, heads_),
                               .kpe_TR = s.a_TX.columns(latent_column() + C, R),
                               .o_THP = split_heads(o_TP, heads_),
                               .lse_TH = s.lse_TH,
                               .do_THP = split_heads(do_TP, heads_),
                               .dq_THK = split_heads(d.dq_TY, heads_),
                               .dkv_THX = split_heads(d.dkv_TZ, heads_),
                               .dkpe_TR = dkpe_TR,
                               .num_rows = rows.num_rows,
                               .first_key_T = rows.first_key_T,
                               .scale = config_.softmax_scale()});
  // Back through the rotation: the inverse angle.
  rope(ctx, {.x_THR = split_heads(d.dq_TY, heads_).columns(N, R),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T,
             .inverse = true});
  rope(ctx, {.x_THR = split_heads(dkpe_TR, 1),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T,
             .inverse = true});

  // Key and value paths of all heads meet in the latent; the rope key does not pass through its
  // norm.
  TensorView dc_TC = scratch.allocate(act, Shape{T, C}, "attn.dc_TC");
  linear_.backward_input(ctx, w_.kv_b_ZC, plain_rows(d.dkv_TZ), dc_TC);
  rms_norm_backward(ctx, {.x_TD = s.a_TX.columns(latent_column(), C),
                          .w_D = w_.kv_norm_C,
                          .rstd_T = s.kv_rstd_T,
                          .dy_TD = dc_TC,
                          .dx_TD = d.da_TX.columns(latent_column(), C),
                          .dw_D = g.kv_norm_C});
  if (compresses_query()) {
    const int64_t Q = config_.q_lora_rank;
    TensorView dcq_TQ = scratch.allocate(act, Shape{T, Q}, "attn.dcq_TQ");
    linear_.backward_input(ctx, w_.q_b_YQ, plain_rows(d.dq_TY), dcq_TQ);
    rms_norm_backward(ctx, {.x_TD = s.a_TX.columns(0, Q),
                            .w_D = w_.q_norm_Q,
                            .rstd_T = s.q_rstd_T,
                            .dy_TD = dcq_TQ,
                            .dx_TD = d.da_TX.columns(0, Q),
                            .dw_D = g.q_norm_Q});
  } else {
    cast(ctx, d.dq_TY, d.da_TX.columns(0, query_width()));
  }

  TensorView dy_TD = scratch.allocate(act, x_TD.shape, "attn.dy_TD");
  linear_.backward_input(ctx, w_.a_proj_XD, plain_rows(d.da_TX), dy_TD);
  if (dx_TD.data != dout_TD.data) cast(ctx, dout_TD, dx_TD);
  rms_norm_backward(ctx, {.x_TD = x_TD,
                          .w_D = w_.input_norm_D,
                          .rstd_T = s.rstd_T,
                          .dy_TD = dy_TD,
                          .dx_TD = dx_TD,
                          .accumulate_dx = true,
                          .dw_D = g.input_norm_D});
}

void Attention::backward_weight(Context& ctx, int64_t piece, const Saved& s, const Deferred& d,
                                const AttentionParameters& g) const {
  Scratch::Mark mark(ctx.scratch());
  const Inputs& inputs = policy_.recompute ? d.inputs : s.inputs;
  switch (piece) {
    case 0: {
      const ScaledView o_TP =
          keeps_e5m6() ? output_codes(ctx, s, d.dout_TD.dim(0)) : plain_rows(s.o_TP);
      return linear_.backward_weight(ctx, {.dw = g.o_DP,
                                           .dy = plain_rows(d.dout_TD),
                                           .x = o_TP,
                                           .power_of_two_x = keeps_e5m6()});
    }
    case 1:
      return linear_.backward_weight(
          ctx, {.dw = g.kv_b_ZC, .dy = plain_rows(d.dkv_TZ), .x = inputs.c_TC});
    case 2:
      return linear_.backward_weight(
          ctx, {.dw = g.a_proj_XD, .dy = plain_rows(d.da_TX), .x = inputs.y_TD});
    default:
      return linear_.backward_weight(
          ctx, {.dw = g.q_b_YQ, .dy = plain_rows(d.dq_TY), .x = inputs.cq_TQ});
  }
}

}  // namespace fathom
