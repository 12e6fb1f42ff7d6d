#include "model/feed_forward.h"

namespace fathom {

FeedForwardParameters FeedForwardParameters::of(const ParameterSet& set,
                                                const std::string& prefix) {
  return {.w1_XD = set.linear(prefix + "gate_proj.weight", 2),
          .w2_DF = set.linear(prefix + "down_proj.weight")};
}

TensorView SwigluMemory::gate_up(Context& ctx, const Saved& s) const {
  if (s.gate_up_TX.grain == ScaleGrain::kNone) return s.gate_up_TX.codes;
  return ctx.scratch().allocate(policy_.activations, s.gate_up_TX.codes.shape, "ffn.gate_up_TX");
}

void SwigluMemory::forward(Context& ctx, const TensorView& gate_up_TX,
                           const TensorView& row_scale_T, const Saved& s,
                           const TensorView& h_TF) const {
  swiglu_forward(ctx, {.gate_up_TX = gate_up_TX, .row_scale_T = row_scale_T, .h_TF = h_TF});
  if (s.gate_up_TX.grain != ScaleGrain::kNone)
    quantize(ctx, {.x = plain_rows(gate_up_TX), .y = s.gate_up_TX});
}

void SwigluMemory::backward(Context& ctx, const Saved& s, const TensorView& row_scale_T,
                            const TensorView& dh_TF, const Deferred& d,
                            const TensorView& drow_scale_T) const {
  Scratch::Mark mark(ctx.scratch());
  const TensorView gate_up_TX = gate_up(ctx, s);
  if (s.gate_up_TX.grain != ScaleGrain::kNone)
    dequantize(ctx, {.x = s.gate_up_TX, .y = gate_up_TX});
  if (!keeps_output()) {
    swiglu_forward(ctx, {.gate_up_TX = gate_up_TX, .row_scale_T = row_scale_T, .h_TF = d.h_TF});
  }
  swiglu_backward(ctx, {.gate_up_TX = gate_up_TX,
                        .row_scale_T = row_scale_T,
                        .dh_TF = dh_TF,
                        .dgate_up_TX = d.dgate_up_TX,
                        .drow_scale_T = drow_scale_T});
}

ScaledView FeedForward::input(Context& ctx, const TensorView& z_TD) const {
  ScaledView codes;
  if (linear_.scaled())
    codes = linear_.allocate_input(ctx.scratch(), z_TD.dim(0), z_TD.dim(1), "ffn.z_codes");
  return linear_.input(ctx, z_TD, codes);
}

void FeedForward::forward(Context& ctx, const TensorView& z_TD, const Saved& s,
                          const TensorView& out_TD, const NextRead& next) const {
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const int64_t T = z_TD.dim(0);
  const TensorView gate_up_TX = swiglu_.gate_up(ctx, s);
  will_read(ctx, {&w_.w2_DF}, T);
  linear_.forward(ctx, w_.w1_XD, input(ctx, z_TD), gate_up_TX);
  const TensorView h_TF = s.h_TF.empty()
                              ? scratch.allocate(policy_.activations, Shape{T, width()}, "ffn.h_TF")
                              : s.h_TF;
  swiglu_.forward(ctx, gate_up_TX, {}, s, h_TF);
  ScaledView h_codes;
  if (linear_.scaled()) h_codes = linear_.allocate_input(scratch, T, width(), "ffn.h_codes");
  will_read(ctx, next, T);
  linear_.forward(ctx, w_.w2_DF, linear_.input(ctx, h_TF, h_codes), out_TD, /*accumulate=*/true);
}

void FeedForward::backward_input(Context& ctx, const Saved& s, const Deferred& d,
                                 const TensorView& dout_TD, const TensorView& dz_TD,
                                 bool accumulate) const {
  Scratch::Mark mark(ctx.scratch());
  const TensorView dh_TF =
      ctx.scratch().allocate(policy_.activations, Shape{dout_TD.dim(0), width()}, "ffn.dh_TF");
  linear_.backward_input(ctx, w_.w2_DF, plain_rows(dout_TD), dh_TF);
  swiglu_.backward(ctx, s, {}, dh_TF, d, {});
  linear_.backward_input(ctx, w_.w1_XD, plain_rows(d.dgate_up_TX), dz_TD, accumulate);
}

void FeedForward::backward_weight(Context& ctx, int64_t piece, const TensorView& z_TD,
                                  const Saved& s, const Deferred& d, const TensorView& dout_TD,
                                  const FeedForwardParameters& g) const {
  Scratch::Mark mark(ctx.scratch());
  if (piece == 0) {
    return linear_.backward_weight(
        ctx, {.dw = g.w2_DF, .dy = plain_rows(dout_TD), .x = plain_rows(swiglu_.output(s, d))});
  }
  linear_.backward_weight(ctx,
                          {.dw = g.w1_XD, .dy = plain_rows(d.dgate_up_TX), .x = input(ctx, z_TD)});
}

}  // namespace fathom
