// Scaled products over the blocked multiplication of gemm_blocked.cc: codes are decoded while they
// are packed, and the register tile promotes its sums every 128 with the scales that lie beside the
// panels. So they run at the rate of bf16 products but for the promotion, and a decode-sized one
// reads a byte for each weight. Panels of e4m3 are codes that lie otherwise; panels of bf16 have no
// scales and are products as plain ones are.
#include "kernels/cpu/scaled_matmul.h"

#include "core/integer.h"
#include "kernels/cpu/gemm_blocked.h"

namespace fathom::cpu {
namespace {

static_assert(kSliceK == kScaleTile);

Source source_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kSourceF32;
    case DType::kBF16:
      return kSourceBf16;
    case DType::kE4M3:
      return kSourceE4m3;
    case DType::kE5M2:
      return kSourceE5m2;
    case DType::kE5M6:
      return kSourceE5m6;
    default:
      FATHOM_CHECK(false, "codes of {}", dtype_name(dtype));
  }
}

// One matrix of an operand: codes and scales of a row range or of an expert.
struct Matrix {
  const void* data = nullptr;
  int64_t ld = 0;
  ScaleGrid scales;
};

// `contracts_rows`: lanes are the columns.
ScaleGrid grid_of(const ScaledView& v, const TensorView& scales, bool contracts_rows) {
  if (v.grain == ScaleGrain::kNone || v.grain == ScaleGrain::kPanel) return {};
  ScaleGrid grid{.data = static_cast<const float*>(scales.data)};
  if (v.grain == ScaleGrain::kTensor) return grid;
  if (v.grain == ScaleGrain::kBlock || v.grain == ScaleGrain::kBlockPanel)
    grid.lanes_per_scale = kScaleTile;
  grid.lane_stride = contracts_rows ? 1 : scales.stride[0];
  grid.slice_stride = contracts_rows ? scales.stride[0] : 1;
  return grid;
}

Matrix matrix_of(const ScaledView& v, bool contracts_rows) {
  return {v.codes.data, v.codes.stride[0], grid_of(v, v.scales, contracts_rows)};
}

// Rows from `begin` on, whose tiles along the rows begin at `tile`.
Matrix rows_of(const ScaledView& v, int64_t begin, int64_t tile, bool contracts_rows) {
  Matrix m = matrix_of(v, contracts_rows);
  m.data = static_cast<const std::byte*>(v.codes.data) +
           begin * v.codes.stride[0] * dtype_bytes(v.codes.dtype);
  if (v.grain == ScaleGrain::kRow) m.scales.data += begin * v.scales.stride[0];
  if (v.grain == ScaleGrain::kBlock) m.scales.first_lane = begin;  // blocks span experts
  if (v.grain == ScaleGrain::kColumn) m.scales.data += tile * v.scales.stride[0];
  return m;
}

Matrix expert_of(const ScaledView& v, int64_t e, bool contracts_rows) {
  const TensorView codes = v.codes.at(e);
  const TensorView scales = v.scales.empty() ? TensorView{} : v.scales.at(e);
  return {codes.data, codes.stride[0], grid_of(v, scales, contracts_rows)};
}

Product product_of(const Matrix& a, const Matrix& b, const TensorView& c, int64_t k) {
  Product p;
  p.a = a.data;
  p.b = b.data;
  p.c = c.data;
  p.m = c.dim(0);
  p.n = c.dim(1);
  p.k = k;
  p.lda = a.ld;
  p.ldb = b.ld;
  p.ldc = c.stride[0];
  p.a_scales = a.scales;
  p.b_scales = b.scales;
  return p;
}

template <typename Params>
ProductKind kind_of(const Params& p) {
  if (p.b.grain == ScaleGrain::kPanel) {
    return {.layout = p.layout,
            .a_source = kSourceBf16,
            .b_source = kSourceBf16Panels,
            .c_bf16 = p.c.dtype == DType::kBF16,
            .accumulate = p.accumulate};
  }
  return {.layout = p.layout,
          .a_source = source_of(p.a.codes.dtype),
          .b_source =
              p.b.grain == ScaleGrain::kBlockPanel ? kSourceE4m3Panels : source_of(p.b.codes.dtype),
          .c_bf16 = p.c.dtype == DType::kBF16,
          .accumulate = p.accumulate,
          .scaled = true};
}

