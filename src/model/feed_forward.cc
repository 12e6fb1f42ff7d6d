#include "model/feed_forward.h"

namespace fathom {

FeedForwardParameters FeedForwardParameters::of(const ParameterSet& set,
                                                const std::string& prefix) {
  return {.w1_XD = set.fused_rows(prefix + "gate_proj.weight", 2),
          .w2_DF = set[prefix + "down_proj.weight"]};
}

void FeedForward::forward(Context& ctx, const TensorView& z_TD, const Saved& s,
                          const TensorView& out_TD) const {
  gemm(ctx, {.layout = GemmLayout::kNt, .a = z_TD, .b = w_.w1_XD, .c = s.gate_up_TX});
  swiglu_forward(ctx, {.gate_up_TX = s.gate_up_TX, .h_TF = s.h_TF});
  gemm(ctx,
       {.layout = GemmLayout::kNt, .a = s.h_TF, .b = w_.w2_DF, .c = out_TD, .accumulate = true});
}

void FeedForward::backward_input(Context& ctx, const Saved& s, const TensorView& dout_TD,
                                 const TensorView& dz_TD, bool accumulate) const {
  Scratch::Mark mark(ctx.scratch());
  TensorView dh_TF = ctx.scratch().allocate(policy_.activations, s.h_TF.shape, "ffn.dh_TF");
  gemm(ctx, {.layout = GemmLayout::kNn, .a = dout_TD, .b = w_.w2_DF, .c = dh_TF});
  swiglu_backward(ctx, {.gate_up_TX = s.gate_up_TX, .dh_TF = dh_TF, .dgate_up_TX = s.gate_up_TX});
  gemm(ctx, {.layout = GemmLayout::kNn,
             .a = s.gate_up_TX,
             .b = w_.w1_XD,
             .c = dz_TD,
             .accumulate = accumulate});
}

void FeedForward::backward_weight(Context& ctx, const TensorView& z_TD, const Saved& s,
                                  const TensorView& dout_TD, const FeedForwardParameters& g) const {
  gemm(ctx,
       {.layout = GemmLayout::kTn, .a = dout_TD, .b = s.h_TF, .c = g.w2_DF, .accumulate = true});
  gemm(ctx,
       {.layout = GemmLayout::kTn, .a = s.gate_up_TX, .b = z_TD, .c = g.w1_XD, .accumulate = true});
}

}  // namespace fathom
