namespace fathom::cpu {
namespace {
constexpr int kVectorBytes = 32;
}
}  // namespace fathom::cpu

#include "kernels/cpu/quantize-inl.h"

namespace fathom::cpu {

const QuantizeKernels kQuantizeAvx2 = quantize_kernels();

}  // namespace fathom::cpu
