// One sequence, token by token: the loop behind `generate` and `chat`. Token ids in, token ids out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "infer/latent_cache.h"
#include "infer/sampling.h"
#include "model/model.h"

namespace fathom {

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t>
      stop_tokens;  // generation ends behind one of these; it is not part of the result
};

enum class FinishReason { kStop, kLength, kCancelled };

struct GenerateResult {
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kLength;
};

// A model with a cache that grows with the conversation.
class Generator {
 public:
  // capacity_tokens: prompt and answers together; at most the model's rotation table.
  Generator(const Model& model, int64_t capacity_tokens);

  // Continues after `prompt`, which must extend what the cache holds (its common prefix is reused,
  // the rest is forgotten). on_token is called for each new token and may end the generation by
  // returning false. A prompt that leaves no room is an Error with both numbers; reaching the end
  // of the cache during generation is finish reason kLength.
  GenerateResult generate(Context& ctx, std::span<const int32_t> prompt,
                          const GenerateOptions& options,
                          const std::function<bool(int32_t)>& on_token = {});

  int64_t num_cached() const { return cache_.num_cached(); }

 private:
  void feed(Context& ctx, std::span<const int32_t> tokens);

  const Model& model_;
  LatentCache cache_;
  std::vector<int32_t> cached_tokens_;
  std::vector<float> logits_;
};

// A single completion.
GenerateResult generate(Context& ctx, const Model& model, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token = {});

}  // namespace fathom
