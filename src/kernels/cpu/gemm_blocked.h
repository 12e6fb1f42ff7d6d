// Blocking and threading of matrix products, over any GemmKernels.
#pragma once

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/kernels.h"

namespace fathom::cpu {

// One product of a list; leading dimensions in elements.
struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
};

// What the last-level cache may hold of panels that all threads share.
inline constexpr int64_t kSharedPanelBytes = int64_t{32} << 20;

// What the products of a list have in common.
struct ProductKind {
  GemmLayout layout = GemmLayout::kNt;
  bool input_bf16 = false;
  bool c_bf16 = false;
  bool accumulate = false;
  int64_t shared_panel_bytes = kSharedPanelBytes;  // of one batch; tests make it small
};

// All products of the list, which write disjoint tensors.
void multiply(Context& ctx, const GemmKernels& kernels, const ProductKind& kind,
              const Product* products, int64_t num_products);

}  // namespace fathom::cpu
