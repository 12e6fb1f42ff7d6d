// Entries of the dispatch table for gemm and grouped_gemm on the CPU.
#pragma once

#include "kernels/kernels.h"

namespace fathom::cpu {

// f32 or bf16 operands (as kernels.h pairs them).
bool gemm_supports(const GemmParams& p);
bool grouped_gemm_supports(const GroupedGemmParams& p);
// bf16 operands: the kernels of VDPBF16PS.
bool gemm_bf16_supports(const GemmParams& p);
bool grouped_gemm_bf16_supports(const GroupedGemmParams& p);

void gemm_avx2(Context& ctx, const GemmParams& p);
void gemm_avx512(Context& ctx, const GemmParams& p);
void gemm_avx512bf16(Context& ctx, const GemmParams& p);
void grouped_gemm_avx2(Context& ctx, const GroupedGemmParams& p);
void grouped_gemm_avx512(Context& ctx, const GroupedGemmParams& p);
void grouped_gemm_avx512bf16(Context& ctx, const GroupedGemmParams& p);

}  // namespace fathom::cpu
