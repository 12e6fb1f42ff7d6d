// Balance without an auxiliary loss (SPEC C.5): after each step the selection bias of every routed
// expert moves by gamma against its load over the whole step.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"

namespace fathom {

// b_i -= gamma * sign(c_i - mean c). `centred` also subtracts the mean of this update, so that the
// sum of b stays: it routes the same, and b does not drift.
void update_router_bias(std::span<const int64_t> counts_E, double gamma, bool centred,
                        const TensorView& bias_E);

// max_i c_i / mean c - 1: how much more than its share the busiest expert gets. 0 without tokens.
double max_violation(std::span<const int64_t> counts_E);

}  // namespace fathom
