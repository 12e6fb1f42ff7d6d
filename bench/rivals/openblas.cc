// OpenBLAS: fp32 only. Which kernels it runs is decided by the environment variable
// OPENBLAS_CORETYPE when the library is loaded, so products.cc sets that first.
#include <cblas.h>
#include <fmt/format.h>

#include "core/integer.h"
#include "rival.h"

namespace fathom::rivals {

Rival openblas(int threads) {
  openblas_set_num_threads(threads);
  const auto prepare = [](const Product& p) -> std::function<void(int)> {
    if (p.dtype != DType::kF32) return {};
    const int m = narrow<int>(p.m), n = narrow<int>(p.n), k = narrow<int>(p.k);
    return [=](int copy) {
      const auto* a = static_cast<const float*>(p.a);
      const auto* b = static_cast<const float*>(p.b[static_cast<size_t>(copy)]);
      auto* c = static_cast<float*>(p.c);
      if (m == 1) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1, b, k, a, 1, 0, c, 1);
      } else {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, k, b, k, 0, c, n);
      }
    };
  };
  return {fmt::format("openblas {}", openblas_get_corename()), prepare, {}};
}

}  // namespace fathom::rivals
