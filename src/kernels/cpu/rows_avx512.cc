#include "kernels/cpu/simd_avx512.h"
// After the Simd that it is compiled over.
#include "kernels/cpu/rows-inl.h"

namespace fathom::cpu {
const RowKernels kRowsAvx512 = kRows;
}  // namespace fathom::cpu
