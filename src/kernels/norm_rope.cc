#include "kernels/check.h"
#include "kernels/table.h"

namespace fathom {

void rms_norm_forward(Context& ctx, const RmsNormForward& p) {
  FATHOM_CHECK_EQ(p.x_TD.shape.num_dims, 2, "rms_norm x {}", p.x_TD.name);
  const int64_t num_tokens = p.x_TD.dim(0), width = p.x_TD.dim(1);
  const DType wide = wide_dtype(p.x_TD.dtype);
  check_tensor("rms_norm x", p.x_TD, {num_tokens, width});
  check_tensor("rms_norm w", p.w_D, {width});
  check_tensor("rms_norm y", p.y_TD, {num_tokens, width});
  check_act("rms_norm x", p.x_TD);
  check_dtype("rms_norm w", p.w_D, wide);
  check_act_like("rms_norm y", p.y_TD, p.x_TD.dtype);
  if (!p.rstd_T.empty()) {
    check_tensor("rms_norm rstd", p.rstd_T, {num_tokens});
    check_dtype("rms_norm rstd", p.rstd_T, wide);
  }
  run_kernel(ctx, p);
}

void rms_norm_backward(Context& ctx, const RmsNormBackward& p) {
  FATHOM_CHECK_EQ(p.x_TD.shape.num_dims, 2, "rms_norm_backward x {}", p.x_TD.name);
  const int64_t num_tokens = p.x_TD.dim(0), width = p.x_TD.dim(1);
  const DType wide = wide_dtype(p.x_TD.dtype);
  check_tensor("rms_norm_backward x", p.x_TD, {num_tokens, width});
  check_tensor("rms_norm_backward w", p.w_D, {width});
  check_tensor("rms_norm_backward rstd", p.rstd_T, {num_tokens});
  check_tensor("rms_norm_backward dy", p.dy_TD, {num_tokens, width});
  check_tensor("rms_norm_backward dx", p.dx_TD, {num_tokens, width});
  check_act("rms_norm_backward x", p.x_TD);
  check_dtype("rms_norm_backward w", p.w_D, wide);
  check_dtype("rms_norm_backward rstd", p.rstd_T, wide);
  check_act_like("rms_norm_backward dy", p.dy_TD, p.x_TD.dtype);
  check_act_like("rms_norm_backward dx", p.dx_TD, p.x_TD.dtype);
  if (!p.dw_D.empty()) {
    check_tensor("rms_norm_backward dw", p.dw_D, {width});
    check_dtype("rms_norm_backward dw", p.dw_D, wide);
  }
  run_kernel(ctx, p);
}

void rope(Context& ctx, const RopeParams& p) {
  FATHOM_CHECK_EQ(p.x_THR.shape.num_dims, 3, "rope x {}", p.x_THR.name);
  FATHOM_CHECK_EQ(p.cos_sin_SR.shape.num_dims, 2, "rope cos_sin {}", p.cos_sin_SR.name);
  const int64_t num_tokens = p.x_THR.dim(0), num_heads = p.x_THR.dim(1), width = p.x_THR.dim(2);
  const int64_t num_positions = p.cos_sin_SR.dim(0);
  check_tensor("rope x", p.x_THR, {num_tokens, num_heads, width});
  check_tensor("rope cos_sin", p.cos_sin_SR, {num_positions, width});
  check_act("rope x", p.x_THR);
  check_dtype("rope cos_sin", p.cos_sin_SR, wide_dtype(p.x_THR.dtype));
  FATHOM_CHECK_EQ(width % 2, 0, "rope x {}", p.x_THR.name);
  FATHOM_CHECK(num_tokens == 0 || p.positions_T != nullptr, "rope positions");
  for (int64_t t = 0; t < num_tokens; ++t) {
    FATHOM_CHECK(p.positions_T[t] >= 0 && p.positions_T[t] < num_positions,
                 "rope: token {} of {} has position {} of {}", t, p.x_THR.name, p.positions_T[t],
                 num_positions);
  }
  run_kernel(ctx, p);
}

}  // namespace fathom
