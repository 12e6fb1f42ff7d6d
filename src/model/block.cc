#include "model/block.h"

#include <algorithm>

namespace fathom {

BlockParameters BlockParameters::of(const ParameterSet& set, const ModelConfig& config,
                                    int64_t layer_idx) {
  const std::string layer = fmt::format("model.layers.{}.", layer_idx);
  BlockParameters p;
  if (config.has_latent_attention()) {
    p.attention = AttentionParameters::of(set, config, layer_idx);
  } else {
    p.grouped_attention = GroupedAttentionParameters::of(set, config, layer_idx);
  }
  p.ffn_norm_D = set[layer + "post_attention_layernorm.weight"];
  if (config.is_moe_layer(layer_idx)) {
    p.moe = MoeParameters::of(set, config, layer + "mlp.");
  } else {
    p.dense = FeedForwardParameters::of(set, layer + "mlp.");
  }
  return p;
}

Block::Block(const ModelConfig& config, const Policy& policy, int64_t layer_idx,
             const BlockParameters& weights, const TokenExchange& exchange)
    : config_(config),
      policy_(policy),
      layer_idx_(layer_idx),
      is_moe_(config.is_moe_layer(layer_idx)),
      w_(weights),
      attention_(config, policy, weights.attention),
      grouped_attention_(config, policy, weights.grouped_attention),
      dense_(policy, weights.dense),
      moe_(config, policy, weights.moe, exchange) {}

Block::Saved Block::allocate_saved(Arena& arena, int64_t max_tokens) const {
  const Shape wide{max_tokens, config_.hidden_size};
  Saved s;
  // Grouped attention runs forward only and keeps nothing.
  if (config_.has_latent_attention()) s.attention = attention_.allocate_saved(arena, max_tokens);
  s.h_TD = arena.allocate(policy_.residual, wide, "block.h_TD");
  s.z_rstd_T = arena.allocate(policy_.small, Shape{max_tokens}, "block.z_rstd_T");
  if (!policy_.recompute) s.z_TD = arena.allocate(policy_.activations, wide, "block.z_TD");
  if (is_moe_) {
    s.moe = moe_.allocate_saved(arena, max_tokens);
  } else {
    s.dense = dense_.allocate_saved(arena, max_tokens);
  }
  return s;
}

Block::Deferred Block::allocate_deferred(Arena& arena, int64_t max_tokens) const {
  const Shape wide{max_tokens, config_.hidden_size};
  Deferred d;
  if (config_.has_latent_attention()) d.attention = attention_.allocate_deferred(arena, max_tokens);
  if (policy_.recompute) d.z_TD = arena.allocate(policy_.activations, wide, "block.z_TD");
  if (is_moe_) {
    d.moe = moe_.allocate_deferred(arena, max_tokens);
  } else {
    d.dense = dense_.allocate_deferred(arena, max_tokens);
    d.dout_TD = arena.allocate(policy_.activations, wide, "block.dout_TD");
  }
  return d;
}

static void narrow_all(std::initializer_list<TensorView*> views, int64_t num_tokens) {
  for (TensorView* view : views) {
    if (!view->empty()) *view = view->rows(0, num_tokens);
  }
}

Block::Saved Block::narrow(const Saved& saved, int64_t num_tokens) const {
  Saved s = saved;
  s.attention = first_rows(s.attention, num_tokens);
  narrow_all({&s.h_TD, &s.z_rstd_T, &s.z_TD}, num_tokens);
  if (is_moe_) {
    s.moe = moe_.narrow(s.moe, num_tokens);
  } else {
    s.dense = first_rows(s.dense, num_tokens);
  }
  return s;
}

Block::Deferred Block::narrow(const Deferred& deferred, int64_t num_tokens) const {
  Deferred d = deferred;
  d.attention = first_rows(d.attention, num_tokens);
  narrow_all({&d.z_TD, &d.dout_TD}, num_tokens);
  if (is_moe_) {
    d.moe = moe_.narrow(d.moe, num_tokens);
  } else {
    d.dense = first_rows(d.dense, num_tokens);
  }
  return d;
}

void Block::norm_ffn_input(Context& ctx, const Saved& s, const TensorView& z_TD) const {
  rms_norm_forward(ctx, {.x_TD = s.h_TD,
                         .w_D = w_.ffn_norm_D,
                         .eps = config_.rms_norm_eps,
                         .y_TD = z_TD,
                         .rstd_T = s.z_rstd_T});
}

void Block::attention_forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                              const Saved& s, const Deferred& d, Half routing) const {
  const ZoneTimer zone(ctx.zones, "attention", 'F', layer_idx_);
  if (config_.has_latent_attention()) {
    attention_.forward(ctx, rows, x_TD, s.attention, s.h_TD);
  } else {
    grouped_attention_.forward(ctx, rows, x_TD, s.h_TD);
  }
  ctx.observe("attention", layer_idx_, s.h_TD);
  norm_ffn_input(ctx, s, z(s, d));
  if (is_moe_) moe_.route(ctx, z(s, d), s.moe, routing);
}

