// Completions without a server: one prompt, a conversation, or a list of prompts, over an engine of
// their own. Token ids in, token ids out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "infer/constraint/constraint.h"
#include "infer/engine.h"

namespace fathom {

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t>
      stop_tokens;  // generation ends behind one of these; it is not part of the result
  std::shared_ptr<Constraint> constraint;  // on the reply; its end tokens are stop tokens too
};

struct GenerateResult {
  std::vector<int32_t> tokens;
  FinishReason finish_reason = FinishReason::kLength;
  RequestUsage usage;
  std::string error;  // while it runs; what is returned has none
};

// What Generator and generate() set of an engine; the cache is as large as they need.
struct GenerateEngine {
  int64_t max_draft = 0;  // 0: no speculation
};

// A model with a cache that outlives a completion: what prompts have in common is computed once.
class Generator {
 public:
  // capacity_tokens: prompt and answer together; at most the model's rotation table.
  Generator(const Model& model, int64_t capacity_tokens, const GenerateEngine& settings = {});

  // on_token is called for each new token and may end the generation by returning false. A prompt
  // that leaves no room is an Error with both numbers; reaching the end of the cache during
  // generation is finish reason kLength.
  GenerateResult generate(Context& ctx, std::span<const int32_t> prompt,
                          const GenerateOptions& options,
                          const std::function<bool(int32_t)>& on_token = {});

  const Engine& engine() const { return engine_; }

 private:
  Engine engine_;
};

// A single completion.
GenerateResult generate(Context& ctx, const Model& model, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token = {},
                        const GenerateEngine& settings = {});

// One completion of each prompt, together; each is what it would be alone.
std::vector<GenerateResult> generate_all(Context& ctx, const Model& model,
                                         std::span<const std::vector<int32_t>> prompts,
                                         const GenerateOptions& options,
                                         const GenerateEngine& settings = {});

}  // namespace fathom
