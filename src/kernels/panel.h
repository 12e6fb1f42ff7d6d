// Weights of inference in 16, 8 and 4 bits, in panels of 16 rows: the grain kPanel of a ScaledView.
//
// A matrix [rows, cols] (rows a multiple of 16, cols of 32) lies panel by panel, and a panel by
// words of four bytes: one word of each of its 16 rows, then the next word of each. So a 64-byte
// line holds the same columns of 16 rows, lanes are output columns of the product from memory to
// result, sums run along k in one lane with no horizontal addition, and files are used as they lie:
// nothing is transposed or packed at start. A row of the product therefore has the same bits alone
// and in any batch. Rows [16 i, 16 j) of a matrix are one range of bytes, like those of plain rows,
// so that neighbours in memory join and experts stack as they do elsewhere.
//
//   i8     a word is 4 columns, its bytes those of columns 0, 2, 1, 3 of them: as 16-bit halves the
//          even bytes are columns (0, 1) and the odd ones (2, 3), the pairs that VDPBF16PS takes.
//          value = code * scale, code in [-127, 127], a scale for 128 columns of a row.
//          8.125 bits a weight.
//   i4x2   a word is 8 columns; column 2 n + h of them is bits 4 n .. 4 n + 3 of 16-bit half h, so
//          that four shifts of a line give four lines of pairs.
//          value = kI4Codebook[code] * scale, a scale for 32 columns of a row. 4.5 bits a weight.
//   bf16   a word is 2 columns, the values themselves: no scales, and products of the same bits as
//          with plain rows. Not a format of files: weights are brought into it when they are loaded
//          to be used for long, and a product of few rows then reads them at the speed of memory
//          (plain rows are 16 places at once, each transposed in registers).
//   e4m3   the same as i8, the codes of DeepSeek's FP8; the scales are those of kBlock where they
//          lie (grain kBlockPanel). Like bf16 made when weights are loaded, for the same bits.
//   scales bf16, by panel: [rows / 16, groups, 16]; the last group may be short.
//
// The codebook is the one of least squared error for groups of 32, scaled by their largest element,
// of normal, Student t5 and Laplace data alike (mean squared error over mean square: 0.0055, 0.0071
// and 0.0070; 16 even steps: 0.0066, 0.0107, 0.0105; the codebook of llama.cpp's IQ4_NL: 0.0054,
// 0.0073, 0.0072), rounded to integers so that products of codes are integers too, and with a zero.
// A scale may be negative: the codebook reaches further below zero than above it.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"
#include "kernels/scaled.h"
#include "runtime/context.h"

namespace fathom {

inline constexpr int64_t kPanelRows = 16;
inline constexpr int64_t kPanelColumns = 32;  // the columns are a multiple of
inline constexpr int64_t kPanelWordBytes = 4;
inline constexpr int8_t kI4Codebook[16] = {-127, -99, -78, -61, -46, -33, -21, -10,
                                           0,    11,  23,  36,  50,  67,  87,  112};

// Whether a matrix of this shape can lie in panels.
inline bool panels_fit(int64_t rows, int64_t cols) {
  return rows % kPanelRows == 0 && cols % kPanelColumns == 0;
}
inline bool panel_has_scales(DType codes) { return codes != DType::kBF16; }
// Columns that share a scale.
inline int64_t panel_group(DType codes) { return codes == DType::kI4x2 ? 32 : 128; }
// The shape that the codes of [rows, cols] have as a view, a byte an element, and that of their
// scales. Only whole panels of either are meaningful ranges of memory.
Shape panel_code_shape(DType codes, int64_t rows, int64_t cols);
Shape panel_scale_shape(DType codes, int64_t rows, int64_t cols);
// Bytes of both.
int64_t panel_bytes(DType codes, int64_t rows, int64_t cols);

// A ScaledView in panels with `expected` = {rows, cols} or {E, rows, cols}: shapes, dtypes, and
// rows without gaps. A failure is a bug of the caller.
void check_panels(const char* what, const ScaledView& v, std::initializer_list<int64_t> expected);

// The codes of a kBlockPanel tensor, as check_panels.
void check_code_panels(const char* what, const ScaledView& v,
                       std::initializer_list<int64_t> expected);

// [rows, cols] of bf16 or e4m3, contiguous rows, brought into panels where it lies.
void to_panels(Context& ctx, const TensorView& w);
// Whether products on this instruction set have a kernel for those that to_panels makes.
inline bool has_loaded_panels(IsaLevel isa) { return isa >= IsaLevel::kAvx512Bf16; }

// Element access: the number that a code stands for, and its scale. For reference code and tests.
float panel_code(const ScaledView& v, int64_t row, int64_t col);
float panel_scale(const ScaledView& v, int64_t row, int64_t col);

// Codes and scales of least sum over columns of importance * (x - value)^2 in each group, among the
// scales tried: i8 the largest magnitude at code 127; i4x2 the largest element at either end of the
// codebook, times 0.85 to 1.2, each improved by least squares. A group with NaN or infinity gets a
// NaN scale (and codes 0), so that it shows wherever it is used.
struct QuantizePanelsParams {
  TensorView x;           // [rows, cols] f32 or bf16
  TensorView importance;  // f32 [cols], positive; empty: all alike
  ScaledView y;           // codes and scales assigned
};
void quantize_panels(Context& ctx, const QuantizePanelsParams& p);

// y = code * scale, rounded once to y's dtype (f32, bf16).
void dequantize_panels(Context& ctx, const ScaledView& x, const TensorView& y);

}  // namespace fathom
