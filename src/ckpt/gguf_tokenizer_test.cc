// A tokenizer through GGUF's key-values: the same ids for the golden strings, and every way in
// which a file can be wrong. That llama.cpp reads the keys alike is in docs/formats/gguf.md.
#include "ckpt/gguf_tokenizer.h"

#include <fstream>

#include "core/json.h"

namespace fathom {
namespace {

const std::string kTokenizers = std::string(FATHOM_GOLDEN_DIR) + "/tokenizer/";

Tokenizer small() { return Tokenizer::load(local_file_system(), kTokenizers + "small"); }

ModelConfig config_of(const Tokenizer& tokenizer, int64_t spare_rows) {
  ModelConfig config;
  config.vocab_size = tokenizer.vocab_size() + spare_rows;
  return config;
}

// Through the bytes of a file.
GgufMetadata written(const GgufMetadata& metadata) {
  std::vector<GgufTensor> none;
  const std::string bytes = gguf_header_bytes(metadata, none);
  return parse_gguf(std::as_bytes(std::span(bytes)), "FILE.gguf").metadata;
}

TEST(GgufTokenizer, GivesTheIdsOfTheGoldenStrings) {
  const Tokenizer before = small();
  const GgufMetadata metadata =
      written(gguf_from_tokenizer(before, config_of(before, 7), "folder"));
  EXPECT_EQ(metadata.at("tokenizer.ggml.pre").text, "deepseek-v3");
  EXPECT_EQ(metadata.at("tokenizer.ggml.tokens").texts.size(),
            static_cast<size_t>(before.vocab_size() + 7));
  EXPECT_EQ(metadata.at("tokenizer.ggml.tokens").texts.back(),
            fmt::format("[PAD{}]", before.vocab_size() + 6));
  const Tokenizer after = gguf_to_tokenizer(metadata, "FILE.gguf");
  ASSERT_EQ(after.vocab_size(), before.vocab_size());
  std::ifstream lines(kTokenizers + "small/strings.jsonl");
  int64_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const Json json = parse_json(line, "strings.jsonl");
    const std::string text = json["text"].get<std::string>();
    EXPECT_EQ(after.encode(text, {.allow_special = true}), json["ids"].get<std::vector<TokenId>>())
        << text;
  }
  EXPECT_GT(count, 100);
  // Tags stay what they are: seen or hidden, by DeepSeek's own list.
  for (TokenId id = 0; id < before.vocab_size(); ++id) {
    ASSERT_EQ(after.token_bytes(id), before.token_bytes(id));
    ASSERT_EQ(after.is_added(id), before.is_added(id)) << id;
    ASSERT_EQ(after.is_special(id), before.is_special(id)) << before.token_bytes(id);
  }
}

template <typename F>
std::string error_of(F&& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(GgufTokenizer, OtherSplitPatternsAreNotWritten) {
  TokenizerDefinition definition = small().definition();
  definition.split_patterns = {"\\p{L}+"};
  const Tokenizer other(definition);
  EXPECT_NE(error_of([&] {
              gguf_from_tokenizer(other, config_of(other, 0), "folder");
            }).find("deepseek-v3, qwen2"),
            std::string::npos);
  // Readers of a name of DeepSeek's do not normalise.
  TokenizerDefinition normalising = small().definition();
  normalising.nfc = true;
  EXPECT_NE(error_of([&] {
              const Tokenizer refused(normalising);
              gguf_from_tokenizer(refused, config_of(refused, 0), "folder");
            }).find("normaliser"),
            std::string::npos);
  const Tokenizer tokenizer = small();
  EXPECT_NE(error_of([&] {
              gguf_from_tokenizer(tokenizer, config_of(tokenizer, -1), "folder");
            }).find("vocab_size"),
            std::string::npos);
}

TEST(GgufTokenizer, BrokenKeysAreNamed) {
  const Tokenizer tokenizer = small();
  const GgufMetadata good = gguf_from_tokenizer(tokenizer, config_of(tokenizer, 0), "folder");
  const auto error = [&](auto&& change) {
    GgufMetadata metadata = good;
    change(metadata);
    return error_of([&] { gguf_to_tokenizer(metadata, "FILE.gguf"); });
  };
  const auto names = [&](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const std::string prefix = "tokenizer.ggml.";
  names(error([&](GgufMetadata& m) { m.erase(prefix + "tokens"); }), "tokens: found nothing");
  names(error([&](GgufMetadata& m) { m[prefix + "model"].text = "llama"; }), "gpt2");
  names(error([&](GgufMetadata& m) { m[prefix + "pre"].text = "gpt-2"; }), "pre: found \"gpt-2\"");
  names(error([&](GgufMetadata& m) { m[prefix + "token_type"].integers.pop_back(); }),
        "token_type");
  names(error([&](GgufMetadata& m) { m[prefix + "merges"].texts[3] = "abc"; }), "merges[3]");
  names(error([&](GgufMetadata& m) { m[prefix + "merges"].texts[3] = "zq zqzq"; }), "merges[3]");
  names(error([&](GgufMetadata& m) { m[prefix + "tokens"].texts[300] = "a b"; }), "tokens[300]");
  names(error([&](GgufMetadata& m) { m[prefix + "tokens"].type = GgufValueType::kU32; }),
        "an array of strings");
}

}  // namespace
}  // namespace fathom
