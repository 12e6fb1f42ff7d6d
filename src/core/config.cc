#include "core/config.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "core/config_internal.h"

namespace fathom {
namespace internal {
namespace {

[[noreturn]] void bad_value(const ConfigPlace& place, const std::string& path,
                            const std::string& found, const std::string& expected,
                            const std::string& hint = {}) {
  // The tier of the place, the shape of throw_bad_input's message.
  try {
    throw_bad_input({.where = place.at(path),
                     .field = path,
                     .found = found,
                     .expected = expected,
                     .hint = hint});
  } catch (const Error& error) {
    throw Error(place.kind, error.what());
  }
}

std::string range_text(const Range& range) {
  const bool has_min = std::isfinite(range.min), has_max = std::isfinite(range.max);
  if (has_min && has_max)
    return fmt::format(" {} {} and at most {}", range.open_min ? "above" : "of at least", range.min,
                       range.max);
  if (has_min) return fmt::format(" {} {}", range.open_min ? "above" : "of at least", range.min);
  if (has_max) return fmt::format(" of at most {}", range.max);
  return {};
}

bool in_range(double v, const Range& range) {
  return v <= range.max && (range.open_min ? v > range.min : v >= range.min);
}

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <typename... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;  // clang 14 does not deduce aggregates by itself

void assign_value(const Json& value, const std::string& path, const ConfigPlace& place,
                  ConfigEntry& entry, ConfigOrigins& origins) {
  const std::string found = describe_json(value);
  std::visit(
      Overloaded{
          [&](bool* target) {
            if (!value.is_boolean()) bad_value(place, path, found, "true or false");
            *target = value.get<bool>();
          },
          [&](int64_t* target) {
            const std::string expected = "an integer" + range_text(entry.range);
            if (!value.is_number_integer()) bad_value(place, path, found, expected);
            if (value.is_number_unsigned() &&
                value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
              bad_value(place, path, found, expected);
            }
            const int64_t v = value.get<int64_t>();
            if (!in_range(static_cast<double>(v), entry.range))
              bad_value(place, path, found, expected);
            *target = v;
          },
          [&](double* target) {
            const std::string expected = "a number" + range_text(entry.range);
            if (!value.is_number()) bad_value(place, path, found, expected);
            const double v = value.get<double>();
            if (!std::isfinite(v) || !in_range(v, entry.range))
              bad_value(place, path, found, expected);
            *target = v;
          },
          [&](std::string* target) {
            if (!value.is_string()) bad_value(place, path, found, "a string");
            const std::string v = value.get<std::string>();
            if (!entry.choices.empty() &&
                std::find(entry.choices.begin(), entry.choices.end(), v) == entry.choices.end()) {
              bad_value(place, path, found,
                        fmt::format("one of {}", fmt::join(entry.choices, ", ")));
            }
            *target = v;
          },
          [&](TextValue& target) {
            if (!value.is_string() && !value.is_number_integer())
              bad_value(place, path, found, "an integer or a string");
            try {
              target.set(value.is_string() ? value.get<std::string>() : value.dump());
            } catch (const Error& error) {
              bad_value(place, path, found, error.what());
            }
          },
          [&](JsonTable& target) {
            if (!value.is_object()) bad_value(place, path, found, "a table");
            *target.text = value.dump();
          },
      },
      entry.value);
  origins[path] =
      place.origin + (place.positions.count(path) > 0 ? ":" + place.positions.at(path) : "");
}

void assign_entry(const Json& value, const std::string& path, const ConfigPlace& place,
                  ConfigEntry& entry, ConfigOrigins& origins) {
  if (entry.is_table()) {
    if (!value.is_object()) bad_value(place, path, describe_json(value), "a table");
    assign_table(value, path, place, entry.table.front(), origins);
  } else if (entry.is_array()) {
    if (!value.is_array()) bad_value(place, path, describe_json(value), "an array of tables");
    entry.resize(static_cast<int64_t>(value.size()));
    for (size_t i = 0; i < value.size(); ++i) {
      const std::string child = child_path(path, std::to_string(i));
      if (!value[i].is_object()) bad_value(place, child, describe_json(value[i]), "a table");
      ConfigFields fields = entry.element(static_cast<int64_t>(i));
      assign_table(value[i], child, place, fields, origins);
    }
    origins[path] = place.origin;
  } else {
    assign_value(value, path, place, entry, origins);
  }
}

std::vector<std::string> names_of(const ConfigFields& fields) {
  std::vector<std::string> names;
  for (const ConfigEntry& entry : fields.entries()) names.push_back(entry.name);
  return names;
}

ConfigEntry* find_entry(ConfigFields& fields, std::string_view name) {
  for (ConfigEntry& entry : fields.entries()) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

std::string value_toml(const ConfigEntry& entry) {
  return std::visit(
      Overloaded{
          [](bool* v) { return std::string(*v ? "true" : "false"); },
          [](int64_t* v) { return std::to_string(*v); },
          [](double* v) {
            // The shortest text that reads back to the same bits; always with a point, as TOML
            // wants.
            std::string text = Json(*v).dump();
            return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
          },
          [](std::string* v) { return Json(*v).dump(); },
          [](const TextValue& v) { return Json(v.get()).dump(); },
          [](const JsonTable& v) {
            return json_to_inline_toml(v.text->empty() ? Json::object()
                                                       : parse_json(*v.text, "configuration"));
          },
      },
      entry.value);
}

Json value_json(const ConfigEntry& entry) {
  return std::visit(Overloaded{
                        [](bool* v) { return Json(*v); },
                        [](int64_t* v) { return Json(*v); },
                        [](double* v) { return Json(*v); },
                        [](std::string* v) { return Json(*v); },
                        [](const TextValue& v) { return Json(v.get()); },
                        [](const JsonTable& v) {
                          return v.text->empty() ? Json::object()
                                                 : parse_json(*v.text, "configuration");
                        },
                    },
                    entry.value);
}

// Visits every leaf with its path.
template <typename F>
void walk(const ConfigFields& fields, const std::string& prefix, F&& leaf) {
  for (const ConfigEntry& entry : fields.entries()) {
    const std::string path = child_path(prefix, entry.name);
    if (entry.is_table()) {
      walk(entry.table.front(), path, leaf);
    } else if (entry.is_array()) {
      for (int64_t i = 0; i < entry.size(); ++i)
        walk(entry.element(i), child_path(path, std::to_string(i)), leaf);
    } else {
      leaf(entry, path);
    }
  }
}

Json fields_json(const ConfigFields& fields) {
  Json object = Json::object();
  for (const ConfigEntry& entry : fields.entries()) {
    if (entry.is_table()) {
      object[entry.name] = fields_json(entry.table.front());
    } else if (entry.is_array()) {
      Json list = Json::array();
      for (int64_t i = 0; i < entry.size(); ++i) list.push_back(fields_json(entry.element(i)));
      object[entry.name] = list;
    } else {
      object[entry.name] = value_json(entry);
    }
  }
  return object;
}

std::string origin_of(const ConfigOrigins& origins, const std::string& path) {
  const auto it = origins.find(path);
  return it == origins.end() ? "default" : it->second;
}

void print_table(const ConfigFields& fields, const std::string& header, const std::string& path,
                 bool is_element, const ConfigOrigins& origins, std::string& out) {
  // TOML wants a table's own values before its subtables.
  std::string values;
  for (const ConfigEntry& entry : fields.entries()) {
    if (entry.is_table() || entry.is_array()) continue;
    values += fmt::format("{} = {}  # {}\n", entry.name, value_toml(entry),
                          origin_of(origins, child_path(path, entry.name)));
  }
  if (!header.empty() && (is_element || !values.empty()))
    out += is_element ? "\n[[" + header + "]]\n" : "\n[" + header + "]\n";
  out += values;
  for (const ConfigEntry& entry : fields.entries()) {
    const std::string child_header = child_path(header, entry.name);
    const std::string child = child_path(path, entry.name);
    if (entry.is_table()) {
      print_table(entry.table.front(), child_header, child, false, origins, out);
    } else if (entry.is_array()) {
      for (int64_t i = 0; i < entry.size(); ++i) {
        print_table(entry.element(i), child_header, child_path(child, std::to_string(i)), true,
                    origins, out);
      }
    }
  }
}

// A value given as text: as the field's type wants it.
Json text_to_json(const ConfigEntry& entry, const std::string& value) {
  const bool wants_text = std::holds_alternative<std::string*>(entry.value) ||
                          std::holds_alternative<TextValue>(entry.value);
  Json parsed;
  if (!wants_text && parse_toml_value(value, parsed)) return parsed;
  return value;
}

void set_by_path(const std::string& path, const std::string& rest, const std::string& value,
                 const ConfigPlace& place, ConfigFields& fields, ConfigOrigins& origins) {
  const size_t dot = rest.find('.');
  const std::string name = rest.substr(0, dot);
  const std::string tail = dot == std::string::npos ? "" : rest.substr(dot + 1);
  const std::string here = path.substr(0, path.size() - rest.size()) + name;
  ConfigEntry* entry = find_entry(fields, name);
  if (entry == nullptr) {
    const std::string nearest = nearest_name(name, names_of(fields));
    bad_value(place, here, "an unknown field",
              nearest.empty() ? fmt::format("one of {}", fmt::join(names_of(fields), ", ")) : "",
              nearest.empty()
                  ? ""
                  : "did you mean '" + path.substr(0, path.size() - rest.size()) + nearest + "'?");
  }
  if (entry->is_table()) {
    if (tail.empty())
      bad_value(place, here, "a table", "one of its fields",
                "for example " + here + "." + names_of(entry->table.front()).front());
    return set_by_path(path, tail, value, place, entry->table.front(), origins);
  }
  if (entry->is_array()) {
    const size_t end = std::min(tail.find('.'), tail.size());
    int64_t index = -1;
    const auto [stop, error] = std::from_chars(tail.data(), tail.data() + end, index);
    const int64_t size = entry->size();
    if (error != std::errc{} || stop != tail.data() + end || index < 0 || index >= size ||
        end == tail.size()) {
      bad_value(place, here, "'" + tail + "'", fmt::format("an index below {} and a field", size),
                size == 0 ? "the list is set in the file" : "");
    }
    ConfigFields element = entry->element(index);
    return set_by_path(path, tail.substr(end + 1), value, place, element, origins);
  }
  if (JsonTable* table = std::get_if<JsonTable>(&entry->value); table != nullptr && !tail.empty()) {
    Json object = table->text->empty() ? Json::object() : parse_json(*table->text, place.where);
    Json* target = &object;
    size_t begin = 0;
    for (size_t next = tail.find('.'); next != std::string::npos; next = tail.find('.', begin)) {
      target = &(*target)[tail.substr(begin, next - begin)];
      if (!target->is_object()) *target = Json::object();
      begin = next + 1;
    }
    Json parsed;
    (*target)[tail.substr(begin)] = parse_toml_value(value, parsed) ? parsed : Json(value);
    *table->text = object.dump();
    origins[here] = place.origin;
    return;
  }
  if (!tail.empty())
    bad_value(place, path, "a field below '" + here + "'", "'" + here + "', which is a value");
  assign_value(text_to_json(*entry, value), path, place, *entry, origins);
}

}  // namespace

void assign_table(const Json& tree, const std::string& prefix, const ConfigPlace& place,
                  ConfigFields& fields, ConfigOrigins& origins) {
  for (const auto& [key, value] : tree.items()) {
    const std::string path = child_path(prefix, key);
    ConfigEntry* entry = find_entry(fields, key);
    if (entry == nullptr) {
      const std::vector<std::string> names = names_of(fields);
      const std::string nearest = nearest_name(key, names);
      bad_value(place, path, "an unknown key",
                nearest.empty() ? fmt::format("one of {}", fmt::join(names, ", ")) : "",
                nearest.empty() ? "" : "did you mean '" + nearest + "'?");
    }
    assign_entry(value, path, place, *entry, origins);
  }
}

}  // namespace internal

void read_toml(std::string_view text, const std::string& where, ConfigFields& fields,
               ConfigOrigins& origins) {
  internal::ConfigPlace place{.where = where, .origin = "file " + where};
  const Json tree = internal::toml_to_json(text, place);
  internal::assign_table(tree, "", place, fields, origins);
}

void read_config_json(std::string_view text, const std::string& where, ConfigFields& fields,
                      ConfigOrigins& origins) {
  const internal::ConfigPlace place{.where = where, .origin = "file " + where};
  const Json tree = parse_json(text, where);
  if (!tree.is_object())
    throw_bad_input({.where = where, .found = describe_json(tree), .expected = "an object"});
  internal::assign_table(tree, "", place, fields, origins);
}

void read_environment(const std::function<const char*(const char*)>& lookup, ConfigFields& fields,
                      ConfigOrigins& origins) {
  for (const ConfigLine& line : list_config(fields)) {
    std::string name = "FATHOM_";
    for (const char c : line.path)
      name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    const char* value = lookup(name.c_str());
    if (value == nullptr) continue;
    const internal::ConfigPlace place{.where = "environment variable " + name,
                                      .origin = "environment " + name,
                                      .kind = ErrorKind::kUsage};
    internal::set_by_path(line.path, line.path, value, place, fields, origins);
  }
}

void apply_override(const std::string& path, const std::string& value, ConfigFields& fields,
                    ConfigOrigins& origins) {
  const internal::ConfigPlace place{
      .where = "--" + path, .origin = "flag", .kind = ErrorKind::kUsage};
  internal::set_by_path(path, path, value, place, fields, origins);
}

std::vector<ConfigLine> list_config(const ConfigFields& fields) {
  std::vector<ConfigLine> lines;
  internal::walk(fields, "", [&](const ConfigEntry& entry, const std::string& path) {
    lines.push_back({path, internal::value_toml(entry), entry.help});
  });
  return lines;
}

std::string print_config(const ConfigFields& fields, const ConfigOrigins& origins) {
  std::string out;
  internal::print_table(fields, "", "", false, origins, out);
  return out;
}

std::string config_to_json(const ConfigFields& fields) {
  return internal::fields_json(fields).dump();
}

std::vector<std::string> diff_config(const ConfigFields& before, const ConfigFields& after) {
  std::map<std::string, std::string> values;
  for (const ConfigLine& line : list_config(before)) values[line.path] = line.value;
  std::vector<std::string> changes;
  for (const ConfigLine& line : list_config(after)) {
    const auto it = values.find(line.path);
    if (it == values.end()) {
      changes.push_back(fmt::format("{}: none -> {}", line.path, line.value));
    } else {
      if (it->second != line.value)
        changes.push_back(fmt::format("{}: {} -> {}", line.path, it->second, line.value));
      values.erase(it);
    }
  }
  for (const auto& [path, value] : values)
    changes.push_back(fmt::format("{}: {} -> none", path, value));
  return changes;
}

}  // namespace fathom
