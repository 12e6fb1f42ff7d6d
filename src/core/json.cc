#include "core/json.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

namespace fathom {
namespace {

// Builds the value from parser events instead of using the library's own builder, which (in the
// order-keeping form) searches an object for every key that it adds: quadratic in the keys of a
// vocabulary or of a checkpoint's index. Duplicates are found by hash here.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in text

  bool start_object(size_t) override {
    open(Json::object());
    keys_.emplace_back();
    return true;
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      throw_bad_input({where_, name, "the key twice in one object", "once", ""});
    }
    Json::object_t& object = open_.back()->get_ref<Json::object_t&>();
    object.std::vector<Json::object_t::value_type>::emplace_back(std::move(name), nullptr);
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    open_.pop_back();
    return true;
  }
  bool start_array(size_t) override {
    open(Json::array());
    return true;
  }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string_view before = text_.substr(0, std::min(position, text_.size()));
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t newline = before.rfind('\n');
    const size_t column =
        newline == std::string_view::npos ? before.size() : before.size() - newline - 1;
    std::string reason = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." -> the part behind.
    if (const size_t colon = reason.find(": "); colon != std::string::npos)
      reason = reason.substr(colon + 2);
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}:{}:{}: not valid JSON: {}", where_, line, column, reason));
  }

  Json take() { return std::move(root_); }

 private:
  template <typename T>
  bool put(T&& value) {
    place(Json(std::forward<T>(value)));
    return true;
  }
  void open(Json value) {
    constexpr size_t kMaxDepth = 200;
    if (open_.size() >= kMaxDepth)
      throw_bad_input({where_, "", "nesting deeper than 200 levels", "", ""});
    open_.push_back(place(std::move(value)));
  }
  // Pointers in open_ stay good: a container does not grow while one of its children is open.
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& slot = parent.get_ref<Json::object_t&>().back().second;
    slot = std::move(value);
    return &slot;
  }

  std::string_view text_;
  const std::string& where_;
  Json root_;
  std::vector<Json*> open_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the open objects
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  Builder builder(text, where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string describe_json(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::string: {
      std::string text = value.get<std::string>();
      if (size_t end = 60; text.size() > end) {
        while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // whole characters
        text = text.substr(0, end) + "…";
      }
      return "string \"" + text + "\"";
    }
    default:
      return "number " + value.dump();
  }
}

}  // namespace fathom
