// Entries of the dispatch table for scaled_gemm and scaled_grouped_gemm on the CPU.
#pragma once

#include "kernels/scaled.h"

namespace fathom::cpu {

// Sums in fp32, not those of an emulated accumulator.
bool scaled_gemm_supports(const ScaledGemmParams& p);
bool scaled_grouped_gemm_supports(const ScaledGroupedGemmParams& p);
// Besides, no fp32 operands: the kernels of VDPBF16PS, which every code is exact in.
bool scaled_gemm_bf16_supports(const ScaledGemmParams& p);
bool scaled_grouped_gemm_bf16_supports(const ScaledGroupedGemmParams& p);

void scaled_gemm_avx2(Context& ctx, const ScaledGemmParams& p);
void scaled_gemm_avx512(Context& ctx, const ScaledGemmParams& p);
void scaled_gemm_avx512bf16(Context& ctx, const ScaledGemmParams& p);
void scaled_grouped_gemm_avx2(Context& ctx, const ScaledGroupedGemmParams& p);
void scaled_grouped_gemm_avx512(Context& ctx, const ScaledGroupedGemmParams& p);
void scaled_grouped_gemm_avx512bf16(Context& ctx, const ScaledGroupedGemmParams& p);

}  // namespace fathom::cpu
