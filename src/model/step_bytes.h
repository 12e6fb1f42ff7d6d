// What the temporaries of a step of inference take (forward_cached.h), before there is one: an
// estimate from the shapes that live at the same time, so that a Scratch is reserved in one piece
// and what a model needs is told before it is loaded.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/policy.h"

namespace fathom {

// Tokens of prompts in a step, where nothing else was chosen.
inline constexpr int64_t kPromptStepTokens = 2048;
// Keys and values that expanded attention holds at a time, for as many heads as that allows.
inline constexpr int64_t kExpandedBytes = int64_t{64} << 20;

struct StepSize {
  int64_t num_tokens = 0;
  int64_t context_tokens = 0;   // of the longest sequence
  bool scaled_weights = false;  // of 8 or 4 bits: products pack a copy of their rows
};
int64_t step_scratch_bytes(const ModelConfig& config, const Policy& policy, const StepSize& size);

}  // namespace fathom