void Block::finish_routing(Context& ctx, const Saved& s) const {
  const ZoneTimer zone(ctx.zones, "routing", 'F', layer_idx_, /*waits=*/true);
  if (is_moe_) moe_.finish_routing(ctx, s.moe);
}

void Block::dispatch_forward(Context& ctx, const Saved& s, const Deferred& d, Half half) const {
  const ZoneTimer zone(ctx.zones, "dispatch", 'F', layer_idx_, half == Half::kReceive);
  if (is_moe_) moe_.dispatch(ctx, z(s, d), s.moe, half);
}

void Block::experts_forward(Context& ctx, const Saved& s, const Deferred& d,
                            const TensorView& out_TD) const {
  const ZoneTimer zone(ctx.zones, "MLP", 'F', layer_idx_);
  cast(ctx, s.h_TD, out_TD);
  if (is_moe_) {
    moe_.experts(ctx, z(s, d), s.moe, d.moe, out_TD);
  } else {
    dense_.forward(ctx, z(s, d), s.dense, out_TD);
  }
}

void Block::combine_forward(Context& ctx, const Saved& s, const Deferred& d,
                            const TensorView& out_TD, Half half) const {
  const ZoneTimer zone(ctx.zones, "combine", 'F', layer_idx_, half == Half::kReceive);
  if (is_moe_) moe_.combine(ctx, s.moe, d.moe, out_TD, half);
  if (receives(half)) ctx.observe("block", layer_idx_, out_TD);
}

void Block::combine_backward(Context& ctx, const Saved& s, const Deferred& d,
                             const TensorView& dout_TD, Half half) const {
  const ZoneTimer zone(ctx.zones, "combine", 'B', layer_idx_, half == Half::kReceive);
  if (sends(half) && policy_.recompute) norm_ffn_input(ctx, s, d.z_TD);
  if (is_moe_) {
    moe_.combine_backward(ctx, s.moe, d.moe, dout_TD, half);
  } else if (sends(half)) {
    cast(ctx, dout_TD, d.dout_TD);
  }
}

void Block::experts_backward_input(Context& ctx, const Saved& s, const Deferred& d,
                                   const TensorView& dz_TD) const {
  const ZoneTimer zone(ctx.zones, "MLP", 'B', layer_idx_);
  if (is_moe_) {
    moe_.experts_backward_input(ctx, s.moe, d.moe);
  } else {
    dense_.backward_input(ctx, s.dense, d.dense, d.dout_TD, dz_TD, /*accumulate=*/false);
  }
}

void Block::dispatch_backward(Context& ctx, const Saved& s, const Deferred& d,
                              const TensorView& dz_TD, Half half) const {
  const ZoneTimer zone(ctx.zones, "dispatch", 'B', layer_idx_, half == Half::kReceive);
  if (is_moe_) moe_.dispatch_backward(ctx, s.moe, d.moe, dz_TD, half);
}

void Block::attention_backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                                     const Saved& s, const Deferred& d, const BalanceTerm& balance,
                                     const TensorView& dz_TD, const TensorView& dout_TD,
                                     const BlockParameters& g, const TensorView& dx_TD) const {
  const ZoneTimer zone(ctx.zones, "attention", 'B', layer_idx_);
  check_has_gradients(config_);
  if (is_moe_) moe_.route_backward(ctx, z(s, d), s.moe, d.moe, balance, g.moe, dz_TD);
  // dh = dout + d(norm): the residual path goes around the FFN.
  if (dx_TD.data != dout_TD.data) cast(ctx, dout_TD, dx_TD);
  rms_norm_backward(ctx, {.x_TD = s.h_TD,
                          .w_D = w_.ffn_norm_D,
                          .rstd_T = s.z_rstd_T,
                          .dy_TD = dz_TD,
                          .dx_TD = dx_TD,
                          .accumulate_dx = true,
                          .dw_D = g.ffn_norm_D});
  attention_.backward_input(ctx, rows, x_TD, s.attention, d.attention, dx_TD, g.attention, dx_TD);
}

int64_t Block::num_early_weight_pieces() const {
  return is_moe_ ? 2 * moe_.num_weight_groups() : 0;
}

int64_t Block::num_weight_pieces() const {
  return num_early_weight_pieces() + num_ffn_weight_pieces() + attention_.num_weight_pieces();
}

