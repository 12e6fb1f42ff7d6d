// A short check of the kernels on the machine that they run on: each instruction-set level against
// the reference, on shapes that have tails, and how fast the matrix product is. For `fathom
// doctor`; the tests beside the kernels go much deeper.
#pragma once

#include <string>
#include <vector>

#include "core/types.h"
#include "runtime/context.h"

namespace fathom {

struct SelfTestResult {
  std::string operation;  // "gemm nt bf16"
  IsaLevel isa = IsaLevel::kReference;
  double error = 0;    // largest absolute difference from the reference; infinity if not finite
  double allowed = 0;  // derived from the rounding of the formats, see self_check.cc
  bool passed() const { return error <= allowed; }
};

// Every operation at every level that this processor supports above the reference.
std::vector<SelfTestResult> run_kernel_self_test(int num_threads);

// Billions of floating-point operations a second of gemm_nt at the context's level, measured for
// about `seconds` on one shape of a small model.
double measure_gemm_gflops(Context& ctx, DType dtype, double seconds);

}  // namespace fathom
