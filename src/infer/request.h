// What a client of the engine asks for and what it is told.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "infer/logprobs.h"
#include "infer/sampling.h"
#include "infer/token_mask.h"

namespace fathom {

using EngineClock = std::chrono::steady_clock;
using RequestId = int64_t;

// What restricts one request's tokens, e.g. to a grammar. Called by the engine's thread only.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // The tokens that may come next; good until the next call.
  virtual const TokenMask& allowed() = 0;
  // Takes a token that is allowed.
  virtual void advance(int32_t token) = 0;
};

enum class FinishReason { kStop, kLength, kCancelled, kDeadline, kError };
const char* finish_name(FinishReason reason);

struct GeneratedToken {
  int32_t id = -1;
  double logprob = 0;             // where logprobs were asked for
  std::vector<TokenLogprob> top;  // likeliest first
  // Where they were asked for: the experts that were at work when the model chose it, [moe layers,
  // A].
  std::vector<int32_t> experts;
};

struct RequestUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache when it first ran
  int64_t output_tokens = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;  // by speculation
  int64_t num_preemptions = 0;
};

struct RequestEvent {
  RequestId id = -1;
  std::span<const GeneratedToken> tokens;  // new ones; may be empty in the last event
  // Of the prompt's tokens, where they were asked for; in the first event. The first token has
  // none (0).
  std::span<const GeneratedToken> prompt_logprobs;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  std::string error;  // with kError
  RequestUsage usage;
};

struct Request {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t> stop_tokens;  // generation ends behind one; it is not part of the result
  int64_t min_tokens = 0;            // stop tokens are not chosen before
  int64_t num_top_logprobs = -1;     // -1: no log-probabilities
  bool prompt_logprobs = false;      // of every token of the prompt (num_top_logprobs of them)
  bool report_experts = false;       // of every generated token
  int64_t priority = 0;              // larger goes first
  EngineClock::time_point deadline = EngineClock::time_point::max();
  std::string tenant;                            // whose cached prompts it may use
  bool use_prefix_cache = true;                  // look up and leave behind
  std::shared_ptr<TokenConstraint> constraint;   // null: none
  // Called by the engine's thread, between steps of the model. False: cancel.
  std::function<bool(const RequestEvent&)> on_event;
};

}  // namespace fathom
