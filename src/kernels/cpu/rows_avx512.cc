#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/rows-inl.h"

namespace fathom::cpu {
const RowKernels kRowsAvx512 = kRows;
}  // namespace fathom::cpu
