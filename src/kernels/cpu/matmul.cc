#include "kernels/cpu/matmul.h"

#include "kernels/cpu/gemm_blocked.h"

namespace fathom::cpu {
namespace {

bool narrow_inputs(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

ProductKind kind_of(GemmLayout layout, const TensorView& a, const TensorView& c, bool accumulate) {
  const Source source = a.dtype == DType::kBF16 ? kSourceBf16 : kSourceF32;
  return {layout, source, source, c.dtype == DType::kBF16, accumulate};
}

// A dimension of one element may carry any stride; kernels then never use it.
Product product_of(GemmLayout layout, const TensorView& a, const TensorView& b,
                   const TensorView& c) {
  Product p;
  p.a = a.data;
  p.b = b.data;
  p.c = c.data;
  p.m = c.dim(0);
  p.n = c.dim(1);
  p.k = layout == GemmLayout::kTn ? a.dim(0) : a.dim(1);
  p.lda = a.stride[0];
  p.ldb = b.stride[0];
  p.ldc = c.stride[0];
  return p;
}

void gemm(Context& ctx, const GemmKernels& kernels, const GemmParams& p) {
  const ProductKind kind = kind_of(p.layout, p.a, p.c, p.accumulate);
  if (p.c.shape.num_dims == 2) {
    const Product product = product_of(p.layout, p.a, p.b, p.c);
    return multiply(ctx, kernels, kind, &product, 1);
  }
  Scratch::Mark mark(ctx.scratch());
  const int64_t count = p.c.dim(0);
  auto* products = ctx.scratch().allocate_structs<Product>(count, "products");
  for (int64_t i = 0; i < count; ++i)
    new (products + i) Product(product_of(p.layout, p.a.at(i), p.b.at(i), p.c.at(i)));
  multiply(ctx, kernels, kind, products, count);
}

void grouped_gemm(Context& ctx, const GemmKernels& kernels, const GroupedGemmParams& p) {
  Scratch::Mark mark(ctx.scratch());
  auto* products = ctx.scratch().allocate_structs<Product>(p.num_experts, "products");
  const bool weight_gradient = p.layout == GemmLayout::kTn;
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t begin = p.offsets[e], count = p.offsets[e + 1] - begin;
    new (products + e) Product(product_of(p.layout, p.a.rows(begin, count),
                                          weight_gradient ? p.b.rows(begin, count) : p.b.at(e),
                                          weight_gradient ? p.c.at(e) : p.c.rows(begin, count)));
  }
  multiply(ctx, kernels, kind_of(p.layout, p.a, p.c, p.accumulate), products, p.num_experts);
}

}  // namespace

bool gemm_supports(const GemmParams& p) { return narrow_inputs(p.a.dtype); }
bool grouped_gemm_supports(const GroupedGemmParams& p) { return narrow_inputs(p.a.dtype); }
bool gemm_bf16_supports(const GemmParams& p) { return p.a.dtype == DType::kBF16; }
bool grouped_gemm_bf16_supports(const GroupedGemmParams& p) { return p.a.dtype == DType::kBF16; }

void gemm_avx2(Context& ctx, const GemmParams& p) { gemm(ctx, kGemmAvx2, p); }
void gemm_avx512(Context& ctx, const GemmParams& p) { gemm(ctx, kGemmAvx512, p); }
void gemm_avx512bf16(Context& ctx, const GemmParams& p) { gemm(ctx, kGemmAvx512Bf16, p); }
void grouped_gemm_avx2(Context& ctx, const GroupedGemmParams& p) {
  grouped_gemm(ctx, kGemmAvx2, p);
}
void grouped_gemm_avx512(Context& ctx, const GroupedGemmParams& p) {
  grouped_gemm(ctx, kGemmAvx512, p);
}
void grouped_gemm_avx512bf16(Context& ctx, const GroupedGemmParams& p) {
  grouped_gemm(ctx, kGemmAvx512Bf16, p);
}

}  // namespace fathom::cpu
