#include "kernels/check.h"
#include "kernels/table.h"

namespace fathom {

void swiglu_forward(Context& ctx, const SwigluForward& p) {
  FATHOM_CHECK_EQ(p.h_TF.shape.num_dims, 2, "swiglu h {}", p.h_TF.name);
  const int64_t num_rows = p.h_TF.dim(0), width = p.h_TF.dim(1);
  const DType act = p.gate_up_TX.dtype;
  check_tensor("swiglu h", p.h_TF, {num_rows, width});
  check_tensor("swiglu gate_up", p.gate_up_TX, {num_rows, 2 * width});
  check_act("swiglu gate_up", p.gate_up_TX);
  check_dtype("swiglu h", p.h_TF, act);
  if (!p.row_scale_T.empty()) {
    check_tensor("swiglu row_scale", p.row_scale_T, {num_rows});
    check_dtype("swiglu row_scale", p.row_scale_T, wide_dtype(act));
  }
  run_kernel(ctx, p);
}

void swiglu_backward(Context& ctx, const SwigluBackward& p) {
  FATHOM_CHECK_EQ(p.dh_TF.shape.num_dims, 2, "swiglu_backward dh {}", p.dh_TF.name);
  const int64_t num_rows = p.dh_TF.dim(0), width = p.dh_TF.dim(1);
  const DType act = p.gate_up_TX.dtype;
  check_tensor("swiglu_backward dh", p.dh_TF, {num_rows, width});
  check_tensor("swiglu_backward gate_up", p.gate_up_TX, {num_rows, 2 * width});
  check_tensor("swiglu_backward dgate_up", p.dgate_up_TX, {num_rows, 2 * width});
  check_act("swiglu_backward gate_up", p.gate_up_TX);
  check_dtype("swiglu_backward dh", p.dh_TF, act);
  check_dtype("swiglu_backward dgate_up", p.dgate_up_TX, act);
  if (num_rows > 0) {
    FATHOM_CHECK_EQ(p.row_scale_T.empty(), p.drow_scale_T.empty(),
                    "swiglu_backward row_scale and drow_scale");
  }
  if (!p.row_scale_T.empty()) {
    check_tensor("swiglu_backward row_scale", p.row_scale_T, {num_rows});
    check_tensor("swiglu_backward drow_scale", p.drow_scale_T, {num_rows});
    check_dtype("swiglu_backward row_scale", p.row_scale_T, wide_dtype(act));
    check_dtype("swiglu_backward drow_scale", p.drow_scale_T, wide_dtype(act));
  }
  run_kernel(ctx, p);
}

namespace {

void check_wide(const char* what, const TensorView& v) {
  if (v.dtype != DType::kF64) check_dtype(what, v, DType::kF32);
}

}  // namespace

void router_forward(Context& ctx, const RouterForward& p) {
  FATHOM_CHECK_EQ(p.logits_TE.shape.num_dims, 2, "router logits {}", p.logits_TE.name);
  const int64_t num_tokens = p.logits_TE.dim(0), num_experts = p.logits_TE.dim(1),
                top_k = p.num_experts_per_tok;
  const DType wide = p.logits_TE.dtype;
  check_wide("router logits", p.logits_TE);
  check_tensor("router logits", p.logits_TE, {num_tokens, num_experts});
  check_tensor("router scores", p.scores_TE, {num_tokens, num_experts});
  check_tensor("router idx", p.idx_TA, {num_tokens, top_k});
  check_tensor("router weight", p.weight_TA, {num_tokens, top_k});
  check_dtype("router scores", p.scores_TE, wide);
  check_dtype("router idx", p.idx_TA, DType::kI32);
  check_dtype("router weight", p.weight_TA, wide);
  if (!p.bias_E.empty()) {
    check_tensor("router bias", p.bias_E, {num_experts});
    check_dtype("router bias", p.bias_E, wide);
  }
  FATHOM_CHECK(p.n_group >= 1 && num_experts % p.n_group == 0, "router: {} experts in {} groups",
               num_experts, p.n_group);
  FATHOM_CHECK(p.topk_group >= 1 && p.topk_group <= p.n_group, "router: {} of {} groups",
               p.topk_group, p.n_group);
  FATHOM_CHECK(top_k >= 1 && top_k <= num_experts / p.n_group * p.topk_group,
               "router: {} of {} experts in {} of {} groups", top_k, num_experts, p.topk_group,
               p.n_group);
  const bool grouped = p.n_group > 1 && p.topk_group < p.n_group;
  FATHOM_CHECK(!grouped || p.group_score == GroupScore::kMax || num_experts / p.n_group >= 2,
               "router: the sum of the two best needs groups of two or more");
  run_kernel(ctx, p);
}

void router_backward(Context& ctx, const RouterBackward& p) {
  FATHOM_CHECK_EQ(p.scores_TE.shape.num_dims, 2, "router_backward scores {}", p.scores_TE.name);
  FATHOM_CHECK_EQ(p.idx_TA.shape.num_dims, 2, "router_backward idx {}", p.idx_TA.name);
  const int64_t num_tokens = p.scores_TE.dim(0), num_experts = p.scores_TE.dim(1),
                top_k = p.idx_TA.dim(1);
  const DType wide = p.scores_TE.dtype;
  check_wide("router_backward scores", p.scores_TE);
  check_tensor("router_backward scores", p.scores_TE, {num_tokens, num_experts});
  check_tensor("router_backward idx", p.idx_TA, {num_tokens, top_k});
  check_tensor("router_backward weight", p.weight_TA, {num_tokens, top_k});
  check_tensor("router_backward dweight", p.dweight_TA, {num_tokens, top_k});
  check_tensor("router_backward dlogits", p.dlogits_TE, {num_tokens, num_experts});
  check_dtype("router_backward idx", p.idx_TA, DType::kI32);
  check_dtype("router_backward weight", p.weight_TA, wide);
  check_dtype("router_backward dweight", p.dweight_TA, wide);
  check_dtype("router_backward dlogits", p.dlogits_TE, wide);
  if (!p.dscores_TE.empty()) {
    check_tensor("router_backward dscores", p.dscores_TE, {num_tokens, num_experts});
    check_dtype("router_backward dscores", p.dscores_TE, wide);
  }
  run_kernel(ctx, p);
}

double balance_loss(Context& ctx, const BalanceLossParams& p) {
  FATHOM_CHECK_EQ(p.scores_TE.shape.num_dims, 2, "balance_loss scores {}", p.scores_TE.name);
  FATHOM_CHECK_EQ(p.idx_TA.shape.num_dims, 2, "balance_loss idx {}", p.idx_TA.name);
  const int64_t num_tokens = p.scores_TE.dim(0), num_experts = p.scores_TE.dim(1),
                top_k = p.idx_TA.dim(1);
  check_wide("balance_loss scores", p.scores_TE);
  check_tensor("balance_loss scores", p.scores_TE, {num_tokens, num_experts});
  check_tensor("balance_loss idx", p.idx_TA, {num_tokens, top_k});
  check_dtype("balance_loss idx", p.idx_TA, DType::kI32);
  FATHOM_CHECK(top_k >= 1 && top_k <= num_experts, "balance_loss: {} of {} experts", top_k,
               num_experts);
  FATHOM_CHECK(num_tokens == 0 || (p.span_tokens >= 1 && num_tokens % p.span_tokens == 0),
               "balance_loss: {} tokens in spans of {}", num_tokens, p.span_tokens);
  if (!p.dscores_TE.empty()) {
    check_tensor("balance_loss dscores", p.dscores_TE, {num_tokens, num_experts});
    check_dtype("balance_loss dscores", p.dscores_TE, p.scores_TE.dtype);
  }
  double result = 0;
  run_kernel(ctx, BalanceLossCall{p, &result});
  return result;
}

}  // namespace fathom
