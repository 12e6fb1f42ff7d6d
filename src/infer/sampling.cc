#include "infer/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace fathom {

void validate(const SamplingOptions& options) {
  const auto refuse = [](const char* field, double found, const char* expected) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: found {}, expected {}", field, found, expected));
  };
  // Written so that NaN is refused too.
  if (!(options.temperature >= 0 && options.temperature <= 100))
    refuse("temperature", options.temperature, "0 to 100");
  if (!(options.top_p > 0 && options.top_p <= 1))
    refuse("top-p", options.top_p, "above 0, at most 1");
  if (options.top_k < 0) refuse("top-k", static_cast<double>(options.top_k), "0 (all) or more");
  if (!(options.min_p >= 0 && options.min_p <= 1)) refuse("min-p", options.min_p, "0 to 1");
}

Sampler::Sampler(int64_t vocab_size, const SamplingOptions& options) : options_(options) {
  validate(options);
  order_.resize(static_cast<size_t>(vocab_size));
  probability_.resize(static_cast<size_t>(vocab_size));
}

int32_t Sampler::greedy(std::span<const float> logits) const {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

int32_t Sampler::sample(std::span<const float> logits, int64_t index) {
  if (options_.num_token_ids > 0 && static_cast<int64_t>(logits.size()) > options_.num_token_ids) {
    logits = logits.first(static_cast<size_t>(options_.num_token_ids));
  }
  FATHOM_CHECK(!logits.empty() && logits.size() <= order_.size(), "{} logits", logits.size());
  for (float value : logits) {
    if (std::isnan(value))
      fail(ErrorKind::kBadInput, "the model's logits hold NaN: its weights cannot be right");
  }
  if (options_.temperature == 0) return greedy(logits);

  // Likeliest first; equal logits by id, so that the order is a function of the values alone.
  const auto first = order_.begin();
  const size_t num_ids = logits.size();
  std::iota(first, first + static_cast<std::ptrdiff_t>(num_ids), 0);
  const auto likelier = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  size_t kept =
      options_.top_k > 0 ? std::min<size_t>(static_cast<size_t>(options_.top_k), num_ids) : num_ids;
  std::partial_sort(first, first + static_cast<std::ptrdiff_t>(kept),
                    first + static_cast<std::ptrdiff_t>(num_ids), likelier);

  const double top = logits[static_cast<size_t>(order_[0])];
  double total = 0;
  for (size_t i = 0; i < kept; ++i) {
    const double p =
        std::exp((logits[static_cast<size_t>(order_[i])] - top) / options_.temperature);
    if (p < options_.min_p) {  // relative to the likeliest, whose value here is 1
      kept = i;
      break;
    }
    probability_[i] = p;
    total += p;
  }
  if (options_.top_p < 1) {
    double reached = 0;
    for (size_t i = 0; i < kept; ++i) {
      reached += probability_[i];
      if (reached >= options_.top_p * total) {
        kept = i + 1;
        total = reached;
        break;
      }
    }
  }
  double point =
      Random(options_.seed, RandomPurpose::kSampling).uniform(static_cast<uint64_t>(index)) * total;
  for (size_t i = 0; i < kept; ++i) {
    point -= probability_[i];
    if (point < 0) return order_[i];
  }
  return order_[kept - 1];  // rounding left a crumb
}

}  // namespace fathom
