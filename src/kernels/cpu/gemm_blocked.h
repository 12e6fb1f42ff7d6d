// Blocking and threading of matrix products, over any GemmKernels.
#pragma once

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/kernels.h"

namespace fathom::cpu {

// Where the scale of (lane, slice of kSliceK) lies: data[(first_lane + lane) / lanes_per_scale *
// lane_stride + slice * slice_stride]. Lanes are the rows of a or the columns of b.
struct ScaleGrid {
  const float* data = nullptr;  // null: 1
  int64_t first_lane = 0, lanes_per_scale = 1;
  int64_t lane_stride = 0, slice_stride = 0;
  // In place of data the scales of kSourceI8Panels: (lane / 16, slice, lane % 16) at panels[lane /
  // 16 * lane_stride + slice * slice_stride + lane % 16].
  const bf16* panels = nullptr;
};

// One product of a list; leading dimensions in elements.
struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  ScaleGrid a_scales, b_scales;
};

// Panels that all threads share are packed for a batch of jobs at a time. Every block of a job's
// other side passes over all of them, so the last-level cache should hold those of a job.
inline constexpr int64_t kBatchPanelBytes = int64_t{32} << 20, kJobPanelBytes = int64_t{8} << 20;

// What the products of a list have in common.
struct ProductKind {
  GemmLayout layout = GemmLayout::kNt;
  Source a_source = kSourceF32, b_source = kSourceF32;
  bool c_bf16 = false;
  bool accumulate = false;
  bool scaled = false;  // sum by slices of kSliceK, each times its scales
  // Tests make them small.
  int64_t batch_panel_bytes = kBatchPanelBytes, job_panel_bytes = kJobPanelBytes;
};

// All products of the list, which write disjoint tensors.
void multiply(Context& ctx, const GemmKernels& kernels, const ProductKind& kind,
              const Product* products, int64_t num_products);

}  // namespace fathom::cpu