void run(Context& ctx, const GemmKernels& kernels, const ScaledGemmParams& p) {
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  if (p.c.shape.num_dims == 2) {
    const Product product =
        product_of(matrix_of(p.a, tn), matrix_of(p.b, !nt), p.c, p.a.codes.dim(tn ? 0 : 1));
    return multiply(ctx, kernels, kind_of(p), &product, 1);
  }
  Scratch::Mark mark(ctx.scratch());
  auto* products = ctx.scratch().allocate_structs<Product>(p.c.dim(0), "scaled_products");
  for (int64_t i = 0; i < p.c.dim(0); ++i) {
    new (products + i) Product(product_of(expert_of(p.a, i, false), expert_of(p.b, i, false),
                                          p.c.at(i), p.a.codes.dim(2)));
  }
  multiply(ctx, kernels, kind_of(p), products, p.c.dim(0));
}

void run(Context& ctx, const GemmKernels& kernels, const ScaledGroupedGemmParams& p) {
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  Scratch::Mark mark(ctx.scratch());
  auto* products = ctx.scratch().allocate_structs<Product>(p.num_experts, "scaled_products");
  int64_t tile = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t begin = p.offsets[e], count = p.offsets[e + 1] - begin;
    const Matrix a = rows_of(p.a, begin, tile, tn);
    const Matrix b = tn ? rows_of(p.b, begin, tile, true) : expert_of(p.b, e, !nt);
    new (products + e) Product(
        product_of(a, b, tn ? p.c.at(e) : p.c.rows(begin, count), tn ? count : p.a.codes.dim(1)));
    tile += div_up(count, kScaleTile);
  }
  multiply(ctx, kernels, kind_of(p), products, p.num_experts);
}

template <typename Params>
bool supports(const Params& p) {
  return p.accumulator.model == Accumulator::Model::kFp32 && !in_panels(p.b.grain);
}
template <typename Params>
bool bf16_supports(const Params& p) {
  if (p.b.grain == ScaleGrain::kPanel)
    return p.b.codes.dtype == DType::kBF16 && p.a.codes.dtype == DType::kBF16;
  if (p.b.grain == ScaleGrain::kBlockPanel) return p.a.codes.dtype == DType::kBF16;
  return supports(p) && p.a.codes.dtype != DType::kF32 && p.b.codes.dtype != DType::kF32;
}

}  // namespace

bool scaled_gemm_supports(const ScaledGemmParams& p) { return supports(p); }
bool scaled_grouped_gemm_supports(const ScaledGroupedGemmParams& p) { return supports(p); }
bool scaled_gemm_bf16_supports(const ScaledGemmParams& p) { return bf16_supports(p); }
bool scaled_grouped_gemm_bf16_supports(const ScaledGroupedGemmParams& p) {
  return bf16_supports(p);
}

void scaled_gemm_avx2(Context& ctx, const ScaledGemmParams& p) { run(ctx, kGemmAvx2, p); }
void scaled_gemm_avx512(Context& ctx, const ScaledGemmParams& p) { run(ctx, kGemmAvx512, p); }
void scaled_gemm_avx512bf16(Context& ctx, const ScaledGemmParams& p) {
  run(ctx, kGemmAvx512Bf16, p);
}
void scaled_grouped_gemm_avx2(Context& ctx, const ScaledGroupedGemmParams& p) {
  run(ctx, kGemmAvx2, p);
}
void scaled_grouped_gemm_avx512(Context& ctx, const ScaledGroupedGemmParams& p) {
  run(ctx, kGemmAvx512, p);
}
void scaled_grouped_gemm_avx512bf16(Context& ctx, const ScaledGroupedGemmParams& p) {
  run(ctx, kGemmAvx512Bf16, p);
}

}  // namespace fathom::cpu
