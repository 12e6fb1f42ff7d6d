#include "model/moe.h"

namespace fathom {

MoeParameters MoeParameters::of(const ParameterSet& set, const ModelConfig& config,
                                const std::string& prefix) {
  const int64_t E = config.n_routed_experts;
  MoeParameters p;
  p.router_ED = set[prefix + "gate.weight"];
  if (config.has_router_bias()) p.router_bias_E = set[prefix + "gate.e_score_correction_bias"];
  p.w1_EXD = set.stacked(prefix + "experts.0.gate_proj.weight", 2 * E, E);
  p.w2_EDF = set.stacked(prefix + "experts.0.down_proj.weight", E, E);
  if (config.n_shared_experts > 0)
    p.shared = FeedForwardParameters::of(set, prefix + "shared_experts.");
  return p;
}

Moe::Moe(const ModelConfig& config, const Policy& policy, const MoeParameters& weights,
         const TokenExchange& exchange)
    : config_(config),
      policy_(policy),
      w_(weights),
      shared_(policy, weights.shared),
      exchange_(&exchange) {}

template <typename Memory>
Moe::Saved Moe::allocate_forward(Memory& memory, int64_t num_tokens) const {
  const int64_t T = num_tokens, E = config_.n_routed_experts, A = config_.num_experts_per_tok,
                U = T * A;
  const int64_t D = config_.hidden_size, F = config_.moe_intermediate_size;
  const DType act = policy_.activations, small = policy_.small;
  Saved s;
  s.scores_TE = memory.allocate(small, Shape{T, E}, "moe.scores_TE");
  s.weight_TA = memory.allocate(small, Shape{T, A}, "moe.weight_TA");
  s.routed.idx_TA = memory.allocate(DType::kI32, Shape{T, A}, "moe.idx_TA");
  s.routed.position_TA = memory.allocate(DType::kI32, Shape{T, A}, "moe.position_TA");
  s.routed.token_U = memory.allocate(DType::kI32, Shape{U}, "moe.token_U");
  s.routed.offsets = memory.allocate(DType::kI64, Shape{E + 1}, "moe.offsets");
  s.row_scale_U = memory.allocate(small, Shape{U}, "moe.row_scale_U");
  s.x_UD = memory.allocate(act, Shape{U, D}, "moe.x_UD");
  s.gate_up_UX = memory.allocate(act, Shape{U, 2 * F}, "moe.gate_up_UX");
  s.h_UF = memory.allocate(act, Shape{U, F}, "moe.h_UF");
  s.y_UD = memory.allocate(act, Shape{U, D}, "moe.y_UD");
  if (has_shared()) s.shared = shared_.allocate_saved(memory, T);
  return s;
}

Moe::Saved Moe::allocate_temporary(Scratch& scratch, int64_t num_tokens) const {
  return allocate_forward(scratch, num_tokens);
}

Moe::Saved Moe::allocate_saved(Arena& arena, int64_t max_tokens) const {
  const int64_t T = max_tokens, U = T * config_.num_experts_per_tok, D = config_.hidden_size;
  Saved s = allocate_forward(arena, max_tokens);
  s.drow_scale_U = arena.allocate(policy_.small, Shape{U}, "moe.drow_scale_U");
  s.dx_UD = arena.allocate(policy_.activations, Shape{U, D}, "moe.dx_UD");
  s.dout_TD = arena.allocate(policy_.activations, Shape{T, D}, "moe.dout_TD");
  return s;
}

Moe::Saved Moe::narrow(const Saved& saved, int64_t num_tokens) const {
  Saved s = saved;
  for (TensorView* view :
       {&s.scores_TE, &s.weight_TA, &s.routed.idx_TA, &s.routed.position_TA, &s.dout_TD}) {
    *view = view->rows(0, num_tokens);
  }
  for (TensorView* view : {&s.routed.token_U, &s.row_scale_U, &s.drow_scale_U, &s.x_UD,
                           &s.gate_up_UX, &s.h_UF, &s.y_UD, &s.dx_UD}) {
    *view = view->rows(0, num_tokens * config_.num_experts_per_tok);
  }
  s.shared = first_rows(s.shared, num_tokens);
  return s;
}

// The router is computed in the small dtype (fp32): V3's own BF16 logits make near-ties fall
// elsewhere.
void Moe::route(Context& ctx, const TensorView& z_TD, const Saved& s) const {
  Scratch::Mark mark(ctx.scratch());
  TensorView z_wide = z_TD;
  if (z_TD.dtype != policy_.small) {
    z_wide = ctx.scratch().allocate(policy_.small, z_TD.shape, "moe.z_wide_TD");
    cast(ctx, z_TD, z_wide);
  }
  TensorView logits_TE = ctx.scratch().allocate(policy_.small, s.scores_TE.shape, "moe.logits_TE");
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
  exchange_->plan(ctx, s.routed);
}

void Moe::dispatch(Context& ctx, const TensorView& z_TD, const Saved& s) const {
  exchange_->dispatch(ctx, z_TD, s.routed, s.x_UD);
  exchange_->dispatch_values(ctx, s.weight_TA, s.routed, s.row_scale_U);
}

void Moe::experts(Context& ctx, const TensorView& z_TD, const Saved& s,
                  const TensorView& out_TD) const {
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  const int64_t E = config_.n_routed_experts;
  grouped_gemm(ctx, {.layout = GemmLayout::kNt,
                     .a = s.x_UD,
                     .b = w_.w1_EXD,
                     .c = s.gate_up_UX,
                     .offsets = offsets,
                     .num_experts = E});
  swiglu_forward(ctx, {.gate_up_TX = s.gate_up_UX, .row_scale_T = s.row_scale_U, .h_TF = s.h_UF});
  grouped_gemm(ctx, {.layout = GemmLayout::kNt,
                     .a = s.h_UF,
                     .b = w_.w2_EDF,
                     .c = s.y_UD,
                     .offsets = offsets,
                     .num_experts = E});
  if (has_shared()) shared_.forward(ctx, z_TD, s.shared, out_TD);
}

void Moe::combine(Context& ctx, const Saved& s, const TensorView& out_TD) const {
  exchange_->combine(ctx, s.y_UD, s.routed, out_TD, /*accumulate=*/true);
}

void Moe::combine_backward(Context& ctx, const Saved& s, const TensorView& dout_TD) const {
  cast(ctx, dout_TD, s.dout_TD);
  exchange_->dispatch(ctx, s.dout_TD, s.routed, s.y_UD);
}

void Moe::experts_backward_input(Context& ctx, const Saved& s) const {
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  const int64_t E = config_.n_routed_experts;
  Scratch::Mark mark(ctx.scratch());
  TensorView dh_UF = ctx.scratch().allocate(policy_.activations, s.h_UF.shape, "moe.dh_UF");
  grouped_gemm(ctx, {.layout = GemmLayout::kNn,
                     .a = s.y_UD,
                     .b = w_.w2_EDF,
                     .c = dh_UF,
                     .offsets = offsets,
                     .num_experts = E});
  swiglu_backward(ctx, {.gate_up_TX = s.gate_up_UX,
                        .row_scale_T = s.row_scale_U,
                        .dh_TF = dh_UF,
                        .dgate_up_TX = s.gate_up_UX,
                        .drow_scale_T = s.drow_scale_U});
  grouped_gemm(ctx, {.layout = GemmLayout::kNn,
                     .a = s.gate_up_UX,
                     .b = w_.w1_EXD,
                     .c = s.dx_UD,
                     .offsets = offsets,
                     .num_experts = E});
}

void Moe::dispatch_backward(Context& ctx, const Saved& s, const TensorView& dz_TD) const {
  exchange_->combine(ctx, s.dx_UD, s.routed, dz_TD, /*accumulate=*/false);
  if (has_shared()) shared_.backward_input(ctx, s.shared, s.dout_TD, dz_TD, /*accumulate=*/true);
}

void Moe::route_backward(Context& ctx, const TensorView& z_TD, const Saved& s,
                         const BalanceTerm& balance, const MoeParameters& g,
                         const TensorView& dz_TD) const {
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  TensorView dweight_TA = scratch.allocate(policy_.small, s.weight_TA.shape, "moe.dweight_TA");
  exchange_->combine_values(ctx, s.drow_scale_U, s.routed, dweight_TA);
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
                        .dweight_TA = dweight_TA,
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

void Moe::experts_backward_weight(Context& ctx, const TensorView& z_TD, const Saved& s,
                                  const MoeParameters& g) const {
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  const int64_t E = config_.n_routed_experts;
  grouped_gemm(ctx, {.layout = GemmLayout::kTn,
                     .a = s.y_UD,
                     .b = s.h_UF,
                     .c = g.w2_EDF,
                     .offsets = offsets,
                     .num_experts = E,
                     .accumulate = true});
  grouped_gemm(ctx, {.layout = GemmLayout::kTn,
                     .a = s.gate_up_UX,
                     .b = s.x_UD,
                     .c = g.w1_EXD,
                     .offsets = offsets,
                     .num_experts = E,
                     .accumulate = true});
  if (has_shared()) shared_.backward_weight(ctx, z_TD, s.shared, s.dout_TD, g.shared);
}

void Moe::count_experts(const Saved& s, int64_t* counts_E) const {
  const int64_t* offsets = s.routed.offsets.as<int64_t>();
  for (int64_t e = 0; e < config_.n_routed_experts; ++e) counts_E[e] += offsets[e + 1] - offsets[e];
}

double Moe::balance_loss_value(Context& ctx, const Saved& s, int64_t span_tokens,
                               bool from_routing) const {
  return balance_loss(ctx, {.scores_TE = s.scores_TE,
                            .idx_TA = s.routed.idx_TA,
                            .from_routing = from_routing,
                            .span_tokens = span_tokens});
}

}  // namespace fathom
