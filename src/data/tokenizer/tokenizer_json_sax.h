// The JSON of a tokenizer.json as a value, except for its largest object: `model.vocab`, whose 10^5
// keys come out as a list (an object of the ordered JSON type takes quadratic time to fill).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace fathom {

struct TokenizerJson {
  Json root;  // model.vocab is null in it
  bool has_vocab = false;
  std::vector<std::pair<std::string, int64_t>> vocab;  // in the order of the file
};

// Errors: not JSON, a key twice, nesting deeper than 64, a vocabulary whose values are no integers.
TokenizerJson read_tokenizer_json(std::string_view text, const std::string& where);

}  // namespace fathom