void Block::backward_weight_piece(Context& ctx, int64_t piece, const Saved& s, const Deferred& d,
                                  const BlockParameters& g) const {
  const int64_t early = num_early_weight_pieces(), of_ffn = piece - early,
                of_attention = of_ffn - num_ffn_weight_pieces();
  const ZoneTimer zone(ctx.zones, of_attention >= 0 ? "attention" : "MLP", 'W', layer_idx_);
  if (of_attention >= 0) {
    attention_.backward_weight(ctx, of_attention, s.attention, d.attention, g.attention);
  } else if (piece < early) {
    moe_.routed_backward_weight(
        ctx, {.group = piece / 2, .num_groups = early / 2, .of_down = piece % 2 == 0}, s.moe, d.moe,
        g.moe);
  } else if (is_moe_) {
    moe_.shared_backward_weight(ctx, of_ffn, z(s, d), s.moe, d.moe, g.moe);
  } else {
    dense_.backward_weight(ctx, of_ffn, z(s, d), s.dense, d.dense, d.dout_TD, g.dense);
  }
}

void Block::forward(Context& ctx, const RowLayout& rows, const TensorView& x_TD, const Saved& s,
                    const Deferred& d, const TensorView& out_TD) const {
  attention_forward(ctx, rows, x_TD, s, d);
  dispatch_forward(ctx, s, d);
  experts_forward(ctx, s, d, out_TD);
  combine_forward(ctx, s, d, out_TD);
}

void Block::backward_input(Context& ctx, const RowLayout& rows, const TensorView& x_TD,
                           const Saved& s, const Deferred& d, const BalanceTerm& balance,
                           const TensorView& dout_TD, const BlockParameters& g,
                           const TensorView& dx_TD) const {
  Scratch::Mark mark(ctx.scratch());
  TensorView dz_TD = ctx.scratch().allocate(policy_.residual, s.h_TD.shape, "block.dz_TD");
  combine_backward(ctx, s, d, dout_TD);
  experts_backward_input(ctx, s, d, dz_TD);
  dispatch_backward(ctx, s, d, dz_TD);
  attention_backward_input(ctx, rows, x_TD, s, d, balance, dz_TD, dout_TD, g, dx_TD);
}

void Block::backward_weight(Context& ctx, const Saved& s, const Deferred& d,
                            const BlockParameters& g) const {
  const int64_t early = num_early_weight_pieces();
  if (early > 0) {
    const ZoneTimer zone(ctx.zones, "MLP", 'W', layer_idx_);
    for (const bool of_down : {true, false})
      moe_.routed_backward_weight(ctx, {.of_down = of_down}, s.moe, d.moe, g.moe);
  }
  for (int64_t piece = early; piece < num_weight_pieces(); ++piece)
    backward_weight_piece(ctx, piece, s, d, g);
}

// What the router says to the layer's input without its attention: nearly what it will say, and
// early enough for reading beside the attention.
void Block::expect_experts(Context& ctx, const TensorView& x_TD) const {
  Scratch::Mark mark(ctx.scratch());
  TensorView z_TD = ctx.scratch().allocate(policy_.activations, x_TD.shape, "block.early_z_TD");
  rms_norm_forward(ctx,
                   {.x_TD = x_TD, .w_D = w_.ffn_norm_D, .eps = config_.rms_norm_eps, .y_TD = z_TD});
  moe_.expect_experts(ctx, z_TD);
}

void Block::forward_cached(Context& ctx, std::span<const CachedSequence> sequences,
                           const RowLayout& rows, const TensorView& x_TD, const NextRead& next,
                           int64_t* expert_counts, int32_t* expert_choices_TA) const {
  if (is_moe_ && moe_.has_expert_source()) expect_experts(ctx, x_TD);
  if (config_.has_latent_attention()) {
    const LinearView router = is_moe_ ? moe_.router() : LinearView{};
    attention_.forward_cached(ctx, sequences, rows, x_TD, x_TD,
                              {is_moe_ ? &router : &dense_.first_weights()});
  } else {
    grouped_attention_.forward_cached(ctx, sequences, rows, x_TD, x_TD);
  }
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const int64_t T = x_TD.dim(0);
  TensorView z_TD = scratch.allocate(policy_.activations, x_TD.shape, "block.z_TD");
  rms_norm_forward(ctx,
                   {.x_TD = x_TD, .w_D = w_.ffn_norm_D, .eps = config_.rms_norm_eps, .y_TD = z_TD});
  if (!is_moe_) {
    dense_.forward(ctx, z_TD, dense_.allocate_saved(scratch, T), x_TD, next);
    return;
  }
  Moe::Deferred d;
  const Moe::Saved s = moe_.allocate_temporary(scratch, T, d);
  moe_.route(ctx, z_TD, s);
  moe_.dispatch(ctx, z_TD, s);
  moe_.experts(ctx, z_TD, s, d, x_TD, next);
  moe_.combine(ctx, s, d, x_TD);
  if (expert_counts != nullptr) moe_.count_experts(s, expert_counts);
  if (expert_choices_TA != nullptr)
    std::copy_n(s.routed.idx_TA.as<int32_t>(), s.routed.idx_TA.num_elements(), expert_choices_TA);
}

}  // namespace fathom
