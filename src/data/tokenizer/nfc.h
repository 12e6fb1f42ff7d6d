// Unicode's normalisation form C, which some tokenizers (Qwen2's) bring text to before they cut it:
// "e" and a combining accent become "é". Composition itself is utf8proc's; here are the policy for
// bytes that are no UTF-8 and the way around the library for text that is in that form already.
//
// utf8proc's tables are Unicode 15's, those of `tokenizers` 0.23 Unicode 9's: what was assigned
// since may be composed and ordered here and not there.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// `text` in form C: `text` itself where nothing can change, else a view of `memory`. Each broken
// byte stays as it is, and nothing composes across it.
std::string_view to_nfc(std::string_view text, std::string& memory);

}  // namespace fathom
