// The tokenizer as a whole against what Hugging Face's `tokenizers` gives
// (tools/make_tokenizer_goldens.py).
#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "data/tokenizer/text_encoder.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

using Ids = std::vector<TokenId>;

std::string golden(const std::string& name) {
  return std::string(FATHOM_GOLDEN_DIR "/tokenizer/") + name;
}

const Tokenizer& deepseek() {
  static const Tokenizer tokenizer = Tokenizer::load(local_file_system(), golden("deepseek_v3"));
  return tokenizer;
}
const Tokenizer& small() {
  static const Tokenizer tokenizer =
      Tokenizer::load(local_file_system(), golden("small/tokenizer.json"));
  return tokenizer;
}

struct GoldenString {
  std::string text;
  Ids ids;        // added tokens recognised
  Ids plain_ids;  // not
};

std::vector<GoldenString> golden_strings(const std::string& name) {
  std::istringstream lines(local_file_system().read_all(golden(name)));
  std::vector<GoldenString> strings;
  for (std::string line; std::getline(lines, line);) {
    const Json json = parse_json(line, name);
    const Ids ids = json.at("ids").get<Ids>();
    strings.push_back({json.at("text").get<std::string>(), ids, json.value("plain_ids", ids)});
  }
  return strings;
}

TEST(Tokenizer, EncodesAsTokenizersDoes) {
  const auto strings = golden_strings("strings.jsonl");
  ASSERT_GT(strings.size(), 1000u);
  int64_t num_with_special = 0;
  for (const GoldenString& s : strings) {
    EXPECT_EQ(deepseek().encode(s.text, {.allow_special = true}), s.ids) << s.text;
    EXPECT_EQ(deepseek().encode(s.text), s.plain_ids) << s.text;
    EXPECT_EQ(deepseek().decode(s.ids), s.text);
    EXPECT_EQ(deepseek().decode(s.plain_ids), s.text);
    num_with_special += s.ids != s.plain_ids;
  }
  EXPECT_GT(num_with_special, 20);
}

TEST(Tokenizer, EncodesAsTokenizersDoesWithASmallVocabulary) {
  const auto strings = golden_strings("small/strings.jsonl");
  ASSERT_EQ(strings.size(), 500u);
  for (const GoldenString& s : strings) {
    EXPECT_EQ(small().encode(s.text, {.allow_special = true}), s.ids) << s.text;
    EXPECT_EQ(small().decode(s.ids), s.text);
  }
}

TEST(Tokenizer, EncodesAsTokenizersDoesBehindANormaliser) {
  const Tokenizer tokenizer = Tokenizer::load(local_file_system(), golden("nfc/tokenizer.json"));
  TextEncoder encoder(tokenizer);
  std::string all, all_normalised;
  int64_t num_changed = 0;
  std::istringstream lines(local_file_system().read_all(golden("nfc/strings.jsonl")));
  for (std::string line; std::getline(lines, line);) {
    const Json json = parse_json(line, "strings.jsonl");
    const std::string text = json.at("text"), normalised = json.at("nfc");
    const Ids ids = json.at("ids").get<Ids>(), plain_ids = json.value("plain_ids", ids);
    EXPECT_EQ(tokenizer.encode(text, {.allow_special = true}), ids) << text;
    EXPECT_EQ(tokenizer.encode(text), plain_ids) << text;
    EXPECT_EQ(tokenizer.decode(plain_ids), normalised);
    Ids by_encoder;
    encoder.encode(text, {.allow_special = true}, by_encoder);
    EXPECT_EQ(by_encoder, ids) << text;
    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const TokenId id : plain_ids) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), normalised);
    num_changed += normalised != text;
    all += "." + text;
    all_normalised += "." + normalised;
  }
  EXPECT_GT(num_changed, 100);
  // A long text, which other tokenizers would cut in parts.
  while (all.size() < 400'000) {
    all += all;
    all_normalised += all_normalised;
  }
  ThreadPool threads(2);
  const std::vector<std::string_view> texts = {all};
  const Ids ids = encode_batch(tokenizer, texts, {}, &threads)[0];
  EXPECT_EQ(tokenizer.decode(ids), all_normalised);
  EXPECT_EQ(tokenizer.encode(all), ids);
  EXPECT_EQ(tokenizer.encode(all_normalised), ids);
}

