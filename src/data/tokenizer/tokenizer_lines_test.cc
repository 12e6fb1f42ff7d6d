#include "data/tokenizer/tokenizer_lines.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "core/json.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/json_text.h"

namespace fathom {
namespace {

const Tokenizer& small() {
  static const Tokenizer tokenizer =
      Tokenizer::load(local_file_system(), FATHOM_GOLDEN_DIR "/tokenizer/small");
  return tokenizer;
}

TextEncoder& encoder() {
  static TextEncoder one(small());
  return one;
}

void expect_error(const std::function<void()>& action, const std::string& said) {
  try {
    action();
    ADD_FAILURE() << said;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(said), std::string::npos) << error.what();
  }
}

TEST(TokenizerLines, EncodesAndDecodesLines) {
  const std::string encoded = encode_json_line(encoder(), R"({"text": "a\n  b"})", {}, "in:1");
  EXPECT_EQ(encoded, R"({"ids": [67, 201, 223, 276]})");
  EXPECT_EQ(decode_json_line(small(), encoded, {}, "in:1"), R"({"text":"a\n  b"})");
  EXPECT_EQ(encode_json_line(encoder(), R"({"text": ""})", {}, "in:1"), R"({"ids": []})");
  EXPECT_EQ(encode_json_line(encoder(), R"({"text": "<｜end▁of▁sentence｜>"})",
                             {.allow_special = true}, "in:1"),
            R"({"ids": [1]})");
  EXPECT_EQ(decode_json_line(small(), R"({"ids": [1]})", {.skip_special = true}, "in:1"),
            R"({"text":""})");
}

TEST(TokenizerLines, BrokenLinesSayWhere) {
  expect_error([] { encode_json_line(encoder(), "{", {}, "in:3"); }, "in:3");
  expect_error([] { encode_json_line(encoder(), R"({"txt": 1})", {}, "in:3"); }, "no such key");
  expect_error([] { encode_json_line(encoder(), R"({"text": 1})", {}, "in:3"); }, "a string");
  expect_error([] { encode_json_line(encoder(), "[]", {}, "in:3"); }, "in:3");
  expect_error([] { decode_json_line(small(), R"({"ids": 5})", {}, "in:3"); },
               "a list of token ids");
  expect_error([] { decode_json_line(small(), R"({"ids": [1, 1000]})", {}, "in:3"); }, "ids[1]");
  expect_error([] { decode_json_line(small(), R"({"ids": [1.5]})", {}, "in:3"); }, "ids[0]");
  expect_error([] { decode_json_line(small(), R"({"ids": [-1]})", {}, "in:3"); }, "0 to 999");
}

// Where the quick reader answers at all, it answers as the JSON parser does.
TEST(TokenizerLines, QuickReaderAgreesWithTheParser) {
  const std::string lines[] = {R"({"text":""})",
                               R"({"text": "a\"b\\c\/d\b\f\n\r\t"})",
                               "  { \"text\"\t: \"中文 é\" } \r",
                               R"({"text": "\u4e2d\u00e9\u0000\uD83D\uDE00"})",
                               R"({"text": "\ud83d"})",
                               R"({"text": "\ud83dx"})",
                               R"({"text": "\ud83d\ud83d"})",
                               R"({"text": "\ude00"})",
                               R"({"text": "\u12g4"})",
                               R"({"text": "\u12)",
                               R"({"text": "\x"})",
                               R"({"text": "a"})",
                               R"({"text": "a", "b": 1})",
                               R"({"b": 1, "text": "a"})",
                               R"({"text": "a"} x)",
                               R"({"text": "a)",
                               R"({"text": 1})",
                               "{\"text\": \"a\tb\"}",
                               "{\"text\": \"\xFF\"}",
                               "{\"text\": \"\xED\xA0\x80\"}",
                               "",
                               "{",
                               R"({"text": "a"}})",
                               R"({"text" "a"})",
                               R"({"text": "a",})",
                               R"({"text": "a", "text": "b"})"};
  int num_quick = 0;
  for (const std::string& line : lines) {
    std::string quick;
    if (!read_plain_text_line(line, quick)) continue;
    ++num_quick;
    EXPECT_EQ(quick, parse_json(line, "line").at("text").get<std::string>()) << line;
    std::string written;
    append_json_string(quick, written);
    EXPECT_EQ(parse_json(written, "written").get<std::string>(), quick);
    EXPECT_EQ(written, Json(quick).dump());
  }
  EXPECT_EQ(num_quick, 5);
}

TEST(TokenizerLines, TokensAreMadeVisible) {
  EXPECT_EQ(visible_token("a b\n\t\r\\"), R"(a b\n\t\r\\)");
  EXPECT_EQ(visible_token("中\xE4\xBD\x01"), R"(中\xE4\xBD\x01)");
}

}  // namespace
}  // namespace fathom
