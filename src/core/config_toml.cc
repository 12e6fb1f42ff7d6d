#include "core/config_internal.h"

#include <toml++/toml.h>

namespace fathom::internal {
namespace {

std::string position_text(const toml::source_position& position) {
  return fmt::format("{}:{}", position.line, position.column);
}

Json convert(const toml::node& node, const std::string& path, ConfigPlace& place) {
  if (!path.empty()) place.positions[path] = position_text(node.source().begin);
  if (const auto* table = node.as_table()) {
    Json object = Json::object();
    for (const auto& [key, value] : *table) {
      const std::string child = child_path(path, key.str());
      object[std::string(key.str())] = convert(value, child, place);
      place.positions[child] = position_text(key.source().begin);
    }
    return object;
  }
  if (const auto* array = node.as_array()) {
    Json list = Json::array();
    for (size_t i = 0; i < array->size(); ++i) {
      list.push_back(convert((*array)[i], child_path(path, std::to_string(i)), place));
    }
    return list;
  }
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_string()) return value->get();
  throw_bad_input({.where = place.at(path),
                   .field = path,
                   .found = "a date or time",
                   .expected = "a boolean, number, string, array or table"});
}

}  // namespace

Json toml_to_json(std::string_view text, ConfigPlace& place) {
  toml::table table;
  try {
    table = toml::parse(text, place.where);
  } catch (const toml::parse_error& error) {
    throw_bad_input({.where = place.where + ":" + position_text(error.source().begin),
                     .found = std::string(error.description()),
                     .expected = "valid TOML"});
  }
  return convert(table, "", place);
}

bool parse_toml_value(std::string_view text, Json& value) {
  if (text.find('\n') != std::string_view::npos) return false;
  ConfigPlace place;
  try {
    value = toml_to_json("v = " + std::string(text), place).at("v");
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string json_to_inline_toml(const Json& value) {
  if (value.is_object()) {
    std::string text = "{";
    for (const auto& [key, child] : value.items()) {
      // Null has no TOML form; a null key of an architecture is the same as none.
      if (child.is_null()) continue;
      text += (text.size() > 1 ? ", " : "") + Json(key).dump() + " = " + json_to_inline_toml(child);
    }
    return text + "}";
  }
  if (value.is_array()) {
    std::string text = "[";
    for (const Json& child : value)
      text += (text.size() > 1 ? ", " : "") + json_to_inline_toml(child);
    return text + "]";
  }
  // Numbers, booleans and strings are written alike (JSON escapes are TOML escapes).
  return value.dump();
}

}  // namespace fathom::internal
