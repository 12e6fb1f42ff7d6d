#pragma once

#include <nlohmann/json_fwd.hpp>

namespace fathom {
using Json = nlohmann::ordered_json;
}  // namespace fathom
