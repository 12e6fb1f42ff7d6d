#include "core/json.h"

#include <algorithm>
#include <set>

namespace fathom {

Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 200;
  std::vector<std::set<std::string>> open_objects;
  const auto callback = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw_bad_input({where, "", "nesting deeper than 200 levels", "", ""});
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw_bad_input({where, key, "the key twice in one object", "once", ""});
      }
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), callback);
  } catch (const Json::parse_error& error) {
    const size_t end = std::min(error.byte, text.size());
    const std::string_view before = text.substr(0, end);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t newline = before.rfind('\n');
    const size_t column = newline == std::string_view::npos ? end : end - newline - 1;
    std::string reason = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." -> the part behind.
    if (const size_t colon = reason.find(": "); colon != std::string::npos) reason = reason.substr(colon + 2);
    throw Error(ErrorKind::kBadInput, fmt::format("{}:{}:{}: not valid JSON: {}", where, line, column, reason));
  }
}

std::string describe_json(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::boolean: return value.get<bool>() ? "true" : "false";
    case Json::value_t::string: {
      std::string text = value.get<std::string>();
      if (text.size() > 60) text = text.substr(0, 60) + "…";
      return "string \"" + text + "\"";
    }
    default: return "number " + value.dump();
  }
}

}  // namespace fathom
