// The printable characters that byte-level BPE files write bytes as (from GPT-2): a byte that is a
// visible Latin-1 character stands for itself, the 68 others for U+0100 … U+0143 in order. A space
// is `Ġ`, a newline `Ċ`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fathom {

// All 256 bytes in the order of their characters: the order of byte tokens in vocabularies.
std::string bytes_in_alphabet_order();
std::string bytes_to_alphabet(std::string_view bytes);
// Nothing if `text` holds a character that stands for no byte, or is not UTF-8.
std::optional<std::string> alphabet_to_bytes(std::string_view text);

}  // namespace fathom