// DeepSeek's patterns have a scanner, whose cuts for threads could part a letter from its mark.
TEST(Tokenizer, LongTextsAreNormalisedTheSameForAnyNumberOfThreads) {
  TokenizerDefinition definition = small().definition();
  definition.nfc = true;
  const Tokenizer tokenizer(definition);
  std::string text, composed;
  for (int i = 0; i < 60'000; ++i) {
    text += i % 3 == 0 ? "e\u0301" : " e\u0301 ";
    composed += i % 3 == 0 ? "\u00e9" : " \u00e9 ";
  }
  ThreadPool threads(2);
  const std::vector<std::string_view> texts = {text};
  EXPECT_EQ(encode_batch(tokenizer, texts, {}, &threads)[0], small().encode(composed));
}

TEST(Tokenizer, PublishedExamples) {
  EXPECT_EQ(deepseek().encode("Hello world"), (Ids{19923, 2058}));
  EXPECT_EQ(deepseek().encode(" hello world "), (Ids{44388, 2058, 223}));
  EXPECT_EQ(deepseek().encode("你好世界"), (Ids{30594, 3427}));
  EXPECT_EQ(deepseek().encode("Hello!"), (Ids{19923, 3}));
  EXPECT_EQ(deepseek().encode(""), Ids{});
}

// Marks of one kind followed by line breaks and nothing else; a space may stand in front.
template <typename IsMark>
bool is_marks_and_newlines(std::string_view text, IsMark is_mark) {
  if (text.starts_with(' ')) text.remove_prefix(1);
  const size_t first = text.find_first_of("\r\n");
  if (first == std::string_view::npos || first == 0) return false;
  if (text.find_first_not_of("\r\n", first) != std::string_view::npos) return false;
  for (int64_t at = 0; at < static_cast<int64_t>(first);) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.bytes == 0 || !is_mark(c.code_point)) return false;
    at += c.bytes;
  }
  return true;
}

TEST(Tokenizer, FactsOfThePublishedVocabulary) {
  const Tokenizer& tokenizer = deepseek();
  EXPECT_EQ(tokenizer.vocab_size(), 128815);
  const auto ascii_mark = [](uint32_t c) {
    return c < 128 && std::ispunct(static_cast<int>(c)) != 0;
  };
  // The blocks of CJK and full-width punctuation, and the interpunct.
  const auto cjk_mark = [](uint32_t c) {
    return (c >= 0x3000 && c < 0x3040) || (c >= 0xFF00 && c < 0xFFF0) || c == 0xB7;
  };
  int64_t num_bytes = 0, num_ascii_newline = 0, num_cjk_newline = 0, num_digits = 0,
          num_too_many_digits = 0;
  for (TokenId id = 0; id < 128000; ++id) {
    if (tokenizer.is_added(id)) continue;
    const std::string_view bytes = tokenizer.token_bytes(id);
    num_bytes += bytes.size() == 1;
    const bool digits = bytes.find_first_not_of("0123456789") == std::string_view::npos;
    num_digits += digits && (bytes.size() == 2 || bytes.size() == 3);
    num_too_many_digits += digits && bytes.size() > 3;
    num_ascii_newline += is_marks_and_newlines(bytes, ascii_mark);
    num_cjk_newline += is_marks_and_newlines(bytes, cjk_mark);
  }
  EXPECT_EQ(num_bytes, 256);
  EXPECT_EQ(num_digits, 1100);
  EXPECT_EQ(num_too_many_digits, 0);
  EXPECT_EQ(num_ascii_newline, 605);
  EXPECT_EQ(num_cjk_newline, 66);
  EXPECT_EQ(tokenizer.encode(".\n").size(), 1u);
}

