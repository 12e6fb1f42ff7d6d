// JSON as a value (nlohmann, key order kept). Include json.h only in .cc files; headers that need
// the name include json_fwd.h.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/json_fwd.h"

namespace fathom {

// Parses `text`; an error names `where`, the line and the column. Duplicate keys in one object and
// nesting deeper than 200 are errors too.
Json parse_json(std::string_view text, const std::string& where);

// Short description of a value for messages: "string \"abc\"", "number 3", "object".
std::string describe_json(const Json& value);

}  // namespace fathom
