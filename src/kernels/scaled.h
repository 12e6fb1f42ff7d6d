// Scaled low-precision tensors and their products: the numeric side of the FP8 recipe
// (report section 3.3, SPEC C.10). A tensor is codes of 8 or 12 bits and fp32 scales, one for each
// tile; the value of an element is code * scale ("weight_scale_inv" in checkpoints is this scale).
//
// Every product here multiplies codes, sums over slices of 128 of the contracted index, and adds
// each slice's sum, times the two scales, to an fp32 result ("promotion"). So whatever direction a
// tile has, its scale must be constant over such a slice.
//
// This header is part of the kernel interface (kernels.h says the conventions).
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/kernels.h"
#include "runtime/context.h"

namespace fathom {

// Elements that share a scale along a tiled direction, and the promotion interval N_C.
inline constexpr int64_t kScaleTile = 128;

enum class ScaleGrain : uint8_t {
  kNone,        // plain values (bf16, f32): scale 1, no scale tensor
  kRow,         // 1x128: a tile is 128 columns of one row; scales [rows, ceil(cols/128)]
  kColumn,      // 128x1: a tile is 128 rows of one column; scales [tile rows, cols]
  kBlock,       // 128x128; scales [ceil(rows/128), ceil(cols/128)]
  kTensor,      // one scale, [1, 1]
  kPanel,       // weights of inference in panels of 16 rows, scales in bf16: kernels/panel.h
  kBlockPanel,  // kBlock, its codes (e4m3) in panels of 16 rows
};

inline bool in_panels(ScaleGrain grain) {
  return grain == ScaleGrain::kPanel || grain == ScaleGrain::kBlockPanel;
}

// A matrix [rows, cols] of codes with its scales; stacked matrices [E, rows, cols] (experts) have
// scales [E, ...]. Tiles at the edge are partial.
struct ScaledView {
  TensorView codes;  // e4m3, e5m2, e5m6 or i8; bf16 or f32 with kNone; bf16, i8 or i4x2 with kPanel
  TensorView scales;  // f32; empty with kNone; bf16 with kPanel
  ScaleGrain grain = ScaleGrain::kNone;
};

// Tile rows of a kColumn tensor. Without offsets ceil(rows/128). With the offsets of ragged experts
// tiles begin anew at each expert's first row, so that no tile spans two experts: expert e's first
// tile row is sum over e' < e of ceil(rows of e' / 128).
int64_t column_tile_rows(int64_t rows, const int64_t* offsets, int64_t num_experts);
// The largest that column_tile_rows can be for any offsets: what to allocate.
int64_t max_column_tile_rows(int64_t rows, int64_t num_experts);
// Shape of the scales of [rows, cols] (kColumn without offsets; not kPanel, see panel.h).
Shape scale_shape(ScaleGrain grain, int64_t rows, int64_t cols);

// codes = cast(x / s), s = max(amax of the tile, 1e-4) / largest code (448 for e4m3), in fp32 (i8:
// 127, with 1e-30 for 1e-4, since its codes have no small numbers of their own); with
// power_of_two s is rounded up to a power of two. A tile with NaN or infinity gets a NaN scale (and
// codes 0), so that it shows wherever it is used.
struct QuantizeParams {
  ScaledView x;  // source: plain (kNone: f32, bf16), or scaled in another grain ("regrouping":
                 // 1x128 to 128x1 for weight gradients), where x = code * scale in fp32
  ScaledView y;  // codes and scales assigned
  bool power_of_two = false;
  const int64_t* offsets = nullptr;  // of a kColumn y, see column_tile_rows
  int64_t num_experts = 0;
};
void quantize(Context& ctx, const QuantizeParams& p);

// y = code * scale in fp32, rounded once to y's dtype (f32, bf16). A kColumn x may have offsets.
struct DequantizeParams {
  ScaledView x;
  TensorView y;
  const int64_t* offsets = nullptr;
  int64_t num_experts = 0;
};
void dequantize(Context& ctx, const DequantizeParams& p);

// E5M6 codes at 12 bits each, for what is kept from forward to backward: of a row, all low bytes,
// then the upper four bits of columns j (low half of the byte) and j + ceil(cols/2).
inline int64_t packed_e5m6_bytes(int64_t cols) { return cols + (cols + 1) / 2; }
struct PackE5m6Params {
  TensorView codes;     // e5m6 [rows, cols]
  TensorView bytes;     // u8 [rows, packed_e5m6_bytes(cols)]
  bool unpack = false;  // codes from bytes instead of bytes from codes
};
void pack_e5m6(Context& ctx, const PackE5m6Params& p);

// What sums the products of a slice. kFp32 is what this machine's multiplier does. The other two
// emulate Hopper's tensor core (SPEC C.10, U9), which takes 32 products a step: kAlignAll aligns
// the products and the running sum to the largest exponent among them, truncates each to `bits`
// significant bits (the leading one counted) and adds; kAlignProducts aligns the products among
// themselves and adds their truncated sum to a running sum truncated to the same width.
struct Accumulator {
  enum class Model : uint8_t { kFp32, kAlignAll, kAlignProducts };
  Model model = Model::kFp32;
  int bits = 14;
  int64_t promotion = kScaleTile;  // add to the fp32 result after so many; 0: at the end only,
                                   // which needs operands of kTensor or kNone
};

// c (+)= the product of a and b in the layouts of GemmParams. Scales of a and b must be constant
// over slices of 128 of the contracted index: for nt a kRow, b kRow or kBlock; for nn a kRow,
// b kBlock (or b kColumn without offsets); for tn both kColumn (or kBlock); kTensor and kNone
// everywhere. With kFp32, each element of c is
//   fma(slice sum, a scale * b scale, so far) over the slices in ascending order,
// from 0 (or from c when accumulating a c of f32; a bf16 c is added to in fp32, rounded once).
// A kPanel b makes the slices as long as its groups, 128 or 32. With a of i8 codes (kRow)
// a slice's sum is one of integers, exact in any order; a of bf16 or f32 keeps its values as they
// are. A kBlockPanel b (nt, a kNone) gives the bits of kBlock. A kPanel b with scales may also be
// contracted over its rows (nn, a kNone): each row is a slice then, and their order is free.
// With a leading dimension on a (kNone), b (kPanel) and c, as many products side by side.
struct ScaledGemmParams {
  GemmLayout layout = GemmLayout::kNt;
  ScaledView a, b;
  TensorView c;  // f32 or bf16
  bool accumulate = false;
  Accumulator accumulator;
};
void scaled_gemm(Context& ctx, const ScaledGemmParams& p);

// One product per expert over ragged rows, as GroupedGemmParams. Contracting over the rows (tn),
// the slices of 128 begin at each expert's first row. Ragged rows have no kBlock scales: a block
// would span two experts.
struct ScaledGroupedGemmParams {
  GemmLayout layout = GemmLayout::kNt;
  ScaledView a;  // [U, ...] rows
  ScaledView b;  // [E, n, k] (nt), [E, k, n] (nn), [U, n] (tn)
  TensorView c;  // [U, n] (nt, nn), [E, m, n] (tn)
  const int64_t* offsets = nullptr;
  int64_t num_experts = 0;
  bool accumulate = false;
  Accumulator accumulator;
};
void scaled_grouped_gemm(Context& ctx, const ScaledGroupedGemmParams& p);

}  // namespace fathom
