#include "model/linear.h"

namespace fathom {
namespace {

// Beyond, a product takes longer than the reading of its weights.
constexpr int64_t kFewRows = 8;

}  // namespace

void will_read(Context& ctx, const NextRead& next, int64_t num_rows) {
  if (num_rows > kFewRows || next.w == nullptr || next.w->w.empty()) return;
  const LinearView& w = *next.w;
  const ExpertRows& experts = next.experts;
  MemoryRange ranges[ThreadPool::kReadAheadRanges];
  int64_t count = 0;
  const auto add = [&](const TensorView& v) {
    if (v.empty() || count == ThreadPool::kReadAheadRanges) return;
    ranges[count++] = {v.data, v.shape.num_elements() * dtype_bytes(v.dtype)};
  };
  if (experts.offsets == nullptr) {
    add(w.scales);
    add(w.w);
  }
  for (int64_t e = 0; e < experts.num_experts; ++e) {
    if (experts.offsets[e + 1] == experts.offsets[e]) continue;
    if (!w.scales.empty()) add(w.scales.at(e));
    add(w.w.at(e));
  }
  ctx.threads().read_ahead(ranges, count);
}

ScaledView LinearMath::input(Context& ctx, const TensorView& x, const ScaledView& codes) const {
  if (!scaled()) return plain_rows(x);
  quantize(ctx, {.x = plain_rows(x), .y = codes});
  return codes;
}

void LinearMath::forward(Context& ctx, const LinearView& w, const ScaledView& x,
                         const TensorView& y, bool accumulate, const ExpertRows& experts) const {
  ctx.observe_product("fprop", w.w, scaled());
  if (x.grain == ScaleGrain::kNone)
    ctx.observe_input(w.w, x.codes, experts.offsets, experts.num_experts);
  if (!scaled() && w.grain != ScaleGrain::kNone)
    return forward_kept(ctx, w, x.codes, y, accumulate, experts);
  if (!scaled()) {
    if (experts.offsets == nullptr) {
      gemm(ctx, {.a = x.codes, .b = w.w, .c = y, .accumulate = accumulate});
    } else {
      grouped_gemm(ctx, {.a = x.codes,
                         .b = w.w,
                         .c = y,
                         .offsets = experts.offsets,
                         .num_experts = experts.num_experts,
                         .accumulate = accumulate});
    }
    return;
  }
  for (int64_t i = 0; i < w.num_parts; ++i) {
    const TensorView part_y = y.columns(w.part_begin(i), w.part_size(i));
    if (experts.offsets == nullptr) {
      scaled_gemm(ctx, {.a = x,
                        .b = w.part(i),
                        .c = part_y,
                        .accumulate = accumulate,
                        .accumulator = policy_.fp8.accumulator});
    } else {
      scaled_grouped_gemm(ctx, {.a = x,
                                .b = w.part(i),
                                .c = part_y,
                                .offsets = experts.offsets,
                                .num_experts = experts.num_experts,
                                .accumulate = accumulate,
                                .accumulator = policy_.fp8.accumulator});
    }
  }
}

void LinearMath::forward_kept(Context& ctx, const LinearView& w, const TensorView& x,
                              const TensorView& y, bool accumulate,
                              const ExpertRows& experts) const {
  Scratch::Mark mark(ctx.scratch());
  ScaledView input = plain_rows(x);
  if (w.grain == ScaleGrain::kPanel && panel_has_scales(w.w.dtype) &&
      policy_.panel_inputs == DType::kI8) {
    input = allocate_codes(ctx.scratch(), DType::kI8, ScaleGrain::kRow, x.dim(0), x.dim(1),
                           "linear.x_codes");
    quantize(ctx, {.x = plain_rows(x), .y = input});
  }
  for (int64_t i = 0; i < w.num_parts; ++i) {
    const TensorView part_y = y.columns(w.part_begin(i), w.part_size(i));
    if (experts.offsets == nullptr) {
      scaled_gemm(ctx, {.a = input, .b = w.part(i), .c = part_y, .accumulate = accumulate});
    } else {
      scaled_grouped_gemm(ctx, {.a = input,
                                .b = w.part(i),
                                .c = part_y,
                                .offsets = experts.offsets,
                                .num_experts = experts.num_experts,
                                .accumulate = accumulate});
    }
  }
}

void LinearMath::backward_input(Context& ctx, const LinearView& w, const ScaledView& dy,
                                const TensorView& dx, bool accumulate,
                                const ExpertRows& experts) const {
  ctx.observe_product("dgrad", w.w, scaled());
  if (!scaled()) {
    if (experts.offsets == nullptr) {
      gemm(ctx,
           {.layout = GemmLayout::kNn, .a = dy.codes, .b = w.w, .c = dx, .accumulate = accumulate});
    } else {
      grouped_gemm(ctx, {.layout = GemmLayout::kNn,
                         .a = dy.codes,
                         .b = w.w,
                         .c = dx,
                         .offsets = experts.offsets,
                         .num_experts = experts.num_experts,
                         .accumulate = accumulate});
    }
    return;
  }
  for (int64_t i = 0; i < w.num_parts; ++i) {
    Scratch::Mark mark(ctx.scratch());
    ScaledView part_dy = dy;
    if (dy.grain == ScaleGrain::kNone) {
      const TensorView values = dy.codes.columns(w.part_begin(i), w.part_size(i));
      part_dy = allocate_gradient(ctx.scratch(), values.dim(0), values.dim(1), "linear.dy_codes");
      quantize(ctx, {.x = plain_rows(values), .y = part_dy});
    } else {
      FATHOM_CHECK_EQ(w.num_parts, 1, "dispatched codes for a Linear of two parts");
    }
    const bool add = accumulate || i > 0;
    if (experts.offsets == nullptr) {
      scaled_gemm(ctx, {.layout = GemmLayout::kNn,
                        .a = part_dy,
                        .b = w.part(i),
                        .c = dx,
                        .accumulate = add,
                        .accumulator = policy_.fp8.accumulator});
    } else {
      scaled_grouped_gemm(ctx, {.layout = GemmLayout::kNn,
                                .a = part_dy,
                                .b = w.part(i),
                                .c = dx,
                                .offsets = experts.offsets,
                                .num_experts = experts.num_experts,
                                .accumulate = add,
                                .accumulator = policy_.fp8.accumulator});
    }
  }
}

// Codes in tiles of 128 rows, which Wgrad contracts. One scale for all serves both directions.
ScaledView LinearMath::by_column(Context& ctx, const ScaledView& x, DType dtype, bool power_of_two,
                                 const ExpertRows& experts) const {
  if (x.grain == ScaleGrain::kTensor && x.codes.dtype == dtype) return x;
  const int64_t rows = x.codes.dim(0), cols = x.codes.dim(1);
  const bool tiles = policy_.fp8.activations != ScaleGrain::kTensor;
  ScaledView y;
  y.grain = tiles ? ScaleGrain::kColumn : ScaleGrain::kTensor;
  y.codes = ctx.scratch().allocate(dtype, Shape{rows, cols}, "linear.column_codes");
  y.scales = ctx.scratch().allocate(
      DType::kF32,
      tiles ? Shape{column_tile_rows(rows, experts.offsets, experts.num_experts), cols}
            : scale_shape(ScaleGrain::kTensor, rows, cols),
      "linear.column_scales");
  quantize(ctx, {.x = x,
                 .y = y,
                 .power_of_two = power_of_two,
                 .offsets = tiles ? experts.offsets : nullptr,
                 .num_experts = tiles ? experts.num_experts : 0});
  return y;
}

void LinearMath::backward_weight(Context& ctx, const WeightGradient& p) const {
  ctx.observe_product("wgrad", p.dw.w, scaled());
  if (!scaled()) {
    if (p.experts.offsets == nullptr) {
      gemm(ctx, {.layout = GemmLayout::kTn,
                 .a = p.dy.codes,
                 .b = p.x.codes,
                 .c = p.dw.w,
                 .accumulate = true});
    } else {
      grouped_gemm(ctx, {.layout = GemmLayout::kTn,
                         .a = p.dy.codes,
                         .b = p.x.codes,
                         .c = p.dw.w,
                         .offsets = p.experts.offsets,
                         .num_experts = p.experts.num_experts,
                         .accumulate = true});
    }
    return;
  }
  Scratch::Mark mark(ctx.scratch());
  const ScaledView dy =
      by_column(ctx, p.dy, policy_.fp8.gradient_codes, p.power_of_two_dy, p.experts);
  const ScaledView x = by_column(ctx, p.x, policy_.fp8.forward_codes, p.power_of_two_x, p.experts);
  if (p.experts.offsets == nullptr) {
    scaled_gemm(ctx, {.layout = GemmLayout::kTn,
                      .a = dy,
                      .b = x,
                      .c = p.dw.w,
                      .accumulate = true,
                      .accumulator = policy_.fp8.accumulator});
  } else {
    scaled_grouped_gemm(ctx, {.layout = GemmLayout::kTn,
                              .a = dy,
                              .b = x,
                              .c = p.dw.w,
                              .offsets = p.experts.offsets,
                              .num_experts = p.experts.num_experts,
                              .accumulate = true,
                              .accumulator = policy_.fp8.accumulator});
  }
}

}  // namespace fathom
