// Scaled products under an emulated tensor core (scaled.h, Accumulator), fast enough to train small
// models with: the bits of the reference, on all threads.
#pragma once

#include "kernels/cpu/quantize_kernels.h"
#include "kernels/cpu/tensor_core_kernels.h"
#include "kernels/scaled.h"

namespace fathom::cpu {

// An emulated sum of at most 24 bits, of codes.
bool emulated_gemm_supports(const ScaledGemmParams& p);
bool emulated_grouped_gemm_supports(const ScaledGroupedGemmParams& p);

void emulated_gemm(Context& ctx, const ScaledGemmParams& p, const TensorCoreKernels& kernels,
                   const QuantizeKernels& decode);
void emulated_grouped_gemm(Context& ctx, const ScaledGroupedGemmParams& p,
                           const TensorCoreKernels& kernels, const QuantizeKernels& decode);

}  // namespace fathom::cpu
