#include "model/moe.h"

namespace fathom {

MoeParameters MoeParameters::of(const ParameterSet& set, const ModelConfig& config,
                                const std::string& prefix) {
  // The experts that are here: all, or a range of them.
  const auto gate_proj = [&](int64_t e) {
    return fmt::format("{}experts.{}.gate_proj.weight", prefix, e);
  };
  int64_t first = 0;
  while (first < config.n_routed_experts && !set.contains(gate_proj(first))) ++first;
  int64_t E = 0;
  while (first + E < config.n_routed_experts && set.contains(gate_proj(first + E))) ++E;
  MoeParameters p;
  p.router_ED = set[prefix + "gate.weight"];
  if (config.has_router_bias()) p.router_bias_E = set[prefix + "gate.e_score_correction_bias"];
  p.w1_EXD = set.linear(gate_proj(first), 2 * E, E);
  p.w2_EDF = set.linear(fmt::format("{}experts.{}.down_proj.weight", prefix, first), E, E);
  if (config.n_shared_experts > 0)
    p.shared = FeedForwardParameters::of(set, prefix + "shared_experts.");
  return p;
}

Moe::Moe(const ModelConfig& config, const Policy& policy, const MoeParameters& weights,
         const TokenExchange& exchange)
    : config_(config),
      policy_(policy),
      linear_(policy),
      swiglu_(policy),
      w_(weights),
      shared_(policy, weights.shared),
      exchange_(&exchange) {}

template <typename Memory>
Moe::Saved Moe::allocate_forward(Memory& memory, int64_t num_tokens) const {
  const int64_t T = num_tokens, E = config_.n_routed_experts, A = config_.num_experts_per_tok,
                U = max_rows(T);
  const int64_t D = config_.hidden_size, F = config_.moe_intermediate_size;
  const DType act = policy_.activations, small = policy_.small;
  Saved s;
  s.scores_TE = memory.allocate(small, Shape{T, E}, "moe.scores_TE");
  s.weight_TA = memory.allocate(small, Shape{T, A}, "moe.weight_TA");
  s.routed.idx_TA = memory.allocate(DType::kI32, Shape{T, A}, "moe.idx_TA");
  s.routed.position_TA = memory.allocate(DType::kI32, Shape{T, A}, "moe.position_TA");
  s.routed.token_U = memory.allocate(DType::kI32, Shape{T * A}, "moe.token_U");
  s.routed.offsets = memory.allocate(DType::kI64, Shape{num_experts_here() + 1}, "moe.offsets");
  s.routed.layout = exchange_->make_layout();
  s.row_scale_U = memory.allocate(small, Shape{U}, "moe.row_scale_U");
  s.x_UD = linear_.scaled() ? linear_.allocate_input(memory, U, D, "moe.x_UD")
                            : plain_rows(memory.allocate(act, Shape{U, D}, "moe.x_UD"));
  s.swiglu = swiglu_.allocate_saved(memory, U, F);
  if (has_shared()) s.shared = shared_.allocate_saved(memory, T);
  return s;
}

Moe::Saved Moe::allocate_temporary(Scratch& scratch, int64_t num_tokens, Deferred& d) const {
  d.y_UD = scratch.allocate(policy_.activations, Shape{max_rows(num_tokens), config_.hidden_size},
                            "moe.y_UD");
  return allocate_forward(scratch, num_tokens);
}

Moe::Saved Moe::allocate_saved(Arena& arena, int64_t max_tokens) const {
  return allocate_forward(arena, max_tokens);
}

Moe::Deferred Moe::allocate_deferred(Arena& arena, int64_t max_tokens) const {
  const int64_t T = max_tokens, U = max_rows(T), D = config_.hidden_size;
  const DType act = policy_.activations;
  Deferred d;
  d.y_UD = arena.allocate(act, Shape{U, D}, "moe.y_UD");
  d.dy_UD = linear_.scaled() ? linear_.allocate_gradient(arena, U, D, "moe.dy_UD")
                             : plain_rows(arena.allocate(act, Shape{U, D}, "moe.dy_UD"));
  d.dx_UD = arena.allocate(act, Shape{U, D}, "moe.dx_UD");
  d.drow_scale_U = arena.allocate(policy_.small, Shape{U}, "moe.drow_scale_U");
  d.dweight_TA =
      arena.allocate(policy_.small, Shape{T, config_.num_experts_per_tok}, "moe.dweight_TA");
  d.swiglu = swiglu_.allocate_deferred(arena, U, config_.moe_intermediate_size);
  if (has_shared()) d.shared = shared_.allocate_deferred(arena, T);
  d.dout_TD = arena.allocate(act, Shape{T, D}, "moe.dout_TD");
  return d;
}

Moe::Saved Moe::narrow(const Saved& saved, int64_t num_tokens) const {
  Saved s = saved;
  for (TensorView* view : {&s.scores_TE, &s.weight_TA, &s.routed.idx_TA, &s.routed.position_TA}) {
    *view = view->rows(0, num_tokens);
  }
  s.routed.token_U = s.routed.token_U.rows(0, num_tokens * config_.num_experts_per_tok);
  s = with_rows(s, max_rows(num_tokens));
  s.shared = first_rows(s.shared, num_tokens);
  return s;
}

Moe::Deferred Moe::narrow(const Deferred& deferred, int64_t num_tokens) const {
  Deferred d = with_rows(deferred, max_rows(num_tokens));
  d.shared = first_rows(d.shared, num_tokens);
  d.dout_TD = d.dout_TD.rows(0, num_tokens);
  d.dweight_TA = d.dweight_TA.rows(0, num_tokens);
  return d;
}

Moe::Saved Moe::with_rows(Saved s, int64_t num_rows) const {
  s.row_scale_U = s.row_scale_U.rows(0, num_rows);
  s.x_UD = first_rows(s.x_UD, num_rows);
  s.swiglu = first_rows(s.swiglu, num_rows);
  return s;
}

Moe::Deferred Moe::with_rows(Deferred d, int64_t num_rows) const {
  for (TensorView* view : {&d.y_UD, &d.dx_UD, &d.drow_scale_U}) {
    if (!view->empty()) *view = view->rows(0, num_rows);
  }
  d.dy_UD = first_rows(d.dy_UD, num_rows);
  d.swiglu = first_rows(d.swiglu, num_rows);
  return d;
}

Moe::Saved Moe::arrived(const Saved& saved) const {
  return with_rows(saved, saved.routed.num_rows());
}

Moe::Deferred Moe::arrived(const Saved& saved, const Deferred& deferred) const {
  return with_rows(deferred, saved.routed.num_rows());
}

// The router is computed in the small dtype (fp32): V3's own BF16 logits make near-ties fall
// elsewhere.
void Moe::route(Context& ctx, const TensorView& z_TD, const Saved& s, Half half) const {
  Scratch::Mark mark(ctx.scratch());
  TensorView z_wide = z_TD;
  if (z_TD.dtype != policy_.small) {
    z_wide = ctx.scratch().allocate(policy_.small, z_TD.shape, "moe.z_wide_TD");
    cast(ctx, z_TD, z_wide);
  }
  TensorView logits_TE = ctx.scratch().allocate(policy_.small, s.scores_TE.shape, "moe.logits_TE");
  if (has_shared()) will_read(ctx, {&shared_.first_weights()}, z_TD.dim(0));
  gemm(ctx, {.layout = GemmLayout::kNt, .a = z_wide, .b = w_.router_ED, .c = logits_TE});
  router_forward(
      ctx,
      {.logits_TE = logits_TE,
       .bias_E = w_.router_bias_E,
       .scoring = config_.scoring_func,
       .group_score = config_.topk_method == TopkMethod::kGroupLimitedGreedy ? GroupScore::kMax
                                                                             : GroupScore::kTop2Sum,
       .n_group = config_.topk_method == TopkMethod::kGreedy ? 1 : config_.n_group,
       .topk_group = config_.topk_method == TopkMethod::kGreedy ? 1 : config_.topk_group,
       .num_experts_per_tok = config_.num_experts_per_tok,
       .norm_topk_prob = config_.norm_topk_prob,
       .routed_scaling_factor = config_.routed_scaling_factor,
       .scores_TE = s.scores_TE,
       .idx_TA = s.routed.idx_TA,
       .weight_TA = s.weight_TA});
  exchange_->plan(ctx, s.routed, half);
}

void Moe::dispatch_rows(Context& ctx, const TensorView& x_TD, DType code, const Saved& s,
                        const ScaledView& x_UD, Half half) const {
  if (!linear_.scaled()) return exchange_->dispatch(ctx, x_TD, s.routed, x_UD.codes, half);
  Scratch::Mark mark(ctx.scratch());
  ScaledView codes;
  if (sends(half)) {
    codes = allocate_codes(ctx.scratch(), code, policy_.fp8.activations, x_TD.dim(0), x_TD.dim(1),
                           "moe.dispatched_TD");
    quantize(
        ctx,
        {.x = plain_rows(x_TD), .y = codes, .power_of_two = policy_.fp8.dispatch_power_of_two});
  }
  exchange_->dispatch(ctx, codes.codes, s.routed, x_UD.codes, half);
  if (policy_.fp8.activations == ScaleGrain::kRow) {
    exchange_->dispatch(ctx, codes.scales, s.routed, x_UD.scales, half);
  } else if (sends(half)) {
    cast(ctx, codes.scales, x_UD.scales);  // one for all
  }
}

void Moe::dispatch(Context& ctx, const TensorView& z_TD, const Saved& saved, Half half) const {
  const Saved s = arrived(saved);
  dispatch_rows(ctx, z_TD, policy_.fp8.forward_codes, s, s.x_UD, half);
  exchange_->dispatch_values(ctx, s.weight_TA, s.routed, s.row_scale_U, half);
}

void Moe::experts(Context& ctx, const TensorView& z_TD, const Saved& saved,
                  const Deferred& deferred, const TensorView& out_TD, const NextRead& next) const {
  const Saved s = arrived(saved);
  const Deferred d = arrived(saved, deferred);
  const int64_t T = z_TD.dim(0);
  const ExpertRows rows = expert_rows(s);
  // The shared expert comes first: behind it the routed ones are known, and read ahead.
  if (has_shared()) shared_.forward(ctx, z_TD, s.shared, out_TD, {&w_.w1_EXD, rows});
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const int64_t U = s.x_UD.codes.dim(0), F = config_.moe_intermediate_size;
  const TensorView gate_up_UX = swiglu_.gate_up(ctx, s.swiglu);
  const TensorView h_UF = s.swiglu.h_TF.empty()
                              ? scratch.allocate(policy_.activations, Shape{U, F}, "moe.h_UF")
                              : s.swiglu.h_TF;
  if (source_ != nullptr) return experts_from_source(ctx, s, gate_up_UX, h_UF, d.y_UD, T);
  will_read(ctx, {&w_.w2_EDF, rows}, T);
  linear_.forward(ctx, w_.w1_EXD, s.x_UD, gate_up_UX, /*accumulate=*/false, rows);
  swiglu_.forward(ctx, gate_up_UX, s.row_scale_U, s.swiglu, h_UF);
  ScaledView h_codes;
  if (linear_.scaled()) h_codes = linear_.allocate_input(scratch, U, F, "moe.h_codes");
  will_read(ctx, next, T);
  linear_.forward(ctx, w_.w2_EDF, linear_.input(ctx, h_UF, h_codes), d.y_UD,
                  /*accumulate=*/false, rows);
}

// Expert after expert, so that one of them need be in memory at a time.
void Moe::experts_from_source(Context& ctx, const Saved& s, const TensorView& gate_up_UX,
                              const TensorView& h_UF, const TensorView& y_UD,
                              int64_t num_tokens) const {
  FATHOM_CHECK(!linear_.scaled(), "experts from a source under a policy of FP8 products");
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  int64_t* used = ctx.scratch().allocate<int64_t>(num_experts_here(), "moe.used_experts");
  int64_t num_used = 0;
  for (int64_t e = 0; e < num_experts_here(); ++e) {
    if (offsets[e + 1] > offsets[e]) used[num_used++] = e;
  }
  source_->begin(layer_idx_, {used, static_cast<size_t>(num_used)}, num_tokens);
  for (int64_t i = 0; i < num_used; ++i) {
    const int64_t begin = offsets[used[i]], count = offsets[used[i] + 1] - begin;
    const int64_t one[2] = {0, count};
    const ExpertWeights w = source_->next();
    const TensorView gate_up = gate_up_UX.rows(begin, count), h = h_UF.rows(begin, count);
    linear_.forward(ctx, w.w1_EXD, plain_rows(s.x_UD.codes.rows(begin, count)), gate_up,
                    /*accumulate=*/false, {one, 1});
    swiglu_forward(
        ctx, {.gate_up_TX = gate_up, .row_scale_T = s.row_scale_U.rows(begin, count), .h_TF = h});
    linear_.forward(ctx, w.w2_EDF, plain_rows(h), y_UD.rows(begin, count), /*accumulate=*/false,
                    {one, 1});
  }
  source_->end();
}

void Moe::expect_experts(Context& ctx, const TensorView& z_TD) const {
  // A long piece of a prompt takes nearly all of them, in the order in which they are read anyway.
  constexpr int64_t kMostTokens = 16;
  if (z_TD.dim(0) > kMostTokens) return;
  Scratch::Mark mark(ctx.scratch());
  Deferred unused;
  const Saved s = allocate_temporary(ctx.scratch(), z_TD.dim(0), unused);
  route(ctx, z_TD, s);
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  int64_t* likely = ctx.scratch().allocate<int64_t>(num_experts_here(), "moe.likely_experts");
  int64_t num_likely = 0;
  for (int64_t e = 0; e < num_experts_here(); ++e) {
    if (offsets[e + 1] > offsets[e]) likely[num_likely++] = e;
  }
  source_->expect(layer_idx_, {likely, static_cast<size_t>(num_likely)});
}

void Moe::combine(Context& ctx, const Saved& s, const Deferred& d, const TensorView& out_TD,
                  Half half) const {
  exchange_->combine(ctx, arrived(s, d).y_UD, s.routed, out_TD, /*accumulate=*/true, half);
}

void Moe::combine_backward(Context& ctx, const Saved& s, const Deferred& d,
                           const TensorView& dout_TD, Half half) const {
  if (sends(half)) cast(ctx, dout_TD, d.dout_TD);
  dispatch_rows(ctx, d.dout_TD, policy_.fp8.gradient_codes, s, arrived(s, d).dy_UD, half);
}

void Moe::experts_backward_input(Context& ctx, const Saved& saved, const Deferred& deferred) const {
  const Saved s = arrived(saved);
  const Deferred d = arrived(saved, deferred);
  Scratch::Mark mark(ctx.scratch());
  const TensorView dh_UF = ctx.scratch().allocate(
      policy_.activations, Shape{d.dx_UD.dim(0), config_.moe_intermediate_size}, "moe.dh_UF");
  linear_.backward_input(ctx, w_.w2_EDF, d.dy_UD, dh_UF, /*accumulate=*/false, expert_rows(s));
  swiglu_.backward(ctx, s.swiglu, s.row_scale_U, dh_UF, d.swiglu, d.drow_scale_U);
  linear_.backward_input(ctx, w_.w1_EXD, plain_rows(d.swiglu.dgate_up_TX), d.dx_UD,
                         /*accumulate=*/false, expert_rows(s));
}

void Moe::dispatch_backward(Context& ctx, const Saved& s, const Deferred& d,
                            const TensorView& dz_TD, Half half) const {
  const Deferred here = arrived(s, d);
  exchange_->combine(ctx, here.dx_UD, s.routed, dz_TD, /*accumulate=*/false, half);
  exchange_->combine_values(ctx, here.drow_scale_U, s.routed, d.dweight_TA, half);
  if (receives(half) && has_shared()) {
    shared_.backward_input(ctx, s.shared, d.shared, d.dout_TD, dz_TD, /*accumulate=*/true);
  }
}

void Moe::route_backward(Context& ctx, const TensorView& z_TD, const Saved& s, const Deferred& d,
                         const BalanceTerm& balance, const MoeParameters& g,
                         const TensorView& dz_TD) const {
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  TensorView dscores_TE;
  if (balance.weight != 0) {
    dscores_TE = scratch.allocate(policy_.small, s.scores_TE.shape, "moe.dscores_TE");
    fill_zero(ctx, dscores_TE);
    balance_loss(ctx, {.scores_TE = s.scores_TE,
                       .idx_TA = s.routed.idx_TA,
                       .from_routing = balance.from_routing,
                       .span_tokens = balance.span_tokens,
                       .weight = balance.weight,
                       .dscores_TE = dscores_TE});
  }
  TensorView dlogits_TE = scratch.allocate(policy_.small, s.scores_TE.shape, "moe.dlogits_TE");
  router_backward(ctx, {.scores_TE = s.scores_TE,
                        .idx_TA = s.routed.idx_TA,
                        .weight_TA = s.weight_TA,
                        .scoring = config_.scoring_func,
                        .norm_topk_prob = config_.norm_topk_prob,
                        .routed_scaling_factor = config_.routed_scaling_factor,
                        .dweight_TA = d.dweight_TA,
                        .dscores_TE = dscores_TE,
                        .dlogits_TE = dlogits_TE});
  // Small (E columns): its weight gradient belongs to the input pass.
  TensorView z_wide = z_TD;
  if (z_TD.dtype != policy_.small) {
    z_wide = scratch.allocate(policy_.small, z_TD.shape, "moe.z_wide_TD");
    cast(ctx, z_TD, z_wide);
  }
  gemm(ctx, {.layout = GemmLayout::kTn,
             .a = dlogits_TE,
             .b = z_wide,
             .c = g.router_ED,
             .accumulate = true});
  gemm(ctx, {.layout = GemmLayout::kNn,
             .a = dlogits_TE,
             .b = w_.router_ED,
             .c = dz_TD,
             .accumulate = true});
}

// FP8 products regroup all rows by column first: one group. Experts' rows are independent.
int64_t Moe::num_weight_groups() const {
  constexpr int64_t kMostGroups = 8;
  return linear_.scaled() ? 1 : std::min(kMostGroups, num_experts_here());
}

void Moe::routed_backward_weight(Context& ctx, const WeightPiece& piece, const Saved& saved,
                                 const Deferred& deferred, const MoeParameters& g) const {
  const Saved s = arrived(saved);
  const Deferred d = arrived(saved, deferred);
  const int64_t E = num_experts_here();
  const int64_t first = E * piece.group / piece.num_groups,
                count = E * (piece.group + 1) / piece.num_groups - first;
  const int64_t* all = s.routed.offsets.as<int64_t>();
  Scratch::Mark mark(ctx.scratch());
  int64_t* offsets = ctx.scratch().allocate<int64_t>(count + 1, "moe.piece_offsets");
  for (int64_t e = 0; e <= count; ++e) offsets[e] = all[first + e] - all[first];
  const ExpertRows experts{offsets, count};
  // Codes are never cut: their group is the whole.
  const bool whole = piece.num_groups == 1;
  const auto rows = [&](const ScaledView& v) {
    return whole ? v : plain_rows(v.codes.rows(all[first], offsets[count]));
  };
  const auto weights = [&](const LinearView& w) {
    LinearView part = w;
    part.w = w.w.rows(first, count);
    return whole ? w : part;
  };
  const bool power_of_two = policy_.fp8.dispatch_power_of_two;
  if (piece.of_down) {
    return linear_.backward_weight(ctx,
                                   {.dw = weights(g.w2_EDF),
                                    .dy = rows(d.dy_UD),
                                    .x = rows(plain_rows(swiglu_.output(s.swiglu, d.swiglu))),
                                    .experts = experts,
                                    .power_of_two_dy = power_of_two});
  }
  linear_.backward_weight(ctx, {.dw = weights(g.w1_EXD),
                                .dy = rows(plain_rows(d.swiglu.dgate_up_TX)),
                                .x = rows(s.x_UD),
                                .experts = experts,
                                .power_of_two_x = power_of_two});
}

void Moe::shared_backward_weight(Context& ctx, int64_t piece, const TensorView& z_TD,
                                 const Saved& s, const Deferred& d, const MoeParameters& g) const {
  shared_.backward_weight(ctx, piece, z_TD, s.shared, d.shared, d.dout_TD, g.shared);
}

void Moe::count_experts(const Saved& s, int64_t* counts_E) const {
  const int32_t* idx = s.routed.idx_TA.as<int32_t>();
  for (int64_t i = 0; i < s.routed.idx_TA.num_elements(); ++i) ++counts_E[idx[i]];
}

double Moe::balance_loss_value(Context& ctx, const Saved& s, int64_t span_tokens,
                               bool from_routing) const {
  return balance_loss(ctx, {.scores_TE = s.scores_TE,
                            .idx_TA = s.routed.idx_TA,
                            .from_routing = from_routing,
                            .span_tokens = span_tokens});
}

}  // namespace fathom
