// The text of a line {"text": "…"}, quickly: lines of exactly this form, which most are, are read
// here; whatever else, right or wrong, is left to the JSON parser and its messages.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// Replaces `text` and returns true, or returns false: another form, or anything not in order.
bool read_plain_text_line(std::string_view line, std::string& text);

// Appends `text`, which is UTF-8, as a JSON string.
void append_json_string(std::string_view text, std::string& out);

}  // namespace fathom
