#include "kernels/peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/cpu/peak_kernels.h"

namespace fathom {
namespace {

using Rounds = double (*)(int64_t iterations, float* sink);

// Eight chains of what the compiler makes of plain code: the limit of the reference level.
double scalar_rounds(int64_t iterations, float* sink) {
  float sum[8];
  for (float& s : sum) s = *sink;
  for (int64_t i = 0; i < iterations; ++i) {
    for (float& s : sum) s = s * 0.5f + 1.0f;
  }
  for (const float s : sum) *sink += s;
  return static_cast<double>(iterations) * 8 * 2;
}

Rounds rounds_for(IsaLevel isa, DType dtype) {
  if (dtype == DType::kU8) {
    return isa >= IsaLevel::kAvx512 && cpu_info().avx512_vnni ? dpbusd_rounds_avx512 : nullptr;
  }
  if (isa >= IsaLevel::kAvx512Bf16 && dtype == DType::kBF16) return dpbf16_rounds_avx512bf16;
  if (isa >= IsaLevel::kAvx512) return fma_rounds_avx512;
  if (isa >= IsaLevel::kAvx2) return fma_rounds_avx2;
  return scalar_rounds;
}

}  // namespace

double measure_peak_flops(Context& ctx, DType dtype) {
  using Clock = std::chrono::steady_clock;
  const Rounds rounds = rounds_for(ctx.isa(), dtype);
  if (rounds == nullptr) return 0;
  const int num_threads = ctx.threads().num_threads();
  std::vector<float> sinks(static_cast<size_t>(num_threads) * 16, 1.0f);  // a cache line each
  std::vector<double> operations(static_cast<size_t>(num_threads));
  const auto run = [&](int64_t iterations) {
    const auto begin = Clock::now();
    ctx.threads().parallel_for(num_threads, [&](int64_t i, int) {
      operations[static_cast<size_t>(i)] = rounds(iterations, &sinks[static_cast<size_t>(i) * 16]);
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    double total = 0;
    for (const double o : operations) total += o;
    return std::pair{total, seconds};
  };
  int64_t iterations = 1000;
  while (run(iterations).second < 2e-3 && iterations < (int64_t{1} << 40)) iterations *= 2;
  double best = 0;
  for (int i = 0; i < 6; ++i) {
    const auto [total, seconds] = run(iterations);
    best = std::max(best, total / seconds);
  }
  return best;
}

}  // namespace fathom
