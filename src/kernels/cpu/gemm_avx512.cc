// fp32 products on AVX-512: 32 FLOP an FMA. bf16 operands are widened while they are packed, so
// that one register tile serves both.
#include "kernels/cpu/gemm_avx512.h"

namespace fathom::cpu {
namespace {

struct FmaOps {
  static __m512 multiply_add(__m512 sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

}  // namespace

const GemmKernels kGemmAvx512 = {
    .mr = kTileRows,
    .nr = kTileVecs * kLanes,
    .k_step = 1,
    .packed_bytes = 4,
    .pack_k_contiguous = {pack_k_contiguous<F32Words>, pack_k_contiguous<WidenedWords>},
    .pack_lane_contiguous = {pack_lane_contiguous<F32Words>, pack_lane_contiguous<WidenedWords>},
    .tile = any_tile<FmaOps>,
};

}  // namespace fathom::cpu
