#include "kernels/cpu/simd_avx2.h"
// After the Simd that it is compiled over.
#include "kernels/cpu/rows-inl.h"

namespace fathom::cpu {
const RowKernels kRowsAvx2 = kRows;
}  // namespace fathom::cpu
