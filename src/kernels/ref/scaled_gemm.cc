#include <algorithm>
#include <cmath>

#include "kernels/ref/ref.h"
#include "kernels/ref/scaled_elements.h"
#include "kernels/ref/tensor_core.h"

namespace fathom::ref {
namespace {

// The sum of products [begin, end) of the contracted index, as the accumulator has it.
template <typename Product>
float slice_sum(const Accumulator& accumulator, int64_t begin, int64_t end, Product&& product) {
  if (accumulator.model == Accumulator::Model::kFp32) {
    float sum = 0;
    for (int64_t l = begin; l < end; ++l) sum += product(l);
    return sum;
  }
  TensorCoreSum sum(accumulator);
  for (int64_t step = begin; step < end; step += kTensorCoreStep) {
    double products[kTensorCoreStep];
    const int64_t count = std::min(kTensorCoreStep, end - step);
    for (int64_t i = 0; i < count; ++i) products[i] = static_cast<double>(product(step + i));
    sum.add(products, count);
  }
  return static_cast<float>(sum.value());
}

// One product. The scales of a slice are read at its first element.
void product(const ScaledGemmParams& p) {
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  const TensorView& c = p.c;
  const int64_t m = c.dim(0), n = c.dim(1), k = p.a.codes.dim(tn ? 0 : 1);
  int64_t interval = kScaleTile;
  if (p.accumulator.model != Accumulator::Model::kFp32) {
    interval = p.accumulator.promotion > 0 ? p.accumulator.promotion : std::max<int64_t>(k, 1);
  } else if (p.b.grain == ScaleGrain::kPanel) {
    interval = nt ? panel_group(p.b.codes.dtype) : 1;
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = i * c.stride[0] + j;
      // A product of two codes is exact in fp32; one of fp32 values is rounded.
      const auto product_at = [&](int64_t l) {
        return (tn ? code_value(p.a.codes, l, i) : code_value(p.a.codes, i, l)) *
               (nt ? code_value(p.b, j, l) : code_value(p.b, l, j));
      };
      float sum = 0;
      if (p.accumulate && c.dtype == DType::kF32) sum = c.as<float>()[at];
      for (int64_t begin = 0; begin < k; begin += interval) {
        const float slice =
            slice_sum(p.accumulator, begin, std::min(k, begin + interval), product_at);
        const float scale = (tn ? scale_value(p.a, begin, i) : scale_value(p.a, i, begin)) *
                            (nt ? scale_value(p.b, j, begin) : scale_value(p.b, begin, j));
        sum = std::fma(slice, scale, sum);
      }
      if (c.dtype == DType::kF32) {
        c.as<float>()[at] = sum;
      } else {
        const float before = p.accumulate ? static_cast<float>(c.as<bf16>()[at]) : 0.0f;
        c.as<bf16>()[at] = bf16(before + sum);
      }
    }
  }
}

}  // namespace

void scaled_gemm(Context&, const ScaledGemmParams& p) {
  if (p.c.shape.num_dims == 2) return product(p);
  for (int64_t i = 0; i < p.c.dim(0); ++i) {
    ScaledGemmParams one = p;
    one.a.codes = p.a.codes.at(i);
    one.b = expert_matrix(p.b, i);
    one.c = p.c.at(i);
    product(one);
  }
}

void scaled_grouped_gemm(Context&, const ScaledGroupedGemmParams& p) {
  for_each_expert(p, product);
}

}  // namespace fathom::ref
