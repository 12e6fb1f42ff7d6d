#include "data/tokenizer/json_text.h"

#include <cstdint>
#include <cstring>

#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

class Reader {
 public:
  explicit Reader(std::string_view line) : rest_(line) {}

  bool skip(char c) {
    skip_space();
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool skip_key(std::string_view quoted) {
    skip_space();
    if (!rest_.starts_with(quoted)) return false;
    rest_.remove_prefix(quoted.size());
    return true;
  }
  bool at_end() {
    skip_space();
    return rest_.empty();
  }
  // The rest of a string behind its opening quote, and the closing one.
  bool string(std::string& text) {
    text.clear();
    for (;;) {
      size_t plain = 0;
      while (plain < rest_.size() && rest_[plain] != '"' && rest_[plain] != '\\') {
        if (static_cast<uint8_t>(rest_[plain]) < 0x20) return false;
        ++plain;
      }
      if (plain == rest_.size()) return false;
      text.append(rest_, 0, plain);
      const char stop = rest_[plain];
      rest_.remove_prefix(plain + 1);
      if (stop == '"') return is_valid_utf8(text);
      if (!escape(text)) return false;
    }
  }

 private:
  void skip_space() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t' || rest_[0] == '\r'))
      rest_.remove_prefix(1);
  }
  bool escape(std::string& text) {
    if (rest_.empty()) return false;
    const char c = rest_[0];
    rest_.remove_prefix(1);
    switch (c) {
      case '"':
      case '\\':
      case '/':
        text += c;
        return true;
      case 'b':
        text += '\b';
        return true;
      case 'f':
        text += '\f';
        return true;
      case 'n':
        text += '\n';
        return true;
      case 'r':
        text += '\r';
        return true;
      case 't':
        text += '\t';
        return true;
      case 'u':
        break;
      default:
        return false;
    }
    uint32_t unit;
    if (!hex(unit)) return false;
    if (unit >= 0xD800 && unit < 0xE000) {
      uint32_t low;
      if (unit >= 0xDC00 || !rest_.starts_with("\\u")) return false;
      rest_.remove_prefix(2);
      if (!hex(low) || low < 0xDC00 || low >= 0xE000) return false;
      unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(unit, text);
    return true;
  }
  bool hex(uint32_t& unit) {
    if (rest_.size() < 4) return false;
    unit = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = rest_[static_cast<size_t>(i)];
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return false;
      unit = unit << 4 | static_cast<uint32_t>(digit);
    }
    rest_.remove_prefix(4);
    return true;
  }

  std::string_view rest_;
};

}  // namespace

bool read_plain_text_line(std::string_view line, std::string& text) {
  Reader reader(line);
  return reader.skip('{') && reader.skip_key("\"text\"") && reader.skip(':') && reader.skip('"') &&
         reader.string(text) && reader.skip('}') && reader.at_end();
}

void append_json_string(std::string_view text, std::string& out) {
  constexpr char kHex[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte >= 0x20) {
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\b') {
      out += "\\b";
    } else if (c == '\f') {
      out += "\\f";
    } else {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  out += '"';
}

}  // namespace fathom
