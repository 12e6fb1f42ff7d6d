#include "kernels/cpu/simd_avx2.h"
//
#include "kernels/cpu/rows-inl.h"

namespace fathom::cpu {
const RowKernels kRowsAvx2 = kRows;
}  // namespace fathom::cpu