TEST(Tokenizer, SpecialTokensOfThePublishedVocabulary) {
  const SpecialTokens& special = deepseek().special();
  EXPECT_EQ(special.bos, 0);
  EXPECT_EQ(special.eos, 1);
  EXPECT_EQ(special.pad, 2);
  EXPECT_EQ(special.think_begin, kNoToken) << "the first V3 reserved its id without a name";
  EXPECT_EQ(special.fim_hole, 128800);
  EXPECT_EQ(special.fim_begin, 128801);
  EXPECT_EQ(special.fim_end, 128802);
  EXPECT_EQ(special.user, 128803);
  EXPECT_EQ(special.assistant, 128804);
  EXPECT_EQ(special.eot, 128805);
  EXPECT_EQ(special.tool_calls_begin, 128806);
  EXPECT_EQ(special.tool_calls_end, 128807);
  EXPECT_EQ(special.tool_call_begin, 128808);
  EXPECT_EQ(special.tool_call_end, 128809);
  EXPECT_EQ(special.tool_outputs_begin, 128810);
  EXPECT_EQ(special.tool_outputs_end, 128811);
  EXPECT_EQ(special.tool_output_begin, 128812);
  EXPECT_EQ(special.tool_output_end, 128813);
  EXPECT_EQ(special.tool_sep, 128814);
  EXPECT_EQ(small().special().user, kNoToken);
  EXPECT_EQ(deepseek().added_token_id("<｜User｜>"), 128803);
  EXPECT_EQ(deepseek().added_token_id("Hello"), kNoToken);
  EXPECT_TRUE(deepseek().is_special(1));
  EXPECT_FALSE(deepseek().is_special(128803));
  EXPECT_TRUE(deepseek().is_added(128803));
}

TEST(Tokenizer, UserTextNeverYieldsAnAddedToken) {
  for (const AddedToken& token : deepseek().definition().added) {
    for (const std::string& text :
         {token.content, "Say " + token.content + "!", token.content + token.content}) {
      const Ids ids = deepseek().encode(text);
      for (const TokenId id : ids) ASSERT_FALSE(deepseek().is_added(id)) << text;
      ASSERT_EQ(deepseek().decode(ids), text);
      const Ids special = deepseek().encode(text, {.allow_special = true});
      ASSERT_EQ(std::count(special.begin(), special.end(), token.id),
                text.size() == 2 * token.content.size() ? 2 : 1)
          << text;
      ASSERT_EQ(deepseek().decode(special), text);
    }
  }
}

TEST(Tokenizer, TextBytesLeaveAddedTokensOut) {
  const auto bytes = text_token_bytes(deepseek());
  ASSERT_EQ(static_cast<int64_t>(bytes.size()), deepseek().vocab_size());
  EXPECT_EQ(bytes[static_cast<size_t>(deepseek().special().eos)], "");
  EXPECT_EQ(bytes[static_cast<size_t>(deepseek().special().fim_hole)], "");
  for (const TokenId id : deepseek().encode("Grüße")) {
    EXPECT_EQ(bytes[static_cast<size_t>(id)], deepseek().token_bytes(id));
    EXPECT_NE(bytes[static_cast<size_t>(id)], "");
  }
}

