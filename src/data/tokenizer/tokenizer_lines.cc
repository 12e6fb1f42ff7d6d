#include "data/tokenizer/tokenizer_lines.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer/json_text.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

// The member `key` of the object on `line`, checked by `is_right`.
template <typename Check>
Json member_of_line(std::string_view line, const char* key, const std::string& where,
                    std::string_view expected, Check is_right) {
  Json json = parse_json(line, where);
  if (!json.is_object() || !json.contains(key)) {
    throw_bad_input({where, key, json.is_object() ? "no such key" : describe_json(json),
                     std::string(expected), ""});
  }
  if (!is_right(json[key]))
    throw_bad_input({where, key, describe_json(json[key]), std::string(expected), ""});
  return json[key];
}

}  // namespace

std::string text_of_json_line(std::string_view line, const std::string& where) {
  std::string text;
  if (read_plain_text_line(line, text)) return text;
  return member_of_line(line, "text", where, "a string",
                        [](const Json& v) { return v.is_string(); })
      .get<std::string>();
}

std::string encode_json_line(TextEncoder& encoder, std::string_view line,
                             const EncodeOptions& options, const std::string& where) {
  std::vector<TokenId> ids;
  encoder.encode(text_of_json_line(line, where), options, ids);
  std::string answer = "{\"ids\": [";
  answer.reserve(ids.size() * 8 + 16);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) answer += ", ";
    const fmt::format_int digits(ids[i]);
    answer.append(digits.data(), digits.size());
  }
  return answer + "]}";
}

std::string decode_json_line(const Tokenizer& tokenizer, std::string_view line,
                             const DecodeOptions& options, const std::string& where) {
  const Json values = member_of_line(line, "ids", where, "a list of token ids",
                                     [](const Json& v) { return v.is_array(); });
  std::vector<TokenId> ids;
  for (const Json& value : values) {
    const bool fits = value.is_number_integer() && value.get<int64_t>() >= 0 &&
                      value.get<int64_t>() < tokenizer.vocab_size();
    if (!fits) {
      throw_bad_input({where, fmt::format("ids[{}]", ids.size()), describe_json(value),
                       fmt::format("an id from 0 to {}", tokenizer.vocab_size() - 1), ""});
    }
    ids.push_back(value.get<TokenId>());
  }
  std::string answer = "{\"text\":";
  append_json_string(utf8_with_replacement(tokenizer.decode(ids, options)), answer);
  return answer + "}";
}

std::string visible_token(std::string_view bytes) {
  std::string text;
  const auto size = static_cast<int64_t>(bytes.size());
  for (int64_t at = 0; at < size;) {
    const Utf8Char c = decode_utf8(bytes, at);
    const char first = bytes[static_cast<size_t>(at)];
    if (first == '\n') {
      text += "\\n";
    } else if (first == '\r') {
      text += "\\r";
    } else if (first == '\t') {
      text += "\\t";
    } else if (first == '\\') {
      text += "\\\\";
    } else if (c.bytes == 0 || c.code_point < 0x20 ||
               (c.code_point >= 0x7F && c.code_point < 0xA0)) {
      const int64_t end = at + std::max(c.bytes, 1);
      for (int64_t i = at; i < end; ++i)
        text += fmt::format("\\x{:02X}", static_cast<uint8_t>(bytes[static_cast<size_t>(i)]));
    } else {
      text.append(bytes.substr(static_cast<size_t>(at), static_cast<size_t>(c.bytes)));
    }
    at += std::max(c.bytes, 1);
  }
  return text;
}

}  // namespace fathom
