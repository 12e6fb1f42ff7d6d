// Tokenizing as lines of JSON, and showing tokens to people: what the `tokenizer` verbs are made
// of.
#pragma once

#include <string>
#include <string_view>

#include "data/tokenizer/text_encoder.h"

namespace fathom {

// {"text": …} → {"ids": […]}, and back. Errors name `where` (the file and line). Bytes that are not
// UTF-8 cannot stand in JSON: the decoded text has U+FFFD for them.
std::string encode_json_line(TextEncoder& encoder, std::string_view line,
                             const EncodeOptions& options, const std::string& where);
std::string decode_json_line(const Tokenizer& tokenizer, std::string_view line,
                             const DecodeOptions& options, const std::string& where);

// The "text" of the object on a line.
std::string text_of_json_line(std::string_view line, const std::string& where);

// The token as it can be printed on one line: line ends as \n and \r, a tab as \t, other control
// characters and bytes of broken characters as \xHH, a backslash doubled.
std::string visible_token(std::string_view bytes);

}  // namespace fathom
