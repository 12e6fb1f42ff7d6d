#include "train/bias_update.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace fathom {
namespace {

// Sign of c_i - mean c without rounding: of E c_i - sum c.
int sign_of_load(std::span<const int64_t> counts_E, int64_t total, size_t i) {
  const int64_t difference = counts_E[i] * static_cast<int64_t>(counts_E.size()) - total;
  return (difference > 0) - (difference < 0);
}

template <typename T>
void update(std::span<const int64_t> counts_E, double gamma, bool centred, T* bias) {
  const int64_t total = std::accumulate(counts_E.begin(), counts_E.end(), int64_t{0});
  int64_t signs = 0;
  for (size_t i = 0; i < counts_E.size(); ++i) signs += sign_of_load(counts_E, total, i);
  const double mean =
      centred ? static_cast<double>(signs) / static_cast<double>(counts_E.size()) : 0;
  for (size_t i = 0; i < counts_E.size(); ++i) {
    bias[i] = static_cast<T>(static_cast<double>(bias[i]) -
                             gamma * (sign_of_load(counts_E, total, i) - mean));
  }
}

}  // namespace

void update_router_bias(std::span<const int64_t> counts_E, double gamma, bool centred,
                        const TensorView& bias_E) {
  FATHOM_CHECK_EQ(static_cast<int64_t>(counts_E.size()), bias_E.num_elements());
  if (gamma == 0) return;  // frozen bit for bit
  if (bias_E.dtype == DType::kF64) {
    update(counts_E, gamma, centred, bias_E.as<double>());
  } else {
    update(counts_E, gamma, centred, bias_E.as<float>());
  }
}

double max_violation(std::span<const int64_t> counts_E) {
  const int64_t total = std::accumulate(counts_E.begin(), counts_E.end(), int64_t{0});
  if (total == 0) return 0;
  const int64_t largest = *std::max_element(counts_E.begin(), counts_E.end());
  return static_cast<double>(largest) * static_cast<double>(counts_E.size()) /
             static_cast<double>(total) -
         1;
}

}  // namespace fathom
