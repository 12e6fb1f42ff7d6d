// tokenizer.json, the format of Hugging Face `tokenizers`: reading (strictly) and writing. Only
// what a byte-level BPE needs is accepted; anything else that could change a token is an Error,
// never ignored.
#pragma once

#include <string>
#include <string_view>

#include "data/tokenizer/tokenizer.h"

namespace fathom {

// Reads the form. What the Tokenizer's constructor checks of the content is left to it.
TokenizerDefinition parse_tokenizer_json(std::string_view json, const std::string& where);

}  // namespace fathom