TEST(Tokenizer, RandomBytesRoundTrip) {
  const Random random(1, RandomPurpose::kTest);
  uint64_t draw = 0;
  Ids ids;
  TextEncoder encoder(deepseek());
  for (int i = 0; i < 1'000'000; ++i) {
    const uint64_t size = random.below(draw++, 32);
    const bool mostly_text = i % 2 == 0;
    std::string text;
    while (text.size() < size) {
      const uint64_t bits = random.bits(draw++);
      if (mostly_text && bits % 8 != 0) {
        append_utf8(static_cast<uint32_t>(bits >> 8) % 0x3200, text);
      } else {
        text += static_cast<char>(bits >> 8);
      }
    }
    ids.clear();
    encoder.encode(text, {.allow_special = i % 3 == 0}, ids);
    ASSERT_EQ(deepseek().decode(ids), text);
    if (i % 16 == 0) {
      ASSERT_EQ(deepseek().encode(text, {.allow_special = i % 3 == 0}), ids);
    }
  }
}

TEST(Tokenizer, HostileRunsEndAndComeBack) {
  constexpr size_t kBytes = 1 << 20;
  for (const std::string_view unit :
       {"a", " ", "\n", "!", "7", "\xFF", "中", "<｜", "a ", " \n", "A\u0301"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    const Ids ids = deepseek().encode(text, {.allow_special = true});
    EXPECT_EQ(deepseek().decode(ids), text);
    EXPECT_LE(ids.size(), text.size());
  }
}

TEST(Tokenizer, DecodeChecksAndSkips) {
  EXPECT_EQ(deepseek().decode(Ids{0, 19923, 128803, 3, 1}),
            "<｜begin▁of▁sentence｜>Hello<｜User｜>!<｜end▁of▁sentence｜>");
  EXPECT_EQ(deepseek().decode(Ids{0, 19923, 128803, 3, 1}, {.skip_special = true}),
            "Hello<｜User｜>!");
  EXPECT_THROW(deepseek().decode(Ids{1, 128815}), Error);
  EXPECT_THROW(deepseek().decode(Ids{-1}), Error);
  EXPECT_THROW(deepseek().token_bytes(-1), CheckFailure);
}

TEST(Tokenizer, PiecesAreCutBeforeMerging) {
  EXPECT_EQ(deepseek().pieces("Hello  2024!"),
            (std::vector<std::string_view>{"Hello", "  ", "202", "4", "!"}));
}

TEST(StreamDecoder, GivesWholeCharactersAndTheSameText) {
  const std::string text =
      "naïve 😀 你好 𠀀\xF0\x9F"
      "x\xFF end \xE4\xBD";
  // By bytes, the worst cut of all, and as encoded.
  Ids bytes;
  for (const char c : text) bytes.push_back(deepseek().encode(std::string(1, c)).at(0));
  for (const Ids& ids : {bytes, deepseek().encode(text)}) {
    StreamDecoder decoder(deepseek());
    std::string out;
    for (const TokenId id : ids) {
      const std::string part = decoder.push(id);
      EXPECT_TRUE(is_valid_utf8(part));
      out += part;
    }
    EXPECT_EQ(out.find("end"), out.size() - 4) << "the last character is still open";
    out += decoder.finish();
    EXPECT_EQ(out, utf8_with_replacement(text));
    EXPECT_EQ(decoder.finish(), "");
  }
}

TEST(StreamDecoder, EqualsTheWholeDecodeOnRandomTokens) {
  const Random random(3, RandomPurpose::kTest);
  uint64_t draw = 0;
  for (int i = 0; i < 2000; ++i) {
    StreamDecoder decoder(deepseek(), {.skip_special = true});
    Ids ids;
    std::string out;
    for (uint64_t k = random.below(draw++, 30); k > 0; --k) {
      // Half of them from the bottom of the vocabulary, where the single bytes are.
      ids.push_back(static_cast<TokenId>(random.below(draw++, k % 2 == 0 ? 300 : 128815)));
      const std::string part = decoder.push(ids.back());
      ASSERT_TRUE(is_valid_utf8(part));
      out += part;
    }
    out += decoder.finish();
    ASSERT_EQ(out, utf8_with_replacement(deepseek().decode(ids, {.skip_special = true})));
  }
}

}  // namespace
}  // namespace fathom
