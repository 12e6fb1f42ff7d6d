// Drivers of quantisation over any QuantizeKernels. Every element is read twice at most (its tile's
// largest magnitude, then its code), the second time from cache.
#pragma once

#include "kernels/cpu/quantize_kernels.h"
#include "kernels/scaled.h"

namespace fathom::cpu {

void quantize(Context& ctx, const QuantizeParams& p, const QuantizeKernels& kernels);
void dequantize(Context& ctx, const DequantizeParams& p, const QuantizeKernels& kernels);

void pack_e5m6(Context& ctx, const PackE5m6Params& p, const QuantizeKernels& kernels);

}  // namespace fathom::cpu
