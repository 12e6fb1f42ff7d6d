// Attention over the inference cache, in its two forms (SPEC C.1).
#include <algorithm>

#include "kernels/kernels.h"
#include "model/attention.h"
#include "model/step_bytes.h"

namespace fathom {

void Attention::forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                               const RowLayout& rows, const TensorView& x_TD,
                               const TensorView& out_TD, const NextRead& next) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim;
  const int64_t P = config_.v_head_dim, T = x_TD.dim(0);
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);

  // The latent projections are read in slices by head: their codes are not (the engine's business).
  FATHOM_CHECK(!linear_.scaled(), "inference with a policy of FP8 products");
  Saved s;
  s.a_TX = scratch.allocate(act, Shape{T, first_width()}, "attn.a_TX");
  Inputs inputs = allocate_inputs(scratch, T, /*up_projections=*/false);
  inputs.q_TY = scratch.allocate(act, Shape{T, query_width()}, "attn.q_TY");
  norm_input(ctx, x_TD, {}, inputs.y_TD);
  will_read(ctx, {&w_.q_b_YQ}, T);
  linear_.forward(ctx, w_.a_proj_XD, inputs.y_TD, s.a_TX);
  const TensorView kpe_TR = s.a_TX.columns(latent_column() + C, R);
  rope(ctx, {.x_THR = split_heads(kpe_TR, 1),
             .cos_sin_SR = rows.cos_sin_SR,
             .positions_T = rows.positions_T});
  norm_latents(ctx, s, inputs);
  const LinearView keys{.w = w_.keys_HCN};
  will_read(ctx, {&keys}, T);
  project_queries(ctx, rows, s, inputs);

  auto* cache_of_token = scratch.allocate_structs<CacheRows>(T, "attn.cache_of_token");
  int64_t* row_of_token = scratch.allocate<int64_t>(T, "attn.row_of_token");
  int64_t t = 0, num_latent_tokens = 0, num_latent_sequences = 0;
  for (const CachedSequence& sequence : sequences) {
    for (int64_t i = 0; i < sequence.num_new; ++i, ++t) {
      new (&cache_of_token[t]) CacheRows(sequence.cache);
      row_of_token[t] = sequence.num_cached + i;
    }
    if (sequence.expanded) continue;
    FATHOM_CHECK_EQ(t, num_latent_tokens + sequence.num_new, "expanded sequences stand behind");
    num_latent_tokens = t;
    ++num_latent_sequences;
  }
  FATHOM_CHECK_EQ(t, T, "new tokens of the sequences against rows of x");
  store_latents(ctx, {.c_TC = inputs.c_TC.codes,
                      .kpe_TR = kpe_TR,
                      .cache_T = cache_of_token,
                      .row_T = row_of_token});

  TensorView o_TP = scratch.allocate(act, Shape{T, heads_ * P}, "attn.o_TP");
  if (num_latent_tokens > 0) {
    attend_in_latents(ctx, sequences.first(static_cast<size_t>(num_latent_sequences)),
                      inputs.q_TY.rows(0, num_latent_tokens), o_TP.rows(0, num_latent_tokens));
  }
  t = num_latent_tokens;
  for (const CachedSequence& sequence :
       sequences.subspan(static_cast<size_t>(num_latent_sequences))) {
    attend_expanded(ctx, sequence, inputs.q_TY.rows(t, sequence.num_new),
                    o_TP.rows(t, sequence.num_new));
    t += sequence.num_new;
  }
  if (out_TD.data != x_TD.data) cast(ctx, x_TD, out_TD);
  will_read(ctx, next, T);
  linear_.forward(ctx, w_.o_DP, plain_rows(o_TP), out_TD, /*accumulate=*/true);
}

