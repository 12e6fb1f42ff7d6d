#include "model/grouped_attention.h"

#include <algorithm>

namespace fathom {

void check_has_gradients(const ModelConfig& config) {
  if (config.has_latent_attention()) return;
  throw_bad_input({config.architecture, "gradients", "grouped-query attention",
                   "a model with latent attention (DeepSeek-V2, V3 and their kin)",
                   "this family runs here (generate, chat, logits) but is not trained"});
}

GroupedAttentionParameters GroupedAttentionParameters::of(const ParameterSet& set,
                                                          const ModelConfig& config,
                                                          int64_t layer_idx) {
  const std::string layer = fmt::format("model.layers.{}.", layer_idx);
  const std::string attn = layer + "self_attn.";
  GroupedAttentionParameters p;
  p.input_norm_D = set[layer + "input_layernorm.weight"];
  p.q_YD = set.linear(attn + "q_proj.weight");
  p.kv_XD = set.linear(attn + "k_proj.weight", 2);
  if (config.qkv_bias) {
    p.q_bias_Y = set.fused_row(attn + "q_proj.bias", 1);
    p.kv_bias_X = set.fused_row(attn + "k_proj.bias", 2);
  }
  p.o_DY = set.linear(attn + "o_proj.weight");
  return p;
}

GroupedAttention::GroupedAttention(const ModelConfig& config, const Policy& policy,
                                   const GroupedAttentionParameters& weights)
    : config_(config),
      policy_(policy),
      linear_(policy),
      w_(weights),
      heads_(config.num_attention_heads),
      key_heads_(config.num_key_value_heads) {}

ScaledView GroupedAttention::as_input(Context& ctx, const TensorView& x) const {
  ScaledView codes;
  if (linear_.scaled())
    codes = linear_.allocate_input(ctx.scratch(), x.dim(0), x.dim(1), "attn.codes");
  return linear_.input(ctx, x, codes);
}

// The bias lies in y before the product is added to it, so that the sum is rounded once.
void GroupedAttention::project_one(Context& ctx, const LinearView& w, const TensorView& bias,
                                   const ScaledView& x, const TensorView& y) const {
  if (!bias.empty()) {
    Scratch::Mark mark(ctx.scratch());
    const int64_t T = y.dim(0);
    int32_t* first_row = ctx.scratch().allocate<int32_t>(T, "attn.first_row");
    std::fill_n(first_row, T, 0);
    embedding_forward(ctx, bias, first_row, y);
  }
  linear_.forward(ctx, w, x, y, /*accumulate=*/!bias.empty());
}

void GroupedAttention::project(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                               const TensorView& q_TY, const TensorView& kv_TX) const {
  Scratch::Mark mark(ctx.scratch());
  const TensorView y_TD = ctx.scratch().allocate(policy_.activations, x_TD.shape, "attn.y_TD");
  rms_norm_forward(
      ctx, {.x_TD = x_TD, .w_D = w_.input_norm_D, .eps = config_.rms_norm_eps, .y_TD = y_TD});
  const ScaledView input = as_input(ctx, y_TD);
  project_one(ctx, w_.q_YD, w_.q_bias_Y, input, q_TY);
  project_one(ctx, w_.kv_XD, w_.kv_bias_X, input, kv_TX);
  const TensorView k_TX = kv_TX.columns(0, key_heads_ * head_dim());
  for (const TensorView& x_THR : {split_heads(q_TY, heads_), split_heads(k_TX, key_heads_)}) {
    rope(ctx, {.x_THR = x_THR,
               .cos_sin_SR = rows.cos_sin_SR,
               .positions_T = rows.positions_T,
               .half_split = true});
  }
}

void GroupedAttention::add_output(Context& ctx, const TensorView& o_TY, const TensorView& x_TD,
                                  const TensorView& out_TD) const {
  if (out_TD.data != x_TD.data) cast(ctx, x_TD, out_TD);
  linear_.forward(ctx, w_.o_DY, as_input(ctx, o_TY), out_TD, /*accumulate=*/true);
}

// The expanded form is that of latent attention without a shared rotated key: a key head and its
// value side by side, read by all query heads of its group (a stride of zero).
void GroupedAttention::forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                               const TensorView& out_TD) const {
  const int64_t T = x_TD.dim(0), K = head_dim(), group = heads_ / key_heads_;
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const TensorView q_TY = scratch.allocate(act, Shape{T, heads_ * K}, "attn.q_TY");
  const TensorView kv_TX = scratch.allocate(act, Shape{T, 2 * key_heads_ * K}, "attn.kv_TX");
  const TensorView o_TY = scratch.allocate(act, q_TY.shape, "attn.o_TY");
  project(ctx, rows, x_TD, q_TY, kv_TX);

  const TensorView pair_TX = scratch.allocate(act, Shape{T, 2 * K}, "attn.pair_TX");
  for (int64_t g = 0; g < key_heads_; ++g) {
    cast(ctx, kv_TX.columns(g * K, K), pair_TX.columns(0, K));
    cast(ctx, kv_TX.columns((key_heads_ + g) * K, K), pair_TX.columns(K, K));
    TensorView kv_THX = split_heads(pair_TX, 1);
    kv_THX.shape.dim[1] = group;
    kv_THX.stride[1] = 0;
    mla_attention_forward(ctx,
                          {.q_THK = split_heads(q_TY.columns(g * group * K, group * K), group),
                           .kv_THX = kv_THX,
                           .kpe_TR = TensorView(q_TY.data, act, Shape{T, 0}, "attn.no_rope_key"),
                           .o_THP = split_heads(o_TY.columns(g * group * K, group * K), group),
                           .num_rows = rows.num_rows,
                           .first_key_T = rows.first_key_T,
                           .scale = config_.softmax_scale()});
  }
  add_output(ctx, o_TY, x_TD, out_TD);
}

