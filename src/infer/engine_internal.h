// The engine's own records; not for its users.
#pragma once

#include <vector>

#include "infer/engine.h"
#include "infer/token_counts.h"

namespace fathom {

struct Engine::Sequence {
  RequestId id = -1;
  Request request;
  std::vector<int32_t> tokens;  // prompt, then output
  int64_t prompt_tokens = 0;
  // Prompt positions before this one attend expanded; whole pages.
  int64_t expanded_end = 0;
  std::vector<UnitKey> unit_keys;  // of those pages; [0] is the root

  std::vector<int64_t> pages;
  std::vector<std::byte*> page_data;
  int64_t num_cached = 0;
  int64_t num_offered = 0;  // units that were given to, or found in, the prefix cache

  std::vector<int32_t> drafts;  // behind tokens.back()
  std::vector<int32_t> fed;     // of this step's decoding: the last token and its drafts
  // Positions before module_done[m] have the rows of MTP module m for good; the next needs the
  // hidden state of the module before, which is in carried[m] if that one is further.
  std::array<int64_t, DraftDepth::kMaxDepth> module_done{};
  std::array<std::vector<std::byte>, DraftDepth::kMaxDepth> carried;
  TokenCounts counts{0};
  std::vector<GeneratedToken> fresh;  // not yet reported
  std::vector<GeneratedToken> prompt_scores;
  RequestUsage usage;
  bool running = false, started = false, finished = false, cancelled = false;
  bool completed = false;
  int64_t cancelled_at_step = 0;
  FinishReason reason = FinishReason::kStop;
  std::string error;

  int64_t num_output() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens; }
  bool before(const Sequence& other) const {
    if (request.priority != other.request.priority)
      return request.priority > other.request.priority;
    return id < other.id;
  }
};

// Consecutive tokens of one sequence in a step.
struct Engine::Entry {
  Sequence* sequence = nullptr;
  std::span<const int32_t> tokens;
  int64_t begin = 0;       // position of the first
  int64_t num_logits = 0;  // of the last so many
  bool expanded = false, decoding = false;
  int64_t first_row = 0, first_logit = 0;
  int64_t num_kept = 0;  // whose tokens are now part of the sequence
};

// Consecutive positions of one sequence that an MTP module has computed in this step.
struct Engine::ModuleRows {
  Sequence* sequence = nullptr;
  int64_t begin = 0, end = 0;  // positions
  int64_t first_row = 0;       // of the module's hidden states
  bool leads = false;          // the next token is drafted from the last of them
};

}  // namespace fathom
