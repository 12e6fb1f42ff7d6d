#include "kernels/check.h"
#include "kernels/table.h"

namespace fathom {
namespace {

void check_gemm_dtypes(const TensorView& a, const TensorView& b, const TensorView& c) {
  check_act("a", a);
  check_dtype("b", b, a.dtype);
  if (!(a.dtype == DType::kBF16 && c.dtype == DType::kF32)) check_dtype("c", c, a.dtype);
}

}  // namespace

void gemm(Context& ctx, const GemmParams& p) {
  const int dims = p.c.shape.num_dims;
  FATHOM_CHECK(dims == 2 || dims == 3, "gemm c {}", to_string(p.c));
  FATHOM_CHECK_EQ(p.a.shape.num_dims, dims, "gemm a {}", p.a.name);
  const int64_t count = dims == 3 ? p.c.dim(0) : 1;
  const auto check_matrix = [&](const char* what, const TensorView& v, int64_t rows, int64_t cols) {
    dims == 3 ? check_tensor(what, v, {count, rows, cols}) : check_tensor(what, v, {rows, cols});
  };
  const int64_t m = p.c.dim(dims - 2), n = p.c.dim(dims - 1);
  const int64_t k = p.a.dim(p.layout == GemmLayout::kTn ? dims - 2 : dims - 1);
  check_matrix("gemm c", p.c, m, n);
  if (p.layout == GemmLayout::kTn) {
    check_matrix("gemm_tn a", p.a, k, m);
  } else {
    check_matrix("gemm a", p.a, m, k);
  }
  if (p.layout == GemmLayout::kNt) {
    check_matrix("gemm_nt b", p.b, n, k);
  } else {
    check_matrix("gemm b", p.b, k, n);
  }
  check_gemm_dtypes(p.a, p.b, p.c);
  if (count > 0) run_kernel(ctx, p);
}

void grouped_gemm(Context& ctx, const GroupedGemmParams& p) {
  const int64_t num_experts = p.num_experts;
  FATHOM_CHECK(p.offsets != nullptr && p.offsets[0] == 0, "grouped_gemm offsets");
  for (int64_t e = 0; e < num_experts; ++e)
    FATHOM_CHECK_LE(p.offsets[e], p.offsets[e + 1], "expert {}", e);
  const int64_t num_rows = p.offsets[num_experts];
  FATHOM_CHECK_EQ(p.a.shape.num_dims, 2, "grouped_gemm a {}", p.a.name);
  FATHOM_CHECK_EQ(p.c.shape.num_dims, p.layout == GemmLayout::kTn ? 3 : 2, "grouped_gemm c {}",
                  p.c.name);
  check_tensor("grouped_gemm a", p.a, {num_rows, p.a.dim(1)});
  if (p.layout == GemmLayout::kTn) {
    FATHOM_CHECK_EQ(p.b.shape.num_dims, 2, "grouped_gemm b {}", p.b.name);
    check_tensor("grouped_gemm_tn b", p.b, {num_rows, p.b.dim(1)});
    check_tensor("grouped_gemm_tn c", p.c, {num_experts, p.a.dim(1), p.b.dim(1)});
  } else {
    const int64_t n = p.c.dim(1), k = p.a.dim(1);
    check_tensor("grouped_gemm c", p.c, {num_rows, n});
    if (p.layout == GemmLayout::kNt) {
      check_tensor("grouped_gemm_nt b", p.b, {num_experts, n, k});
    } else {
      check_tensor("grouped_gemm_nn b", p.b, {num_experts, k, n});
    }
  }
  check_gemm_dtypes(p.a, p.b, p.c);
  run_kernel(ctx, p);
}

}  // namespace fathom
