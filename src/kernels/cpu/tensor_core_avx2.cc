namespace fathom::cpu {
namespace {
constexpr int kVectorBytes = 32;
}
}  // namespace fathom::cpu

#include "kernels/cpu/tensor_core-inl.h"

namespace fathom::cpu {

const TensorCoreKernels kTensorCoreAvx2 = {kLanes, sum_panel};

}  // namespace fathom::cpu
