#include "kernels/cpu/tensor_core.h"

#include <cmath>

#include "kernels/cpu/row_loop.h"
#include "kernels/ref/scaled_elements.h"

namespace fathom::cpu {
namespace {

bool is_code(const ScaledView& v) {
  return v.codes.dtype == DType::kE4M3 || v.codes.dtype == DType::kE5M2 ||
         v.codes.dtype == DType::kE5M6;
}

bool emulates(const Accumulator& accumulator) {
  return accumulator.model != Accumulator::Model::kFp32 && accumulator.bits <= 24;
}

int format_of(DType code) {
  return code == DType::kE4M3 ? kFormatE4M3 : code == DType::kE5M2 ? kFormatE5M2 : kFormatE5M6;
}

// All codes of a matrix as fp32, [rows, cols] or transposed, rows of the result `stride` apart.
void decode_matrix(Context& ctx, const TensorView& codes, bool transposed,
                   const QuantizeKernels& decode, float* out, int64_t stride) {
  const int64_t cols = codes.dim(1);
  const auto load = decode.load[format_of(codes.dtype)];
  if (!transposed) {
    for_rows(ctx, codes.dim(0), cols,
             [&](int64_t row, int) { load(row_at(codes, row), 1.0f, out + row * stride, cols); });
    return;
  }
  constexpr int64_t kBlock = 64;
  ctx.threads().parallel_for(div_up(cols, kBlock), [&](int64_t block, int) {
    float row_values[kBlock];
    const int64_t begin = block * kBlock, n = std::min(kBlock, cols - begin);
    for (int64_t row = 0; row < codes.dim(0); ++row) {
      load(static_cast<const std::byte*>(row_at(codes, row)) + begin * dtype_bytes(codes.dtype),
           1.0f, row_values, n);
      for (int64_t j = 0; j < n; ++j) out[(begin + j) * stride + row] = row_values[j];
    }
  });
}

void multiply(Context& ctx, const ScaledGemmParams& p, const TensorCoreKernels& kernels,
              const QuantizeKernels& decode) {
  const bool tn = p.layout == GemmLayout::kTn, nt = p.layout == GemmLayout::kNt;
  const TensorView& c = p.c;
  const int64_t m = c.dim(0), n = c.dim(1), k = p.a.codes.dim(tn ? 0 : 1);
  const int64_t lanes = kernels.lanes, panels = div_up(n, lanes);
  const int64_t interval =
      p.accumulator.promotion > 0 ? p.accumulator.promotion : std::max<int64_t>(k, 1);
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  float* a = scratch.allocate<float>(m * k, "tensor_core.a");
  float* columns = scratch.allocate<float>(n * k, "tensor_core.b");
  float* b = scratch.allocate<float>(panels * lanes * k, "tensor_core.panels");
  decode_matrix(ctx, p.a.codes, tn, decode, a, k);
  decode_matrix(ctx, p.b.codes, !nt, decode, columns, k);
  ctx.threads().parallel_for(panels, [&](int64_t panel, int) {
    for (int64_t j = 0; j < lanes; ++j) {
      const int64_t col = panel * lanes + j;
      for (int64_t l = 0; l < k; ++l)
        b[(panel * k + l) * lanes + j] = col < n ? columns[col * k + l] : 0.0f;
    }
  });
  constexpr int64_t kMaxLanes = 16;
  FATHOM_CHECK_LE(lanes, kMaxLanes);
  for_rows(ctx, m, n * k, [&](int64_t i, int) {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * lanes, count = std::min(lanes, n - first);
      float total[kMaxLanes] = {};
      if (p.accumulate && c.dtype == DType::kF32) {
        for (int64_t j = 0; j < count; ++j) total[j] = f32_row(c, i)[first + j];
      }
      for (int64_t begin = 0; begin < k; begin += interval) {
        float slice[kMaxLanes];
        kernels.sum(a + i * k + begin, b + (panel * k + begin) * lanes,
                    std::min(interval, k - begin), p.accumulator.bits,
                    p.accumulator.model == Accumulator::Model::kAlignAll, slice);
        const float a_scale =
            tn ? ref::scale_value(p.a, begin, i) : ref::scale_value(p.a, i, begin);
        for (int64_t j = 0; j < count; ++j) {
          const float b_scale = nt ? ref::scale_value(p.b, first + j, begin)
                                   : ref::scale_value(p.b, begin, first + j);
          total[j] = std::fma(slice[j], a_scale * b_scale, total[j]);
        }
      }
      for (int64_t j = 0; j < count; ++j) {
        if (c.dtype == DType::kF32) {
          f32_row_out(c, i)[first + j] = total[j];
        } else {
          bf16& out = static_cast<bf16*>(row_at(c, i))[first + j];
          out = bf16(p.accumulate ? static_cast<float>(out) + total[j] : total[j]);
        }
      }
    }
  });
}

}  // namespace

bool emulated_gemm_supports(const ScaledGemmParams& p) {
  return emulates(p.accumulator) && is_code(p.a) && is_code(p.b);
}
bool emulated_grouped_gemm_supports(const ScaledGroupedGemmParams& p) {
  return emulates(p.accumulator) && is_code(p.a) && is_code(p.b);
}

void emulated_gemm(Context& ctx, const ScaledGemmParams& p, const TensorCoreKernels& kernels,
                   const QuantizeKernels& decode) {
  multiply(ctx, p, kernels, decode);
}

void emulated_grouped_gemm(Context& ctx, const ScaledGroupedGemmParams& p,
                           const TensorCoreKernels& kernels, const QuantizeKernels& decode) {
  ref::for_each_expert(p,
                       [&](const ScaledGemmParams& one) { multiply(ctx, one, kernels, decode); });
}

}  // namespace fathom::cpu
