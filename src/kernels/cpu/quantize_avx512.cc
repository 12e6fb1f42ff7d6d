namespace fathom::cpu {
namespace {
constexpr int kVectorBytes = 64;
}
}  // namespace fathom::cpu

#include "kernels/cpu/quantize-inl.h"

namespace fathom::cpu {

const QuantizeKernels kQuantizeAvx512 = quantize_kernels();

}  // namespace fathom::cpu
