// The emulated tensor core's inner loop for one instruction set (tensor_core.cc drives it). As with
// gemm_kernels.h, the instruction-set files include no header with inline functions of the project.
#pragma once

#include <cstdint>

namespace fathom::cpu {

struct TensorCoreKernels {
  int64_t lanes;  // columns of a panel
  // out[j] = the emulated sum over l < count of a[l] * panel[l * lanes + j]. bits <= 24. Products
  // must be exact in fp32, as those of two codes are; where one is not finite the sum is NaN.
  void (*sum)(const float* a, const float* panel, int64_t count, int bits, bool align_all,
              float* out);
};

extern const TensorCoreKernels kTensorCoreAvx2;
extern const TensorCoreKernels kTensorCoreAvx512;

}  // namespace fathom::cpu
