#include "core/integer.h"
#include "kernels/check.h"
#include "kernels/table.h"

namespace fathom {
namespace {

void check_ids(const char* what, const int32_t* ids, int64_t count, int64_t bound) {
  FATHOM_CHECK(count == 0 || ids != nullptr, "{}", what);
  for (int64_t i = 0; i < count; ++i) {
    FATHOM_CHECK(ids[i] >= 0 && ids[i] < bound, "{}: entry {} is {} of {}", what, i, ids[i], bound);
  }
}

// y's dtype holds every value of x's.
void check_widening(const char* what, const TensorView& x, const TensorView& y) {
  check_act(what, x);
  check_act(what, y);
  FATHOM_CHECK_LE(dtype_bytes(x.dtype), dtype_bytes(y.dtype), "{}: {} from {}", what, to_string(y),
                  to_string(x));
}

}  // namespace

void plan_dispatch(Context& ctx, const DispatchPlan& p) {
  FATHOM_CHECK_EQ(p.idx_TA.shape.num_dims, 2, "plan_dispatch idx {}", p.idx_TA.name);
  const int64_t num_tokens = p.idx_TA.dim(0), top_k = p.idx_TA.dim(1);
  check_tensor("plan_dispatch idx", p.idx_TA, {num_tokens, top_k});
  check_tensor("plan_dispatch token", p.token_U, {num_tokens * top_k});
  check_tensor("plan_dispatch position", p.position_TA, {num_tokens, top_k});
  check_dtype("plan_dispatch idx", p.idx_TA, DType::kI32);
  check_dtype("plan_dispatch token", p.token_U, DType::kI32);
  check_dtype("plan_dispatch position", p.position_TA, DType::kI32);
  FATHOM_CHECK(p.offsets != nullptr, "plan_dispatch offsets");
  narrow<int32_t>(num_tokens * top_k);  // row numbers are 32 bits
  run_kernel(ctx, p);
}

void gather_rows(Context& ctx, const TensorView& x_TD, const TensorView& token_U,
                 const TensorView& y_UD) {
  FATHOM_CHECK_EQ(x_TD.shape.num_dims, 2, "gather_rows x {}", x_TD.name);
  FATHOM_CHECK_EQ(token_U.shape.num_dims, 1, "gather_rows token {}", token_U.name);
  const int64_t num_rows = token_U.dim(0), width = x_TD.dim(1);
  check_tensor("gather_rows x", x_TD, {x_TD.dim(0), width});
  check_tensor("gather_rows token", token_U, {num_rows});
  check_tensor("gather_rows y", y_UD, {num_rows, width});
  check_dtype("gather_rows y", y_UD, x_TD.dtype);
  check_dtype("gather_rows token", token_U, DType::kI32);
  check_ids("gather_rows token", token_U.as<int32_t>(), num_rows, x_TD.dim(0));
  run_kernel(ctx, GatherRowsParams{x_TD, token_U, y_UD});
}

void combine_rows(Context& ctx, const TensorView& x_UD, const TensorView& position_TA,
                  const TensorView& y_TD, bool accumulate) {
  FATHOM_CHECK_EQ(x_UD.shape.num_dims, 2, "combine_rows x {}", x_UD.name);
  FATHOM_CHECK_EQ(position_TA.shape.num_dims, 2, "combine_rows position {}", position_TA.name);
  const int64_t num_tokens = position_TA.dim(0), width = x_UD.dim(1);
  check_tensor("combine_rows x", x_UD, {x_UD.dim(0), width});
  check_tensor("combine_rows position", position_TA, {num_tokens, position_TA.dim(1)});
  check_tensor("combine_rows y", y_TD, {num_tokens, width});
  check_widening("combine_rows y", x_UD, y_TD);
  check_dtype("combine_rows position", position_TA, DType::kI32);
  for (int64_t t = 0; t < num_tokens; ++t) {
    check_ids("combine_rows position", position_TA.as<int32_t>() + t * position_TA.stride[0],
              position_TA.dim(1), x_UD.dim(0));
  }
  run_kernel(ctx, CombineRowsParams{x_UD, position_TA, y_TD, accumulate});
}

void embedding_forward(Context& ctx, const TensorView& table_VD, const int32_t* ids_T,
                       const TensorView& y_TD) {
  FATHOM_CHECK_EQ(table_VD.shape.num_dims, 2, "embedding table {}", table_VD.name);
  FATHOM_CHECK_EQ(y_TD.shape.num_dims, 2, "embedding y {}", y_TD.name);
  check_tensor("embedding table", table_VD, {table_VD.dim(0), table_VD.dim(1)});
  check_tensor("embedding y", y_TD, {y_TD.dim(0), table_VD.dim(1)});
  check_widening("embedding y", table_VD, y_TD);
  check_ids("embedding ids", ids_T, y_TD.dim(0), table_VD.dim(0));
  run_kernel(ctx, EmbeddingForwardParams{table_VD, ids_T, y_TD});
}

void embedding_backward(Context& ctx, const TensorView& dy_TD, const int32_t* ids_T,
                        const TensorView& dtable_VD) {
  FATHOM_CHECK_EQ(dtable_VD.shape.num_dims, 2, "embedding dtable {}", dtable_VD.name);
  FATHOM_CHECK_EQ(dy_TD.shape.num_dims, 2, "embedding dy {}", dy_TD.name);
  check_tensor("embedding dtable", dtable_VD, {dtable_VD.dim(0), dtable_VD.dim(1)});
  check_tensor("embedding dy", dy_TD, {dy_TD.dim(0), dtable_VD.dim(1)});
  check_act("embedding dy", dy_TD);
  check_dtype("embedding dtable", dtable_VD, wide_dtype(dy_TD.dtype));
  check_ids("embedding ids", ids_T, dy_TD.dim(0), dtable_VD.dim(0));
  run_kernel(ctx, EmbeddingBackwardParams{dy_TD, ids_T, dtable_VD});
}

void cross_entropy(Context& ctx, const CrossEntropyParams& p) {
  FATHOM_CHECK_EQ(p.logits_TV.shape.num_dims, 2, "cross_entropy logits {}", p.logits_TV.name);
  const int64_t num_tokens = p.logits_TV.dim(0), vocab = p.logits_TV.dim(1);
  const DType wide = p.logits_TV.dtype;
  check_tensor("cross_entropy logits", p.logits_TV, {num_tokens, vocab});
  check_tensor("cross_entropy loss", p.loss_T, {num_tokens});
  if (wide != DType::kF64) check_dtype("cross_entropy logits", p.logits_TV, DType::kF32);
  check_dtype("cross_entropy loss", p.loss_T, wide);
  if (!p.dlogits_TV.empty()) {
    check_tensor("cross_entropy dlogits", p.dlogits_TV, {num_tokens, vocab});
    check_act_like("cross_entropy dlogits", p.dlogits_TV, wide);
    FATHOM_CHECK(p.dlogits_TV.data != p.logits_TV.data || p.dlogits_TV.dtype == wide,
                 "cross_entropy: dlogits {} in place of logits needs their dtype",
                 to_string(p.dlogits_TV));
  }
  FATHOM_CHECK(num_tokens == 0 || p.labels_T != nullptr, "cross_entropy labels");
  for (int64_t t = 0; t < num_tokens; ++t) {
    FATHOM_CHECK_LT(p.labels_T[t], vocab, "cross_entropy: label of row {} of {}", t,
                    p.logits_TV.name);
  }
  run_kernel(ctx, p);
}

}  // namespace fathom
