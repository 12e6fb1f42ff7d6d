// Precision is data: which format each role has. fp32, bf16 (and fp64 for finite differences) are
// values of one type, not code paths; the FP8 recipe will be another.
#pragma once

#include <string_view>

#include "core/error.h"
#include "core/types.h"
#include "model/parameters.h"

namespace fathom {

struct Policy {
  const char* name = "bf16";
  DType weights = DType::kBF16;       // matrices, embedding and head, as the products read them
  DType small = DType::kF32;          // norm weights, router and its bias; also scores and losses
  DType activations = DType::kBF16;   // operands and results of the products
  DType residual = DType::kF32;       // the residual stream
  DType gradients = DType::kF32;      // of weights, accumulated
  DType latent_cache = DType::kBF16;  // inference

  ParameterDtypes weight_dtypes() const { return {weights, small}; }
  ParameterDtypes gradient_dtypes() const { return {gradients, gradients}; }
};

inline constexpr Policy kPolicyBf16{};
inline constexpr Policy kPolicyFp32{"fp32",      DType::kF32, DType::kF32, DType::kF32,
                                    DType::kF32, DType::kF32, DType::kF32};
inline constexpr Policy kPolicyFp64{"fp64",      DType::kF64, DType::kF64, DType::kF64,
                                    DType::kF64, DType::kF64, DType::kF64};

inline const Policy& policy_by_name(std::string_view name) {
  for (const Policy* policy : {&kPolicyBf16, &kPolicyFp32, &kPolicyFp64}) {
    if (name == policy->name) return *policy;
  }
  fail(ErrorKind::kUsage, "precision: found '{}', expected bf16, fp32 or fp64", name);
}

}  // namespace fathom