// Each token is one query that sees the cache up to and including itself; W_UK is folded into the
// query and W_UV into the output.
void Attention::attend_in_latents(Context& ctx, std::span<const CachedSequence> sequences,
                                  const TensorView& q_TY, const TensorView& o_TP) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim;
  const int64_t N = config_.qk_nope_head_dim, P = config_.v_head_dim;
  const int64_t T = q_TY.dim(0), H = heads_;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  auto* cache_of_query = scratch.allocate_structs<CacheRows>(T, "attn.cache_of_query");
  int64_t* num_keys = scratch.allocate<int64_t>(T, "attn.num_keys");
  int64_t t = 0;
  for (const CachedSequence& sequence : sequences) {
    for (int64_t i = 0; i < sequence.num_new; ++i, ++t) {
      new (&cache_of_query[t]) CacheRows(sequence.cache);
      num_keys[t] = sequence.num_cached + i + 1;
    }
  }
  TensorView q_latent_TX =
      scratch.allocate(policy_.activations, Shape{T, H * C}, "attn.q_latent_TX");
  TensorView ctx_TX = scratch.allocate(policy_.activations, Shape{T, H * C}, "attn.ctx_TX");
  // Rows of each head, of the weights or their scales.
  const auto of_heads = [&](const TensorView& all_ZX, int64_t begin, int64_t count) {
    const TensorView all_HZX = all_ZX.reshaped(Shape{H, N + P, all_ZX.dim(1)});
    TensorView rows = all_HZX;
    rows.data = all_HZX.at(0).rows(begin, count).data;
    rows.shape.dim[1] = count;
    return rows;
  };
  const LinearView& kv_b = w_.kv_b_ZC;
  const auto up_projections = [&](int64_t begin, int64_t count) {
    return ScaledView{of_heads(kv_b.w, begin, count),
                      kv_b.scales.empty() ? TensorView() : of_heads(kv_b.scales, begin, count),
                      kv_b.grain};
  };
  const bool panels = kv_b.grain == ScaleGrain::kPanel;
  const TensorView q_HTN = heads_first(q_TY, H).columns(0, N);
  will_read(ctx, {&w_.kv_b_ZC}, T);
  if (panels && kv_b.scales.empty()) {
    scaled_gemm(ctx, {.a = plain_rows(q_HTN),
                      .b = {w_.keys_HCN, {}, ScaleGrain::kPanel},
                      .c = heads_first(q_latent_TX, H)});
  } else if (panels) {
    scaled_gemm(ctx, {.layout = GemmLayout::kNn,
                      .a = plain_rows(q_HTN),
                      .b = up_projections(0, N),
                      .c = heads_first(q_latent_TX, H)});
  } else {
    gemm(ctx, {.layout = GemmLayout::kNn,
               .a = q_HTN,
               .b = up_projections(0, N).codes,
               .c = heads_first(q_latent_TX, H)});
  }
  mla_decode(ctx, {.q_BHC = split_heads(q_latent_TX, H),
                   .qpe_BHR = split_heads(q_TY, H).columns(N, R),
                   .cache = cache_of_query,
                   .num_keys = num_keys,
                   .ctx_BHC = split_heads(ctx_TX, H),
                   .scale = config_.softmax_scale()});
  will_read(ctx, {&w_.o_DP}, T);
  if (panels) {
    scaled_gemm(ctx, {.a = plain_rows(heads_first(ctx_TX, H)),
                      .b = up_projections(N, P),
                      .c = heads_first(o_TP, H)});
  } else {
    gemm(ctx, {.layout = GemmLayout::kNt,
               .a = heads_first(ctx_TX, H),
               .b = up_projections(N, P).codes,
               .c = heads_first(o_TP, H)});
  }
}

// Keys and values come from the cache, also those of the new tokens: so a chunk's result is that of
// the whole prompt whatever the format of the cache.
void Attention::attend_expanded(Context& ctx, const CachedSequence& sequence,
                                const TensorView& q_TY, const TensorView& o_TP) const {
  const int64_t C = config_.kv_lora_rank, R = config_.qk_rope_head_dim;
  const int64_t Z = config_.qk_nope_head_dim + config_.v_head_dim;
  const int64_t S = sequence.num_cached + sequence.num_new;
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  TensorView c_SC = scratch.allocate(act, Shape{S, C}, "attn.c_SC");
  TensorView kpe_SR = scratch.allocate(act, Shape{S, R}, "attn.kpe_SR");
  load_latents(ctx, {.cache = sequence.cache, .c_SC = c_SC, .kpe_SR = kpe_SR});
  const int64_t group = std::clamp<int64_t>(kExpandedBytes / (S * Z * dtype_bytes(act)), 1, heads_);
  TensorView kv_SZ = scratch.allocate(act, Shape{S, group * Z}, "attn.kv_SZ");
  for (int64_t h = 0; h < heads_; h += group) {
    const int64_t count = std::min(group, heads_ - h);
    const TensorView kv = kv_SZ.columns(0, count * Z);
    LinearView up_projections = w_.kv_b_ZC;
    up_projections.w = w_.kv_b_ZC.w.rows(h * Z, count * Z);
    if (!up_projections.scales.empty())
      up_projections.scales = w_.kv_b_ZC.scales.rows(h * Z, count * Z);
    linear_.forward(ctx, up_projections, plain_rows(c_SC), kv);
    mla_attention_forward(
        ctx, {.q_THK = split_heads(
                  q_TY.columns(h * config_.qk_head_dim(), count * config_.qk_head_dim()), count),
              .kv_THX = split_heads(kv, count),
              .kpe_TR = kpe_SR,
              .o_THP = split_heads(o_TP.columns(h * config_.v_head_dim, count * config_.v_head_dim),
                                   count),
              .scale = config_.softmax_scale()});
  }
}

}  // namespace fathom
