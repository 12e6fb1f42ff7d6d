// Configuration from one field list. A component has `struct XConfig` with defaults and one
// `void visit_fields(XConfig&, ConfigFields&)`; that list alone drives reading TOML and JSON, the
// environment, command-line overrides, printing with origins, help and diffs.
//
//   void visit_fields(AdamConfig& c, ConfigFields& f) {
//     f.field("beta1", c.beta1, between(0, 1), "decay of the first moment");
//   }
//   AdamConfig config;
//   ConfigFields fields = fields_of(config);     // refers to `config`, which must outlive it
//   read_toml(text, "run.toml", fields, origins);
//
// Values come from, strongest first: flags, environment, file, default: call the readers in the
// reverse of that order. Every error names the place (file:line:column, flag or variable), the
// field, what was found and what was expected; an unknown key names the nearest known one.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace fathom {

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;  // min itself is out
};
inline Range at_least(double min) { return {.min = min}; }
inline Range positive() { return {.min = 0, .open_min = true}; }
inline Range between(double min, double max) { return {.min = min, .max = max}; }

// A value with a text form of its own ("4.3T", "25%"). set() throws Error(kBadInput) whose message
// says what was expected.
struct TextValue {
  std::function<void(const std::string&)> set;
  std::function<std::string()> get;
};
// A whole table, kept as JSON text and checked by whoever owns it.
struct JsonTable {
  std::string* text = nullptr;  // an object; empty: {}
};

class ConfigFields;

struct ConfigEntry {
  std::string name;
  std::string help;
  Range range;
  std::vector<std::string> choices;  // of a string; empty: any
  std::variant<bool*, int64_t*, double*, std::string*, TextValue, JsonTable> value;
  // A table, or an array of tables, instead of a value.
  std::vector<ConfigFields> table;  // one element, or none
  std::function<int64_t()> size;
  std::function<void(int64_t)> resize;
  std::function<ConfigFields(int64_t)> element;

  bool is_table() const { return !table.empty(); }
  bool is_array() const { return static_cast<bool>(element); }
};

class ConfigFields {
 public:
  void field(std::string name, bool& v, std::string help) {
    add(std::move(name), std::move(help)).value = &v;
  }
  void field(std::string name, int64_t& v, Range range, std::string help) {
    add(std::move(name), std::move(help), range).value = &v;
  }
  void field(std::string name, double& v, Range range, std::string help) {
    add(std::move(name), std::move(help), range).value = &v;
  }
  void field(std::string name, std::string& v, std::string help) {
    add(std::move(name), std::move(help)).value = &v;
  }
  void choice(std::string name, std::string& v, std::vector<std::string> choices,
              std::string help) {
    ConfigEntry& entry = add(std::move(name), std::move(help));
    entry.value = &v;
    entry.choices = std::move(choices);
  }
  void text(std::string name, TextValue v, std::string help) {
    add(std::move(name), std::move(help)).value = std::move(v);
  }
  void json(std::string name, std::string& v, std::string help) {
    add(std::move(name), std::move(help)).value = JsonTable{&v};
  }
  template <typename C>
  void table(std::string name, C& nested, std::string help) {
    ConfigFields fields;
    visit_fields(nested, fields);
    add(std::move(name), std::move(help)).table.push_back(std::move(fields));
  }
  template <typename C>
  void tables(std::string name, std::vector<C>& items, std::string help) {
    ConfigEntry& entry = add(std::move(name), std::move(help));
    entry.size = [&items] { return static_cast<int64_t>(items.size()); };
    entry.resize = [&items](int64_t n) { items.assign(static_cast<size_t>(n), C{}); };
    entry.element = [&items](int64_t i) {
      ConfigFields fields;
      visit_fields(items[static_cast<size_t>(i)], fields);
      return fields;
    };
  }

  const std::vector<ConfigEntry>& entries() const { return entries_; }
  std::vector<ConfigEntry>& entries() { return entries_; }

 private:
  ConfigEntry& add(std::string name, std::string help, Range range = {}) {
    entries_.push_back({.name = std::move(name), .help = std::move(help), .range = range});
    return entries_.back();
  }
  std::vector<ConfigEntry> entries_;
};

template <typename C>
ConfigFields fields_of(C& config) {
  ConfigFields fields;
  visit_fields(config, fields);
  return fields;
}

// Where each value came from, by path ("optimizer.beta1", "data.sources.0.path"). A path that is
// not there has its default.
using ConfigOrigins = std::map<std::string, std::string>;

void read_toml(std::string_view text, const std::string& where, ConfigFields& fields,
               ConfigOrigins& origins);
void read_config_json(std::string_view text, const std::string& where, ConfigFields& fields,
                      ConfigOrigins& origins);
// "optimizer.beta1" from FATHOM_OPTIMIZER_BETA1. `lookup` is getenv's shape: null when not set.
void read_environment(const std::function<const char*(const char*)>& lookup, ConfigFields& fields,
                      ConfigOrigins& origins);
// One "--path value" of the command line (Error kind kUsage). A path below a JSON table sets one of
// its keys.
void apply_override(const std::string& path, const std::string& value, ConfigFields& fields,
                    ConfigOrigins& origins);

struct ConfigLine {
  std::string path;
  std::string value;  // as TOML
  std::string help;
};
std::vector<ConfigLine> list_config(const ConfigFields& fields);
// TOML that reads back to the same values, each line with its origin as a comment.
std::string print_config(const ConfigFields& fields, const ConfigOrigins& origins);
// The same values as one JSON object.
std::string config_to_json(const ConfigFields& fields);
// "optimizer.beta1: 0.9 -> 0.95" for every path that differs.
std::vector<std::string> diff_config(const ConfigFields& before, const ConfigFields& after);

}  // namespace fathom
