// Text inside HTML and SVG.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// The characters that mean something there, as entities: <, >, & and ".
std::string escape_markup(std::string_view text);

}  // namespace fathom
