#include "kernels/scaled.h"

#include "core/integer.h"
#include "kernels/check.h"
#include "kernels/panel.h"
#include "kernels/table.h"

namespace fathom {
namespace {

bool is_code(DType d) {
  return d == DType::kE4M3 || d == DType::kE5M2 || d == DType::kE5M6 || d == DType::kI8;
}

// Codes and scales of one matrix, or of a stack of them. `tile_rows` of a kColumn tensor.
void check_scaled(const char* what, const ScaledView& v, std::initializer_list<int64_t> expected,
                  int64_t tile_rows) {
  if (v.grain == ScaleGrain::kPanel) return check_panels(what, v, expected);
  check_tensor(what, v.codes, expected);
  if (v.grain == ScaleGrain::kNone) {
    if (v.codes.dtype != DType::kBF16 && v.codes.dtype != DType::kF32) {
      internal::operand_failed(what, v.codes, "bf16 or f32, having no scales");
    }
    return;
  }
  if (v.grain == ScaleGrain::kBlockPanel) check_code_panels(what, v, expected);
  if (!is_code(v.codes.dtype)) internal::operand_failed(what, v.codes, "e4m3, e5m2, e5m6 or i8");
  check_dtype(what, v.scales, DType::kF32);
  const int64_t rows = expected.begin()[expected.size() - 2], cols = expected.end()[-1];
  Shape shape = scale_shape(v.grain, rows, cols);
  if (v.grain == ScaleGrain::kColumn) shape = Shape{tile_rows, cols};
  if (expected.size() == 3) {
    check_tensor(what, v.scales, {expected.begin()[0], shape[0], shape[1]});
  } else {
    check_tensor(what, v.scales, {shape[0], shape[1]});
  }
}

void check_offsets(const int64_t* offsets, int64_t num_experts, int64_t rows) {
  FATHOM_CHECK(offsets[0] == 0, "offsets start at {}", offsets[0]);
  for (int64_t e = 0; e < num_experts; ++e)
    FATHOM_CHECK_LE(offsets[e], offsets[e + 1], "expert {}", e);
  FATHOM_CHECK_EQ(offsets[num_experts], rows, "the last offset");
}

// Whether the scale is constant over slices of 128 of the contracted index (of a group: panels).
void check_contraction(const char* what, const ScaledView& v, bool contracts_rows) {
  const bool fits = v.grain == ScaleGrain::kNone || v.grain == ScaleGrain::kTensor ||
                    v.grain == ScaleGrain::kBlock ||
                    v.grain == (contracts_rows ? ScaleGrain::kColumn : ScaleGrain::kRow);
  if (!fits) internal::operand_failed(what, v.codes, "tiles along the contracted index");
}

// Panels are the weights of a forward product. Codes of i8 are multiplied by codes of i8 or i4x2.
void check_panel_product(const ScaledView& a, const ScaledView& b, GemmLayout layout,
                         const Accumulator& accumulator) {
  const bool integers = a.codes.dtype == DType::kI8;
  if (!in_panels(b.grain)) {
    if (integers || b.codes.dtype == DType::kI8)
      internal::operand_failed("scaled_gemm", a.codes, "panels of weights beside codes of i8");
    check_contraction("scaled_gemm b", b, layout != GemmLayout::kNt);
    return;
  }
  const bool has_scales = b.grain == ScaleGrain::kPanel && panel_has_scales(b.codes.dtype);
  FATHOM_CHECK(layout == GemmLayout::kNt || (layout == GemmLayout::kNn && has_scales &&
                                             a.grain == ScaleGrain::kNone),
               "panels '{}' in a product that does not read them", b.codes.name);
  FATHOM_CHECK(accumulator.model == Accumulator::Model::kFp32,
               "panels '{}' with an emulated accumulator", b.codes.name);
  if (a.grain != ScaleGrain::kNone && !(integers && has_scales && a.grain == ScaleGrain::kRow))
    internal::operand_failed("scaled_gemm a", a.codes, "plain values or i8 by row");
}

void check_accumulator(const Accumulator& accumulator, const ScaledView& a, const ScaledView& b) {
  if (accumulator.model == Accumulator::Model::kFp32) return;
  FATHOM_CHECK(accumulator.bits >= 4 && accumulator.bits <= 40, "accumulator of {} bits",
               accumulator.bits);
  const auto tiled = [](const ScaledView& v) {
    return v.grain != ScaleGrain::kNone && v.grain != ScaleGrain::kTensor;
  };
  FATHOM_CHECK(accumulator.promotion % 32 == 0 && accumulator.promotion >= 0,
               "promotion every {}: a multiple of 32, the products of one step",
               accumulator.promotion);
  if (tiled(a) || tiled(b)) {
    FATHOM_CHECK(accumulator.promotion > 0 && kScaleTile % accumulator.promotion == 0,
                 "promotion every {} with scales that change every {}", accumulator.promotion,
                 kScaleTile);
  }
}

void check_output(const TensorView& c) {
  if (c.dtype != DType::kF32 && c.dtype != DType::kBF16) {
    internal::operand_failed("scaled_gemm c", c, "f32 or bf16");
  }
}

}  // namespace

int64_t column_tile_rows(int64_t rows, const int64_t* offsets, int64_t num_experts) {
  if (offsets == nullptr) return div_up(rows, kScaleTile);
  int64_t tiles = 0;
  for (int64_t e = 0; e < num_experts; ++e)
    tiles += div_up(offsets[e + 1] - offsets[e], kScaleTile);
  return tiles;
}

int64_t max_column_tile_rows(int64_t rows, int64_t num_experts) {
  // Every expert with rows has at most one tile that is not full.
  return rows / kScaleTile + std::min(rows, num_experts);
}

Shape scale_shape(ScaleGrain grain, int64_t rows, int64_t cols) {
  switch (grain) {
    case ScaleGrain::kNone:
      return Shape{0, 0};
    case ScaleGrain::kRow:
      return Shape{rows, div_up(cols, kScaleTile)};
    case ScaleGrain::kColumn:
      return Shape{div_up(rows, kScaleTile), cols};
    case ScaleGrain::kBlock:
    case ScaleGrain::kBlockPanel:
      return Shape{div_up(rows, kScaleTile), div_up(cols, kScaleTile)};
    case ScaleGrain::kTensor:
      return Shape{1, 1};
    case ScaleGrain::kPanel:
      FATHOM_CHECK(false, "scales of panels depend on the codes: panel_scale_shape");
  }
  FATHOM_CHECK(false, "scale grain");
}

void quantize(Context& ctx, const QuantizeParams& p) {
  FATHOM_CHECK_EQ(p.x.codes.shape.num_dims, 2, "quantize x {}", p.x.codes.name);
  const int64_t rows = p.x.codes.dim(0), cols = p.x.codes.dim(1);
  if (p.offsets != nullptr) check_offsets(p.offsets, p.num_experts, rows);
  check_scaled("quantize x", p.x, {rows, cols}, div_up(rows, kScaleTile));
  FATHOM_CHECK(p.y.grain != ScaleGrain::kNone && !in_panels(p.y.grain),
               "quantize y {}: tiles with scales of f32", p.y.codes.name);
  FATHOM_CHECK(!in_panels(p.x.grain), "quantize x {} in panels", p.x.codes.name);
  check_scaled("quantize y", p.y, {rows, cols}, column_tile_rows(rows, p.offsets, p.num_experts));
  run_kernel(ctx, p);
}

void dequantize(Context& ctx, const DequantizeParams& p) {
  FATHOM_CHECK_EQ(p.x.codes.shape.num_dims, 2, "dequantize x {}", p.x.codes.name);
  const int64_t rows = p.x.codes.dim(0), cols = p.x.codes.dim(1);
  if (p.offsets != nullptr) check_offsets(p.offsets, p.num_experts, rows);
  FATHOM_CHECK(p.x.grain != ScaleGrain::kNone && !in_panels(p.x.grain),
               "dequantize x {}: tiles with scales of f32", p.x.codes.name);
  check_scaled("dequantize x", p.x, {rows, cols}, column_tile_rows(rows, p.offsets, p.num_experts));
  check_tensor("dequantize y", p.y, {rows, cols});
  if (p.y.dtype != DType::kF32 && p.y.dtype != DType::kBF16)
    internal::operand_failed("dequantize y", p.y, "f32 or bf16");
  run_kernel(ctx, p);
}

void pack_e5m6(Context& ctx, const PackE5m6Params& p) {
  FATHOM_CHECK_EQ(p.codes.shape.num_dims, 2, "pack_e5m6 codes {}", p.codes.name);
  const int64_t rows = p.codes.dim(0), cols = p.codes.dim(1);
  check_tensor("pack_e5m6 codes", p.codes, {rows, cols});
  check_dtype("pack_e5m6 codes", p.codes, DType::kE5M6);
  check_tensor("pack_e5m6 bytes", p.bytes, {rows, packed_e5m6_bytes(cols)});
  check_dtype("pack_e5m6 bytes", p.bytes, DType::kU8);
  run_kernel(ctx, p);
}

// Several products side by side, with weights in panels.
static void check_side_by_side(const ScaledGemmParams& p) {
  FATHOM_CHECK(p.a.codes.shape.num_dims == 3 && p.a.grain == ScaleGrain::kNone &&
                   p.b.grain == ScaleGrain::kPanel && p.c.shape.num_dims == 3,
               "scaled_gemm of several products {}", p.c.name);
  const int64_t count = p.c.dim(0), m = p.c.dim(1), n = p.c.dim(2), k = p.a.codes.dim(2);
  check_tensor("scaled_gemm c", p.c, {count, m, n});
  check_output(p.c);
  check_scaled("scaled_gemm a", p.a, {count, m, k}, 0);
  const bool nt = p.layout == GemmLayout::kNt;
  check_scaled("scaled_gemm b", p.b, {count, nt ? n : k, nt ? k : n}, 0);
  check_panel_product(p.a, p.b, p.layout, p.accumulator);
}

void scaled_gemm(Context& ctx, const ScaledGemmParams& p) {
  if (p.c.shape.num_dims == 3) {
    check_side_by_side(p);
    return run_kernel(ctx, p);
  }
  FATHOM_CHECK_EQ(p.c.shape.num_dims, 2, "scaled_gemm c {}", p.c.name);
  FATHOM_CHECK_EQ(p.a.codes.shape.num_dims, 2, "scaled_gemm a {}", p.a.codes.name);
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  const int64_t m = p.c.dim(0), n = p.c.dim(1), k = p.a.codes.dim(tn ? 0 : 1);
  check_tensor("scaled_gemm c", p.c, {m, n});
  check_output(p.c);
  const int64_t tiles = div_up(k, kScaleTile);
  check_scaled("scaled_gemm a", p.a, {tn ? k : m, tn ? m : k}, tiles);
  check_scaled("scaled_gemm b", p.b, {nt ? n : k, nt ? k : n}, tiles);
  check_contraction("scaled_gemm a", p.a, tn);
  check_panel_product(p.a, p.b, p.layout, p.accumulator);
  check_accumulator(p.accumulator, p.a, p.b);
  run_kernel(ctx, p);
}

void scaled_grouped_gemm(Context& ctx, const ScaledGroupedGemmParams& p) {
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  const int64_t E = p.num_experts;
  FATHOM_CHECK_EQ(p.a.codes.shape.num_dims, 2, "scaled_grouped_gemm a {}", p.a.codes.name);
  FATHOM_CHECK_EQ(p.c.shape.num_dims, tn ? 3 : 2, "scaled_grouped_gemm c {}", p.c.name);
  const int64_t rows = p.a.codes.dim(0), width = p.a.codes.dim(1);
  FATHOM_CHECK(p.offsets != nullptr, "scaled_grouped_gemm offsets");
  check_offsets(p.offsets, E, rows);
  const int64_t tiles = column_tile_rows(rows, p.offsets, E);
  check_scaled("scaled_grouped_gemm a", p.a, {rows, width}, tiles);
  check_output(p.c);
  // Blocks of ragged rows would span two experts.
  for (const ScaledView* v : {&p.a, &p.b}) {
    if (v->grain == ScaleGrain::kBlock && (v == &p.a || tn))
      internal::operand_failed("scaled_grouped_gemm", v->codes, "tiles of one row or column");
  }
  if (tn) {
    const int64_t n = p.c.dim(2);
    check_scaled("scaled_grouped_gemm b", p.b, {rows, n}, tiles);
    check_tensor("scaled_grouped_gemm c", p.c, {E, width, n});
  } else {
    const int64_t n = p.c.dim(1);
    check_tensor("scaled_grouped_gemm c", p.c, {rows, n});
    check_scaled("scaled_grouped_gemm b", p.b, {E, nt ? n : width, nt ? width : n},
                 div_up(width, kScaleTile));
  }
  FATHOM_CHECK(nt || !in_panels(p.b.grain), "panels '{}' of experts in another product than nt",
               p.b.codes.name);
  check_contraction("scaled_grouped_gemm a", p.a, tn);
  check_panel_product(p.a, p.b, p.layout, p.accumulator);
  check_accumulator(p.accumulator, p.a, p.b);
  run_kernel(ctx, p);
}

}  // namespace fathom
