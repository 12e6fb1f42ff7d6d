#include <cmath>

#include "kernels/ref/elements.h"
#include "kernels/ref/ref.h"

namespace fathom::ref {

void swiglu_forward(Context&, const SwigluForward& p) {
  with_compute_type(p.gate_up_TX.dtype == DType::kF64, [&]<typename C>(C) {
    const int64_t num_rows = p.h_TF.dim(0), width = p.h_TF.dim(1);
    for (int64_t t = 0; t < num_rows; ++t) {
      const auto in = elements<C>(p.gate_up_TX, t);
      const auto h = elements<C>(p.h_TF, t);
      const C scale = p.row_scale_T.empty() ? C(1) : elements<C>(p.row_scale_T)[t];
      for (int64_t f = 0; f < width; ++f) {
        const C gate = in[f], up = in[width + f];
        const C sigmoid = C(1) / (C(1) + std::exp(-gate));
        h.set(f, gate * sigmoid * up * scale);
      }
    }
  });
}

// silu'(g) = s (1 + g (1 - s)) with s = sigmoid(g).
void swiglu_backward(Context&, const SwigluBackward& p) {
  with_compute_type(p.gate_up_TX.dtype == DType::kF64, [&]<typename C>(C) {
    const int64_t num_rows = p.dh_TF.dim(0), width = p.dh_TF.dim(1);
    for (int64_t t = 0; t < num_rows; ++t) {
      const auto in = elements<C>(p.gate_up_TX, t);
      const auto dh = elements<C>(p.dh_TF, t);
      const auto out = elements<C>(p.dgate_up_TX, t);
      const C scale = p.row_scale_T.empty() ? C(1) : elements<C>(p.row_scale_T)[t];
      C dscale = 0;
      for (int64_t f = 0; f < width; ++f) {
        const C gate = in[f], up = in[width + f];
        const C sigmoid = C(1) / (C(1) + std::exp(-gate));
        const C silu = gate * sigmoid;
        dscale += dh[f] * silu * up;
        out.set(f, dh[f] * scale * up * sigmoid * (C(1) + gate * (C(1) - sigmoid)));
        out.set(width + f, dh[f] * scale * silu);
      }
      if (!p.drow_scale_T.empty()) elements<C>(p.drow_scale_T).set(t, dscale);
    }
  });
}

}  // namespace fathom::ref
