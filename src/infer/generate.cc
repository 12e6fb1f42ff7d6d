#include "infer/generate.h"

#include <algorithm>

#include "core/error.h"
#include "infer/constraint/request_constraint.h"

namespace fathom {
namespace {

constexpr int64_t kMaxCacheTokens = 65536;  // of many prompts at once

EngineConfig engine_config(const Model& model, int64_t cache_tokens,
                           const GenerateEngine& settings) {
  return {.cache_tokens = cache_tokens,
          .cache_dtype = model.policy().latent_cache,
          .max_draft = settings.max_draft};
}

// `result` outlives the request.
Request request_for(std::span<const int32_t> prompt, const GenerateOptions& options,
                    GenerateResult& result, const std::function<bool(int32_t)>* on_token) {
  Request request;
  request.prompt.assign(prompt.begin(), prompt.end());
  request.max_tokens = options.max_tokens;
  request.sampling = options.sampling;
  request.stop_tokens = options.stop_tokens;
  if (options.constraint != nullptr)
    request.constraint = std::make_shared<RequestConstraint>(options.constraint);
  request.on_event = [&result, on_token, cancelled = false](const RequestEvent& event) mutable {
    for (const GeneratedToken& token : event.tokens) {
      if (cancelled) break;
      result.tokens.push_back(token.id);
      if (on_token != nullptr && *on_token) cancelled = !(*on_token)(token.id);
    }
    if (event.finished) {
      result.error = event.error;
      result.finish_reason = cancelled ? FinishReason::kCancelled : event.reason;
      result.usage = event.usage;
    }
    return !cancelled;
  };
  return request;
}

void throw_if_failed(const GenerateResult& result) {
  if (result.finish_reason == FinishReason::kError) throw Error(ErrorKind::kBadInput, result.error);
}

}  // namespace

Generator::Generator(const Model& model, int64_t capacity_tokens, const GenerateEngine& settings)
    : engine_(model, engine_config(model, capacity_tokens, settings)) {
  FATHOM_CHECK_LE(capacity_tokens, model.max_positions(), "cache against the rotation table");
}

GenerateResult Generator::generate(Context& ctx, std::span<const int32_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<bool(int32_t)>& on_token) {
  GenerateResult result;
  engine_.submit(request_for(prompt, options, result, &on_token));
  engine_.run_until_idle(ctx);
  throw_if_failed(result);
  return result;
}

GenerateResult generate(Context& ctx, const Model& model, std::span<const int32_t> prompt,
                        const GenerateOptions& options,
                        const std::function<bool(int32_t)>& on_token,
                        const GenerateEngine& settings) {
  const int64_t wanted = static_cast<int64_t>(prompt.size()) + options.max_tokens;
  Generator generator(model, std::min(wanted, model.max_positions()), settings);
  return generator.generate(ctx, prompt, options, on_token);
}

std::vector<GenerateResult> generate_all(Context& ctx, const Model& model,
                                         std::span<const std::vector<int32_t>> prompts,
                                         const GenerateOptions& options,
                                         const GenerateEngine& settings) {
  int64_t all_tokens = 0, longest = 0;
  for (const auto& prompt : prompts) {
    const int64_t tokens = static_cast<int64_t>(prompt.size()) + options.max_tokens;
    all_tokens += tokens + kCachePageTokens;
    longest = std::max(longest, std::min(tokens, model.max_positions()));
  }
  Engine engine(
      model,
      engine_config(model, std::max(longest, std::min(all_tokens, kMaxCacheTokens)), settings));
  std::vector<GenerateResult> results(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    engine.submit(request_for(prompts[i], options, results[i], nullptr));
  engine.run_until_idle(ctx);
  for (const GenerateResult& result : results) throw_if_failed(result);
  return results;
}

}  // namespace fathom
