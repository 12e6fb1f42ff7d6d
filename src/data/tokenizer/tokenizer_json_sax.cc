#include "data/tokenizer/tokenizer_json_sax.h"

#include <algorithm>

namespace fathom {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxKeys = 4096;  // of an object other than the vocabulary

class Handler {
 public:
  // The names of the callbacks are those of nlohmann's SAX interface.
  Handler(const std::string& where, TokenizerJson& out) : where_(where), out_(out) {}

  bool null() { return value(nullptr); }
  bool boolean(bool v) { return value(v); }
  bool number_integer(int64_t v) { return integer(v); }
  bool number_unsigned(uint64_t v) {
    if (v > static_cast<uint64_t>(INT64_MAX)) return value(static_cast<double>(v));
    return integer(static_cast<int64_t>(v));
  }
  bool number_float(double v, const std::string&) { return value(v); }
  bool string(std::string& v) { return value(std::move(v)); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON text

  bool start_object(size_t) {
    if (in_vocab_) wrong_vocab_value("an object");
    if (open_.size() == 2 && keys_[0] == "model" && keys_[1] == "vocab" && !out_.has_vocab) {
      place(Json(nullptr));  // so that a second one is a key twice
      in_vocab_ = true;
      out_.has_vocab = true;
      return true;
    }
    open(Json::object());
    return true;
  }
  bool end_object() {
    if (in_vocab_) {
      in_vocab_ = false;
      return true;
    }
    return close();
  }
  bool start_array(size_t) {
    if (in_vocab_) wrong_vocab_value("an array");
    open(Json::array());
    return true;
  }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (in_vocab_) {
      vocab_key_ = std::move(name);
      return true;
    }
    const Json& object = *open_.back();
    if (object.contains(name))
      throw_bad_input({where_, name, "the key twice in one object", "once", ""});
    if (object.size() >= kMaxKeys) {
      throw_bad_input(
          {where_, name, fmt::format("more than {} keys in one object", kMaxKeys), "fewer", ""});
    }
    keys_.back() = name;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    std::string reason = error.what();
    if (const size_t colon = reason.find(": "); colon != std::string::npos)
      reason = reason.substr(colon + 2);
    throw Error(ErrorKind::kBadInput,
                fmt::format("{}: not valid JSON at byte {}: {}", where_, position, reason));
  }

 private:
  template <typename T>
  bool value(T&& v) {
    if (in_vocab_) wrong_vocab_value(describe_json(Json(v)));
    place(Json(std::forward<T>(v)));
    return true;
  }
  bool integer(int64_t v) {
    if (!in_vocab_) return value(v);
    out_.vocab.emplace_back(std::move(vocab_key_), v);
    return true;
  }
  [[noreturn]] void wrong_vocab_value(const std::string& found) {
    throw_bad_input({where_, "model.vocab[\"" + vocab_key_ + "\"]", found, "an integer", ""});
  }
  Json* place(Json&& v) {
    if (open_.empty()) {
      out_.root = std::move(v);
      return &out_.root;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    return &(parent[keys_.back()] = std::move(v));
  }
  // The pointers stay good: a parent gets its next member only after the child is closed.
  void open(Json&& v) {
    if (open_.size() >= kMaxDepth) {
      throw_bad_input(
          {where_, "", fmt::format("nesting deeper than {} levels", kMaxDepth), "", ""});
    }
    open_.push_back(place(std::move(v)));
    keys_.emplace_back();
  }
  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  const std::string& where_;
  TokenizerJson& out_;
  std::vector<Json*> open_;
  std::vector<std::string> keys_;  // the current key of each open object
  bool in_vocab_ = false;
  std::string vocab_key_;
};

}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text, const std::string& where) {
  TokenizerJson result;
  Handler handler(where, result);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return result;
}

}  // namespace fathom
