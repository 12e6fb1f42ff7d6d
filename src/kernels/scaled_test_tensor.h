// Scaled tensors for kernel tests: codes and scales that own their memory. Not part of the library.
#pragma once

#include "kernels/ref/scaled_elements.h"
#include "kernels/scaled.h"
#include "kernels/test_tensor.h"

namespace fathom {

inline ScaledView plain(const TensorView& x) { return {x, {}, ScaleGrain::kNone}; }

class ScaledTensor {
 public:
  // `offsets` of ragged experts, for kColumn; may be empty.
  ScaledTensor(DType dtype, ScaleGrain grain, int64_t rows, int64_t cols,
               std::vector<int64_t> offsets = {}, int64_t padding = 1)
      : grain_(grain),
        rows_(rows),
        cols_(cols),
        offsets_(std::move(offsets)),
        codes_(dtype, {rows, cols}, "codes", padding),
        scales_(DType::kF32, scales_shape(), "scales", padding) {}

  operator ScaledView() const { return {codes_, scales_, grain_}; }
  float code(int64_t row, int64_t col) const { return ref::code_value(codes_, row, col); }
  float scale(int64_t row, int64_t col) const {
    return ref::scale_value(*this, row, col, ref::ColumnTiles(offsets(), num_experts()));
  }
  float value(int64_t row, int64_t col) const { return code(row, col) * scale(row, col); }
  // The codes' bits in row-major order, widened.
  std::vector<uint16_t> codes() const {
    std::vector<uint16_t> bits;
    const TensorView& v = codes_.view();
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) {
        const int64_t at = i * v.stride[0] + j;
        bits.push_back(dtype_bytes(v.dtype) == 1 ? static_cast<const uint8_t*>(v.data)[at]
                                                 : static_cast<const uint16_t*>(v.data)[at]);
      }
    }
    return bits;
  }
  const TestTensor& scales() const { return scales_; }
  const int64_t* offsets() const { return offsets_.empty() ? nullptr : offsets_.data(); }
  int64_t num_experts() const {
    return offsets_.empty() ? 0 : static_cast<int64_t>(offsets_.size()) - 1;
  }
  bool guards_intact() const { return codes_.guards_intact() && scales_.guards_intact(); }

  ScaledTensor& quantize_normal(Context& ctx, uint64_t seed) {
    TestTensor x(DType::kF32, {rows_, cols_}, "x");
    x.normal(seed);
    quantize(ctx, {.x = plain(x), .y = *this, .offsets = offsets(), .num_experts = num_experts()});
    return *this;
  }
  void swap_scales(int64_t i, int64_t j) {
    const double before = scales_[i];
    scales_.set(i, scales_[j]);
    scales_.set(j, before);
  }

 private:
  Shape scales_shape() const {
    if (grain_ == ScaleGrain::kColumn)
      return Shape{column_tile_rows(rows_, offsets(), num_experts()), cols_};
    return scale_shape(grain_, rows_, cols_);
  }
  ScaleGrain grain_;
  int64_t rows_, cols_;
  std::vector<int64_t> offsets_;
  TestTensor codes_, scales_;
};

// Experts' matrices [E, rows, cols] with 128x128 scales.
class ScaledStack {
 public:
  ScaledStack(DType dtype, int64_t num_experts, int64_t rows, int64_t cols)
      : codes_(dtype, {num_experts, rows, cols}, "codes"),
        scales_(DType::kF32,
                {num_experts, scale_shape(ScaleGrain::kBlock, rows, cols)[0],
                 scale_shape(ScaleGrain::kBlock, rows, cols)[1]},
                "scales") {}
  operator ScaledView() const { return {codes_, scales_, ScaleGrain::kBlock}; }
  ScaledView expert(int64_t e) const {
    return {codes_.view().at(e), scales_.view().at(e), ScaleGrain::kBlock};
  }
  float value(int64_t e, int64_t row, int64_t col) const {
    const ScaledView v = expert(e);
    return ref::code_value(v.codes, row, col) * ref::scale_value(v, row, col);
  }
  ScaledStack& quantize_normal(Context& ctx, uint64_t seed) {
    const TensorView& all = codes_.view();
    for (int64_t e = 0; e < all.dim(0); ++e) {
      TestTensor x(DType::kF32, {all.dim(1), all.dim(2)}, "x");
      x.normal(seed + 1000 * static_cast<uint64_t>(e));
      quantize(ctx, {.x = plain(x), .y = expert(e)});
    }
    return *this;
  }

 private:
  TestTensor codes_, scales_;
};

}  // namespace fathom
