// What this machine could do at most: the rate of fused multiply-adds on registers alone, with all
// threads of the Context at its instruction-set level. Speeds are given as a share of it.
#pragma once

#include "core/types.h"
#include "runtime/context.h"

namespace fathom {

// Floating-point operations per second (a multiply-add is two) with operands of this dtype: bf16
// uses the dot-product instruction where the level has one, kU8 the int8 one (VNNI; 0 where there is
// none), everything else fp32 multiply-adds. Takes about 20 ms; the best of a few short runs.
double measure_peak_flops(Context& ctx, DType dtype);

}  // namespace fathom
