namespace fathom::cpu {
namespace {
constexpr int kVectorBytes = 64;
}
}  // namespace fathom::cpu

#include "kernels/cpu/tensor_core-inl.h"

namespace fathom::cpu {

const TensorCoreKernels kTensorCoreAvx512 = {kLanes, sum_panel};

}  // namespace fathom::cpu
