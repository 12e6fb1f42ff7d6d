// Registers' worth of a product with weights in panels: what panel_matmul.cc drives. No includes of
// the standard library but <cstdint> (see gemm_kernels.h).
#pragma once

#include <cstdint>

namespace fathom::cpu {

// Rows of activations that one pass over panels takes, packed side by side.
inline constexpr int64_t kPanelTileRows = 12;
// Panels side by side, streams of weights each in order: two, or four for rows so few that the
// chains of multiply-adds of two take longer than memory.
inline constexpr int64_t kPanelTilePanels = 2, kFewRowsPanels = 4;
inline constexpr int64_t kPanelFewRows = 3;

struct PanelTile {
  // 4-byte words [k words][rows]: pairs of bf16, or 4 codes in the order of a panel's bytes.
  const void* a = nullptr;
  // Codes only: of each slice of 128, -128 * the sum of its codes (weights are multiplied as
  // unsigned bytes, 128 too large) [slices][rows] and the scale [slices of 128][rows].
  const int32_t* a_corrections = nullptr;  // of each group that shares a weight's scale
  const float* a_scales = nullptr;
  int64_t rows = 0, panels = 0;  // 1..kPanelTileRows; 1, 2, or with few rows 4
  int64_t k = 0;
  const void* b = nullptr;  // the first panel's codes
  int64_t panel_bytes = 0;
  const void* b_scales = nullptr;  // bf16 [groups][16] of the first panel
  int64_t panel_scales = 0;        // elements from a panel's scales to the next one's
  const void* b_after = nullptr;   // the panels that are read after these; nullptr: not known
  void* c = nullptr;
  int64_t ldc = 0;
  bool c_bf16 = false, add_c = false;
};

// Columns of the product of one or two rows of a with panels whose rows are contracted (nn): a row
// of weights is a lane, and the lanes are added at the end.
struct PanelColumns {
  const float* a = nullptr;  // [rows][16 * panels]
  int64_t rows = 0, a_ld = 0, panels = 0;
  int64_t begin = 0, end = 0;  // columns of b and c, multiples of 32
  const void* b = nullptr;
  int64_t panel_bytes = 0;
  const void* b_scales = nullptr;
  int64_t panel_scales = 0;
  void* c = nullptr;  // of column 0
  int64_t ldc = 0;
  bool c_bf16 = false, add_c = false;
};

enum PanelFormat : uint8_t { kPanelI8, kPanelI4 };
using PanelFunction = void (*)(const PanelTile& t);
struct PanelKernels {
  PanelFunction of_bf16[2];  // by PanelFormat
  PanelFunction of_i8[2];
  void (*columns[2])(const PanelColumns& t);
  // Packs a row of k codes into its words ([k words][rows], from its own column on), and writes the
  // corrections of each group.
  void (*pack_i8[2])(const int8_t* row, int64_t k, int64_t rows, int32_t* words,
                     int32_t* corrections);
};
extern const PanelKernels kPanelAvx512Bf16;

// A row of `count` (at most 128) values to codes; returns the scale.
using QuantizeI8Function = float (*)(const void* x, bool bf16, int64_t count, bool power_of_two,
                                     int8_t* codes);
float quantize_i8_group_avx512(const void* x, bool bf16, int64_t count, bool power_of_two,
                               int8_t* codes);

// The codes nearest to 32 values / scale, as the numbers (16, ascending) that they stand for, and
// their squared error, each weighted: 16 partial sums, added in halves.
float nearest_numbers_avx512(const float* x, const float* importance, float scale,
                             const int8_t* numbers, float* code);

}  // namespace fathom::cpu
