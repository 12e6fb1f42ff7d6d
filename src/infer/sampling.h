// Choosing the next token from logits: greedy, or temperature with top-k and top-p (and min-p). A
// draw is a function of (seed, position), not of what else runs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom {

struct SamplingOptions {
  double temperature = 1.0;  // 0: greedy, ties to the lowest id
  double top_p = 1.0;        // the smallest set of likeliest tokens whose probabilities reach this
  int64_t top_k = 0;         // 0: all
  double min_p = 0;          // at least this share of the likeliest token's probability
  uint64_t seed = 0;
  // Ids from here on are never chosen: rows of the embedding without a token. 0: all ids.
  int64_t num_token_ids = 0;
};

// Refuses options out of range, naming the field.
void validate(const SamplingOptions& options);

class Sampler {
 public:
  // Works for logits of up to `vocab_size` values; sample() allocates nothing.
  Sampler(int64_t vocab_size, const SamplingOptions& options);
  // The token for output position `index` (which keys the draw). NaN logits are an Error.
  int32_t sample(std::span<const float> logits, int64_t index);

 private:
  int32_t greedy(std::span<const float> logits) const;
  SamplingOptions options_;
  std::vector<int32_t> order_;
  std::vector<double> probability_;
};

}  // namespace fathom
