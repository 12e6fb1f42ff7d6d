#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

TEST(RefSwiglu, MatchesTheDefinition) {
  Context ctx(1, IsaLevel::kReference);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    for (const bool scaled : {false, true}) {
      const DType wide = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
      TestTensor gate_up(dtype, {3, 10}, "gate_up", 1), scale(wide, {3}, "scale"),
          h(dtype, {3, 5}, "h", 2);
      gate_up.normal(1, 3.0);
      scale.normal(2);
      swiglu_forward(
          ctx,
          {.gate_up_TX = gate_up, .row_scale_T = scaled ? scale.view() : TensorView(), .h_TF = h});
      std::vector<double> want, tolerance;
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t f = 0; f < 5; ++f) {
          const double gate = gate_up[t * 10 + f], up = gate_up[t * 10 + 5 + f];
          want.push_back(gate / (1 + std::exp(-gate)) * up * (scaled ? scale[t] : 1));
          tolerance.push_back(std::fabs(want.back()) *
                              (8 * unit_roundoff(wide) + unit_roundoff(dtype)));
        }
      }
      EXPECT_TRUE(near_all(h, want, tolerance));
    }
  }
}

TEST(RefSwiglu, GradientsAreDerivatives) {
  Context ctx(1, IsaLevel::kReference);
  TestTensor gate_up(DType::kF64, {3, 8}, "gate_up"), scale(DType::kF64, {3}, "scale"),
      h(DType::kF64, {3, 4}, "h");
  TestTensor dh(DType::kF64, {3, 4}, "dh"), dgate_up(DType::kF64, {3, 8}, "dgate_up"),
      dscale(DType::kF64, {3}, "dscale");
  gate_up.normal(1, 2.0);
  scale.normal(2);
  dh.normal(3);
  const auto loss = [&] {
    swiglu_forward(ctx, {.gate_up_TX = gate_up, .row_scale_T = scale, .h_TF = h});
    return dot(h, dh);
  };
  swiglu_backward(ctx, {.gate_up_TX = gate_up,
                        .row_scale_T = scale,
                        .dh_TF = dh,
                        .dgate_up_TX = dgate_up,
                        .drow_scale_T = dscale});
  EXPECT_TRUE(gradient_matches(gate_up, dgate_up, loss));
  EXPECT_TRUE(gradient_matches(scale, dscale, loss));
  // In place, and without a scale where it is 1.
  scale.fill(1);
  swiglu_backward(ctx, {.gate_up_TX = gate_up,
                        .row_scale_T = scale,
                        .dh_TF = dh,
                        .dgate_up_TX = dgate_up,
                        .drow_scale_T = dscale});
  TestTensor in_place = gate_up;
  swiglu_backward(ctx, {.gate_up_TX = in_place, .dh_TF = dh, .dgate_up_TX = in_place});
  EXPECT_EQ(in_place.values(), dgate_up.values());
}

}  // namespace
}  // namespace fathom
