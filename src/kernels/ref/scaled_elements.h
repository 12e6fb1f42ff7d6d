// Element access to scaled tensors for the reference kernels: code * scale of (row, column), with
// the tile that the element lies in.
#pragma once

#include "kernels/panel.h"
#include "kernels/scaled.h"

namespace fathom::ref {

inline float code_value(const TensorView& codes, int64_t row, int64_t col) {
  const int64_t i = row * codes.stride[0] + col;
  switch (codes.dtype) {
    case DType::kE4M3:
      return static_cast<float>(static_cast<const e4m3*>(codes.data)[i]);
    case DType::kE5M2:
      return static_cast<float>(static_cast<const e5m2*>(codes.data)[i]);
    case DType::kE5M6:
      return static_cast<float>(static_cast<const e5m6*>(codes.data)[i]);
    case DType::kBF16:
      return static_cast<float>(static_cast<const bf16*>(codes.data)[i]);
    case DType::kF32:
      return static_cast<const float*>(codes.data)[i];
    case DType::kI8:
      return static_cast<float>(static_cast<const int8_t*>(codes.data)[i]);
    default:
      FATHOM_CHECK(false, "codes of {}", dtype_name(codes.dtype));
  }
}

inline void set_code(const TensorView& codes, int64_t row, int64_t col, float value) {
  const int64_t i = row * codes.stride[0] + col;
  switch (codes.dtype) {
    case DType::kE4M3:
      static_cast<e4m3*>(codes.data)[i] = e4m3(value);
      return;
    case DType::kE5M2:
      static_cast<e5m2*>(codes.data)[i] = e5m2(value);
      return;
    case DType::kE5M6:
      static_cast<e5m6*>(codes.data)[i] = e5m6(value);
      return;
    case DType::kI8:
      static_cast<int8_t*>(codes.data)[i] = static_cast<int8_t>(std::nearbyint(value));
      return;
    default:
      FATHOM_CHECK(false, "codes of {}", dtype_name(codes.dtype));
  }
}

// The largest finite code, which a tile's largest element is scaled to.
inline float largest_code(DType dtype) {
  switch (dtype) {
    case DType::kE4M3:
      return 448.0f;
    case DType::kE5M2:
      return 57344.0f;
    case DType::kE5M6:
      return 130048.0f;
    case DType::kI8:
      return 127.0f;
    default:
      FATHOM_CHECK(false, "codes of {}", dtype_name(dtype));
  }
}

// The least magnitude that a tile's scale is made for.
inline float least_amax(DType dtype) { return dtype == DType::kI8 ? 1e-30f : 1e-4f; }

// Tile rows of a kColumn tensor, by row.
class ColumnTiles {
 public:
  ColumnTiles(const int64_t* offsets, int64_t num_experts)
      : offsets_(offsets), num_experts_(num_experts) {}
  int64_t of(int64_t row) const {
    if (offsets_ == nullptr) return row / kScaleTile;
    int64_t tile = 0;
    for (int64_t e = 0; e < num_experts_; ++e) {
      if (row < offsets_[e + 1]) return tile + (row - offsets_[e]) / kScaleTile;
      tile += (offsets_[e + 1] - offsets_[e] + kScaleTile - 1) / kScaleTile;
    }
    FATHOM_CHECK(false, "row {} beyond the last expert", row);
  }

 private:
  const int64_t* offsets_;
  int64_t num_experts_;
};

// The scale of an element of a matrix; null for plain values.
inline float* scale_of(const ScaledView& v, int64_t row, int64_t col,
                       const ColumnTiles& tiles = {nullptr, 0}) {
  int64_t i = 0, j = 0;
  switch (v.grain) {
    case ScaleGrain::kNone:
      return nullptr;
    case ScaleGrain::kRow:
      i = row;
      j = col / kScaleTile;
      break;
    case ScaleGrain::kColumn:
      i = tiles.of(row);
      j = col;
      break;
    case ScaleGrain::kBlock:
    case ScaleGrain::kBlockPanel:
      i = row / kScaleTile;
      j = col / kScaleTile;
      break;
    case ScaleGrain::kTensor:
      break;
    case ScaleGrain::kPanel:
      FATHOM_CHECK(false, "'{}': panels have scales of bf16", v.codes.name);
  }
  return v.scales.as<float>() + i * v.scales.stride[0] + j;
}

inline float scale_value(const ScaledView& v, int64_t row, int64_t col,
                         const ColumnTiles& tiles = {nullptr, 0}) {
  if (v.grain == ScaleGrain::kPanel) return panel_scale(v, row, col);
  const float* scale = scale_of(v, row, col, tiles);
  return scale == nullptr ? 1.0f : *scale;
}

inline float code_value(const ScaledView& v, int64_t row, int64_t col) {
  return in_panels(v.grain) ? panel_code(v, row, col) : code_value(v.codes, row, col);
}

inline ScaledView expert_rows(const ScaledView& v, int64_t begin, int64_t count, int64_t tile,
                              int64_t num_tiles) {
  ScaledView rows = v;
  rows.codes = v.codes.rows(begin, count);
  if (v.grain == ScaleGrain::kRow) rows.scales = v.scales.rows(begin, count);
  if (v.grain == ScaleGrain::kColumn) rows.scales = v.scales.rows(tile, num_tiles);
  return rows;
}

inline ScaledView expert_matrix(const ScaledView& v, int64_t e) {
  ScaledView matrix = v;
  matrix.codes = v.codes.at(e);
  if (!v.scales.empty()) matrix.scales = v.scales.at(e);
  return matrix;
}

// body(product) for the product of each expert, as one of dense matrices.
template <typename Body>
void for_each_expert(const ScaledGroupedGemmParams& p, Body&& body) {
  ScaledGemmParams one{
      .layout = p.layout, .accumulate = p.accumulate, .accumulator = p.accumulator};
  int64_t tile = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t begin = p.offsets[e], count = p.offsets[e + 1] - begin;
    const int64_t num_tiles = (count + kScaleTile - 1) / kScaleTile;
    const bool tn = p.layout == GemmLayout::kTn;
    one.a = expert_rows(p.a, begin, count, tile, num_tiles);
    one.b = tn ? expert_rows(p.b, begin, count, tile, num_tiles) : expert_matrix(p.b, e);
    one.c = tn ? p.c.at(e) : p.c.rows(begin, count);
    body(one);
    tile += num_tiles;
  }
}

}  // namespace fathom::ref