void GroupedAttention::forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                                      const RowLayout& rows, const TensorView& x_TD,
                                      const TensorView& out_TD) const {
  const int64_t T = x_TD.dim(0), keys_width = key_heads_ * head_dim();
  const DType act = policy_.activations;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const TensorView q_TY = scratch.allocate(act, Shape{T, heads_ * head_dim()}, "attn.q_TY");
  const TensorView kv_TX = scratch.allocate(act, Shape{T, 2 * keys_width}, "attn.kv_TX");
  const TensorView o_TY = scratch.allocate(act, q_TY.shape, "attn.o_TY");
  project(ctx, rows, x_TD, q_TY, kv_TX);

  auto* cache_T = scratch.allocate_structs<CacheRows>(T, "attn.cache_of_token");
  int64_t* row_T = scratch.allocate<int64_t>(T, "attn.row_of_token");
  int64_t* num_keys_T = scratch.allocate<int64_t>(T, "attn.num_keys");
  int64_t t = 0;
  for (const CachedSequence& sequence : sequences) {
    for (int64_t i = 0; i < sequence.num_new; ++i, ++t) {
      new (&cache_T[t]) CacheRows(sequence.cache);
      row_T[t] = sequence.num_cached + i;
      num_keys_T[t] = row_T[t] + 1;
    }
  }
  FATHOM_CHECK_EQ(t, T, "new tokens of the sequences against rows of x");
  store_latents(ctx, {.c_TC = kv_TX.columns(0, keys_width),
                      .kpe_TR = kv_TX.columns(keys_width, keys_width),
                      .cache_T = cache_T,
                      .row_T = row_T});
  grouped_attention(ctx, {.q_THK = split_heads(q_TY, heads_),
                          .cache_T = cache_T,
                          .num_keys_T = num_keys_T,
                          .o_THK = split_heads(o_TY, heads_),
                          .num_key_heads = key_heads_,
                          .scale = config_.softmax_scale()});
  add_output(ctx, o_TY, x_TD, out_TD);
}

}  // namespace fathom
