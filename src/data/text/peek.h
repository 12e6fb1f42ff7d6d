// What is in a folder of token shards, as a person wants to see it: totals, the mixture, and
// documents with their tokens visible.
#pragma once

#include <cstdint>
#include <string>

#include "core/json_fwd.h"
#include "data/text/shards.h"

namespace fathom {

struct PeekOptions {
  int64_t first = 0;          // the first document shown
  int64_t num_documents = 3;  // how many
  int64_t max_tokens = 200;   // of each; 0: all
  std::string label;          // only documents of this language or kind; empty: all
};

// A text for a terminal, token boundaries as "|"; with `colour` every other token on a tinted
// ground instead. An Error says if `first` or `label` fits nothing.
std::string peek_text(const ShardSet& shards, const Tokenizer& tokenizer,
                      const PeekOptions& options, bool colour);
Json peek_json(const ShardSet& shards, const Tokenizer& tokenizer, const PeekOptions& options);

}  // namespace fathom
