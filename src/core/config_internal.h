// Shared by config.cc and config_toml.cc: values on their way into fields.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "core/config.h"
#include "core/json.h"

namespace fathom::internal {

// Where values stand: the file (or flag, or variable), and line and column by path where known.
struct ConfigPlace {
  std::string where;
  std::string origin;  // what ConfigOrigins records
  ErrorKind kind = ErrorKind::kBadInput;
  std::map<std::string, std::string> positions;  // path -> "3:14"

  std::string at(const std::string& path) const {
    const auto it = positions.find(path);
    return it == positions.end() ? where : where + ":" + it->second;
  }
};

// "a.b" of "a" and "b".
inline std::string child_path(const std::string& prefix, std::string_view name) {
  return prefix.empty() ? std::string(name) : prefix + "." + std::string(name);
}

// Assigns every key of the object `tree` to the field of that name.
void assign_table(const Json& tree, const std::string& prefix, const ConfigPlace& place,
                  ConfigFields& fields, ConfigOrigins& origins);

// A TOML document as JSON; positions of every key go to `place`.
Json toml_to_json(std::string_view text, ConfigPlace& place);
// One TOML value ("3", "true", "\"x\"", "[1, 2]").
bool parse_toml_value(std::string_view text, Json& value);
// A JSON object as one inline TOML table.
std::string json_to_inline_toml(const Json& value);

}  // namespace fathom::internal
