// What the blocked matrix product needs from an instruction set: packing into panels and one
// register tile. A plain struct of function pointers, so that blocking and threading
// (gemm_blocked.cc, attention.cc) are compiled once, for the baseline, and the instruction-set
// files hold nothing but loops over intrinsics. Those files include no header with inline functions
// of the project: the linker keeps one copy of an inline function, and it could be the one compiled
// for a processor that is not there.
//
// Panels. An operand is cut into panels of `width` lanes (rows of a, columns of b; width = mr or
// nr), and a panel lies as [k_groups][width][k_step]: everything that one step of the register tile
// reads is contiguous. Lanes beyond the operand and the odd tail of k are zero.
//
// Order of summation. An element of c is the sum over blocks of kBlockK of the sum within the block
// in ascending k, whatever the layout, the number of rows, the tile it falls into or the number of
// threads: the same row gives the same bits alone and in a batch. A scaled product's element is
// fma(sum over a slice of kSliceK in ascending k, a scale * b scale, so far) over the slices.
#pragma once

#include <cstdint>

namespace fathom::cpu {

// A panel of 32 columns of a block takes 128 KiB in bf16 and 256 KiB in fp32, and one of 14 rows 56
// or 112: a tile is long, so that its beginning and its end cost 1 % of it, and a thread's second-
// level cache still holds a few panels and what it multiplies them with.
inline constexpr int64_t kBlockK = 2048;
// The contracted elements that share a scale; divides kBlockK.
inline constexpr int64_t kSliceK = 128;

// Formats of an operand in memory; codes are decoded exactly while they are packed (every value of
// the 8-bit and 12-bit formats is one of bf16, and a normal one).
// Panels (kernels/panel.h) are a k-contiguous b; its lanes are read 16 at a time from a multiple of
// 16 on, and k from a multiple of 4 on.
enum Source : uint8_t {
  kSourceF32,
  kSourceBf16,
  kSourceE4m3,
  kSourceE5m2,
  kSourceE5m6,
  kSourceBf16Panels,
  kSourceE4m3Panels,
  kSourceI8Panels
};
inline constexpr int kNumSources = 8;
constexpr bool is_panels(Source s) { return s >= kSourceBf16Panels; }
inline constexpr int64_t kSourcePanelRows = 16;
constexpr int64_t source_bytes(Source s) {
  if (s == kSourceE4m3 || s == kSourceE5m2 || s > kSourceBf16Panels) return 1;
  return s == kSourceF32 ? 4 : 2;
}

// Lines of memory that the caller packs next; tiles ask the second-level cache for some of them
// while they multiply, so that memory and multiplier work at the same time.
struct Ask {
  const char* row = nullptr;
  int64_t ld_bytes = 0;
  int64_t row_lines = 0, line = 0;
  int64_t lines_left = 0;
  int64_t lines_per_turn = 0;  // a turn is kAskGroups groups of a tile
};
inline constexpr int64_t kAskGroups = 16;

struct GemmTile {
  const void* a = nullptr;  // one panel of mr rows
  const void* b = nullptr;  // one panel of nr columns
  // Of b, where `takes_panels`: bytes from a group to the next, and from the words of 16 columns to
  // those of the next 16.
  int64_t b_group_bytes = 128, b_vector_bytes = 64;
  int64_t k_groups = 0;
  int64_t rows = 0, cols = 0;   // of c that exist: 1..mr, 1..nr
  const float* init = nullptr;  // fp32 partial sums to add; may be null
  int64_t ld_init = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  bool c_bf16 = false;
  bool add_c = false;  // c += in fp32, rounded once
  Ask* ask = nullptr;  // of what is packed next
  // Of scaled_tile: the scales of each slice, [slices][mr] and [slices][nr].
  const float* a_scales = nullptr;
  const float* b_scales = nullptr;
};

// Packs `lanes` <= width lanes of k elements each.
using PackFunction = void (*)(const void* src, int64_t ld, int64_t lanes, int64_t k, int64_t width,
                              void* panel);

// A few rows of c at kStreamLanes columns or fewer, from a k-contiguous b that is read once, where
// it lies. The sums are those of the tiles, bit for bit.
inline constexpr int64_t kStreamLanes = 32, kStreamRows = 16;
struct GemmStream {
  const void* a = nullptr;  // words (fp32, or pairs of bf16), [k_groups][rows]
  int64_t rows = 0;         // 1..kStreamRows
  const void* b = nullptr;  // lane, k at b[lane * ldb + k]
  int64_t ldb = 0, lanes = 0, k = 0;
  // What the thread reads next, to ask memory for: so many lanes behind these, and then some at
  // next_rows that lie likewise (null: unknown).
  int64_t lanes_after = 0;
  const void* next_rows = nullptr;
  // Of codes: [slices][rows] and [slices][kStreamLanes].
  const float* a_scales = nullptr;
  const float* b_scales = nullptr;
  void* c = nullptr;
  int64_t ldc = 0;
  bool c_bf16 = false, add_c = false;  // as in GemmTile
};
struct StreamKernels {                         // null: none
  void (*f32)(const GemmStream& s) = nullptr;  // plain products
  void (*bf16)(const GemmStream& s) = nullptr;
  void (*bf16_panels)(const GemmStream& s) = nullptr;
  void (*e4m3)(const GemmStream& s) = nullptr;  // scaled ones
  void (*e5m2)(const GemmStream& s) = nullptr;
  void (*e4m3_panels)(const GemmStream& s) = nullptr;
};

struct GemmKernels {
  int64_t mr, nr;
  int64_t k_step;        // elements of k in one group: 2 where the multiplier takes pairs
  int64_t packed_bytes;  // of one element
  // By Source. k_contiguous: element (lane, k) at src[lane * ld + k]; lane_contiguous: at
  // src[k * ld + lane].
  PackFunction pack_k_contiguous[kNumSources];
  PackFunction pack_lane_contiguous[kNumSources];
  void (*tile)(const GemmTile& t);
  // k_groups covers whole slices but for the last. An fp32 c that is added to is where the sums
  // start; a bf16 one is added at the end, like init.
  void (*scaled_tile)(const GemmTile& t);
  bool takes_panels = false;              // tiles read a b of kSourceBf16Panels where it lies
  const StreamKernels* stream = nullptr;  // null: none
};

extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512;
extern const GemmKernels kGemmAvx512Bf16;
extern const StreamKernels kStreamAvx512, kStreamAvx512Bf16;

}  // namespace fathom::cpu
