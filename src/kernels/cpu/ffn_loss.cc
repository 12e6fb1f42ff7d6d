#include <cmath>
#include <cstring>

#include "kernels/cpu/row_loop.h"
#include "kernels/cpu/row_ops.h"

namespace fathom::cpu {

void swiglu_forward(Context& ctx, const SwigluForward& p, const RowKernels& rows) {
  const int64_t width = p.h_TF.dim(1);
  const auto kernel = rows.swiglu_forward[is_bf16(p.gate_up_TX)];
  const float* scale = p.row_scale_T.empty() ? nullptr : p.row_scale_T.as<float>();
  for_rows(ctx, p.h_TF.dim(0), 2 * width, [&](int64_t t, int) {
    const int64_t begin = t * p.gate_up_TX.stride[0];
    kernel(element_at(p.gate_up_TX, begin), element_at(p.gate_up_TX, begin + width),
           scale == nullptr ? 1.0f : scale[t], row_at(p.h_TF, t), width);
  });
}

void swiglu_backward(Context& ctx, const SwigluBackward& p, const RowKernels& rows) {
  const int64_t width = p.dh_TF.dim(1);
  const auto kernel = rows.swiglu_backward[is_bf16(p.gate_up_TX)];
  const float* scale = p.row_scale_T.empty() ? nullptr : p.row_scale_T.as<float>();
  float* dscale = p.drow_scale_T.empty() ? nullptr : p.drow_scale_T.as<float>();
  for_rows(ctx, p.dh_TF.dim(0), 2 * width, [&](int64_t t, int) {
    const int64_t in = t * p.gate_up_TX.stride[0], out = t * p.dgate_up_TX.stride[0];
    const float d =
        kernel(element_at(p.gate_up_TX, in), element_at(p.gate_up_TX, in + width),
               row_at(p.dh_TF, t), scale == nullptr ? 1.0f : scale[t],
               element_at(p.dgate_up_TX, out), element_at(p.dgate_up_TX, out + width), width);
    if (dscale != nullptr) dscale[t] = d;
  });
}

void cross_entropy(Context& ctx, const CrossEntropyParams& p, const RowKernels& rows) {
  const int64_t vocab = p.logits_TV.dim(1);
  float* loss = p.loss_T.as<float>();
  const float grad_scale = static_cast<float>(p.grad_scale);
  const bool wants_gradient = !p.dlogits_TV.empty();
  const int out_bf16 = is_bf16(p.dlogits_TV);
  for_rows(ctx, p.logits_TV.dim(0), vocab, [&](int64_t t, int thread_idx) {
    const float* logits = f32_row(p.logits_TV, t);
    const int32_t label = p.labels_T[t];
    if (label < 0) {
      loss[t] = 0;
      if (wants_gradient) {
        std::memset(row_at(p.dlogits_TV, t), 0,
                    static_cast<size_t>(vocab * dtype_bytes(p.dlogits_TV.dtype)));
      }
      return;
    }
    const float largest = rows.max(logits, vocab);
    const float shifted = logits[label] - largest;
    Scratch& scratch = ctx.thread_scratch(thread_idx);
    const Scratch::Mark mark(scratch);
    float* exps = scratch.allocate<float>(
        vocab, "cross_entropy_exps");  // kept: an exp costs more than a store
    const float sum = rows.exp_sum(logits, largest, exps, vocab);
    loss[t] = std::log(sum) - shifted;
    if (!wants_gradient) return;
    rows.scaled[out_bf16](exps, grad_scale / sum, row_at(p.dlogits_TV, t), vocab);
    const float at_label = grad_scale * (std::exp(shifted) / sum - 1.0f);
    if (out_bf16 == 1) {
      static_cast<bf16*>(row_at(p.dlogits_TV, t))[label] = bf16(at_label);
    } else {
      static_cast<float*>(row_at(p.dlogits_TV, t))[label] = at_label;
    }
  });
}

}  // namespace fathom::cpu
