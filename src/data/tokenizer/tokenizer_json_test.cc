// tokenizer.json: what is written is read back to the same, and every broken file gives one clear
// error.
#include "data/tokenizer/tokenizer_json.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/error.h"
#include "core/faulty_file.h"
#include "core/json.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/byte_alphabet.h"

namespace fathom {
namespace {

std::string golden(const std::string& name) {
  return std::string(FATHOM_GOLDEN_DIR "/tokenizer/") + name;
}

// A vocabulary of the 256 bytes, "ab", "abc" and one added token.
Json valid_json() {
  Json json;
  json["version"] = "1.0";
  json["added_tokens"] = {{{"id", 258}, {"content", "<end>"}, {"special", true}}};
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  json["decoder"] = {{"type", "ByteLevel"}};
  Json vocab = Json::object();
  for (const char byte : bytes_in_alphabet_order())
    vocab[bytes_to_alphabet({&byte, 1})] = vocab.size();
  vocab["ab"] = 256;
  vocab["abc"] = 257;
  json["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c"}}};
  return json;
}

Tokenizer load(const Json& json) { return Tokenizer::from_json(json.dump(), "t.json"); }

void expect_error(const std::string& text, const std::vector<std::string>& said) {
  try {
    Tokenizer::from_json(text, "t.json");
    ADD_FAILURE() << "accepted: " << testing::PrintToString(said);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    const std::string what = error.what();
    EXPECT_NE(what.find("t.json"), std::string::npos) << what;
    for (const std::string& part : said)
      EXPECT_NE(what.find(part), std::string::npos) << what << "\n  lacks: " << part;
  }
}

TEST(TokenizerJson, ReadsTheSmallestFile) {
  const Tokenizer tokenizer = load(valid_json());
  EXPECT_EQ(tokenizer.vocab_size(), 259);
  EXPECT_EQ(tokenizer.encode("abcab"), (std::vector<TokenId>{257, 256}));
  EXPECT_EQ(tokenizer.encode("ab c", {}),
            (std::vector<TokenId>{256, tokenizer.encode(" ")[0], tokenizer.encode("c")[0]}));
  EXPECT_EQ(tokenizer.encode("<end>", {.allow_special = true}), (std::vector<TokenId>{258}));
}

TEST(TokenizerJson, MergesAreStringsOrPairs) {
  Json json = valid_json();
  json["model"]["merges"] = Json::parse(R"([["a","b"],["ab","c"]])");
  EXPECT_EQ(load(json).encode("abcab"), (std::vector<TokenId>{257, 256}));
}

TEST(TokenizerJson, IgnoreMergesTakesWholePieces) {
  Json json = valid_json();
  json["model"]["merges"] = Json::array();
  EXPECT_EQ(load(json).encode("abc").size(), 3u);
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(load(json).encode("abc"), (std::vector<TokenId>{257}));
  EXPECT_EQ(load(json).encode("abcd").size(), 4u);
}

TEST(TokenizerJson, EachBrokenFileSaysWhatIsWrong) {
  const auto broken = [](const std::vector<std::string>& said,
                         const std::function<void(Json&)>& change) {
    Json json = valid_json();
    change(json);
    expect_error(json.dump(), said);
  };
  broken({"model.vocab", "nothing"}, [](Json& j) { j["model"].erase("vocab"); });
  broken({"model.merges", "an array"}, [](Json& j) { j["model"].erase("merges"); });
  broken({"model.merges[1]", "\"xy\""}, [](Json& j) { j["model"]["merges"][1] = "xy c"; });
  broken({"model.merges[1]", "\"cab\""}, [](Json& j) { j["model"]["merges"][1] = "c ab"; });
  broken({"model.merges[0]", "one space"}, [](Json& j) { j["model"]["merges"][0] = "ab"; });
  broken({"model.merges[0]", "one space"}, [](Json& j) { j["model"]["merges"][0] = "a b c"; });
  broken({"model.merges[0]"}, [](Json& j) { j["model"]["merges"][0] = {"a", "b", "c"}; });
  broken({"merge 2", "the same pair"}, [](Json& j) { j["model"]["merges"].push_back("a b"); });
  broken({"id 5 twice"}, [](Json& j) { j["model"]["vocab"]["ab"] = 5; });
  broken({"id -1"}, [](Json& j) { j["model"]["vocab"]["ab"] = -1; });
  broken({"id 4000000000000"}, [](Json& j) { j["model"]["vocab"]["ab"] = 4000000000000; });
  broken({"id 260", "without gaps"}, [](Json& j) {
    j["added_tokens"][0]["id"] = 259;
    j["model"]["vocab"]["abd"] = 260;
  });
  broken({"no token with id 258"}, [](Json& j) {
    j["added_tokens"][0]["id"] = 259;
    j["model"]["vocab"]["<end>"] = 259;
  });
  broken({"model.vocab[\"ab\"]", "an integer"}, [](Json& j) { j["model"]["vocab"]["ab"] = "256"; });
  broken({"model.vocab[\"ab\"]", "an integer"}, [](Json& j) { j["model"]["vocab"]["ab"] = 256.0; });
  broken({"model.vocab[\"ab\"]", "an object"},
         [](Json& j) { j["model"]["vocab"]["ab"] = Json::object(); });
  broken({"byte alphabet"}, [](Json& j) { j["model"]["vocab"]["中"] = 259; });
  broken({"no token for the byte 0x21"}, [](Json& j) {
    j["model"]["vocab"].erase("!");
    j["model"]["vocab"]["!!"] = 0;
  });
  broken({"added_tokens[0].id"}, [](Json& j) { j["added_tokens"][0]["id"] = "x"; });
  broken({"added_tokens[0].content"}, [](Json& j) { j["added_tokens"][0]["content"] = ""; });
  broken({"id 256 twice", "<end>"}, [](Json& j) { j["added_tokens"][0]["id"] = 256; });
  broken({"added_tokens", "twice"}, [](Json& j) {
    j["added_tokens"].push_back(j["added_tokens"][0]);
    j["added_tokens"][1]["id"] = 259;
  });
  broken({"added_tokens[0].lstrip"}, [](Json& j) { j["added_tokens"][0]["lstrip"] = true; });
  broken({"the added token \"abc\""}, [](Json& j) {
    j["added_tokens"][0] = {{"id", 257}, {"content", "abc"}};
  });
  broken({"model.type", "WordPiece"}, [](Json& j) { j["model"]["type"] = "WordPiece"; });
  broken({"model.dropout"}, [](Json& j) { j["model"]["dropout"] = 0.1; });
  broken({"model.unk_token"}, [](Json& j) { j["model"]["unk_token"] = "<unk>"; });
  broken({"model.byte_fallback"}, [](Json& j) { j["model"]["byte_fallback"] = true; });
  broken({"normalizer.type", "NFD"}, [](Json& j) { j["normalizer"] = {{"type", "NFD"}}; });
  broken({"normalizer.normalizers[1].type", "Lowercase"}, [](Json& j) {
    j["normalizer"] =
        Json::parse(R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Lowercase"}]})");
  });
  broken({"normalizer", "unknown key \"form\""}, [](Json& j) {
    j["normalizer"] = {{"type", "NFC"}, {"form", 1}};
  });
  broken({"truncation"}, [](Json& j) { j["truncation"] = {{"max_length", 5}}; });
  broken({"decoder", "a string"}, [](Json& j) { j["decoder"] = Json::object(); });
  broken({"decoder.type", "Metaspace"}, [](Json& j) { j["decoder"]["type"] = "Metaspace"; });
  broken({"post_processor.type", "Bert"}, [](Json& j) {
    j["post_processor"] = {{"type", "BertProcessing"}};
  });
  broken({"pre_tokenizer.type", "Whitespace"},
         [](Json& j) { j["pre_tokenizer"]["type"] = "Whitespace"; });
  broken({"add_prefix_space"}, [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; });
  broken({"pretokenizers[0]", "ByteLevel not in the last place"}, [](Json& j) {
    j["pre_tokenizer"] = {{"type", "Sequence"},
                          {"pretokenizers", {j["pre_tokenizer"], j["pre_tokenizer"]}}};
  });
  broken({"unknown key \"aded_tokens\"", "did you mean added_tokens"},
         [](Json& j) { j["aded_tokens"] = 1; });
  const auto split = [](const std::string& key, const Json& value) {
    return [=](Json& j) {
      Json stage = {{"type", "Split"},
                    {"pattern", {{"Regex", "a"}}},
                    {"behavior", "Isolated"},
                    {"invert", false}};
      stage[key] = value;
      j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {stage, j["pre_tokenizer"]}}};
    };
  };
  EXPECT_NO_THROW(([&] {
    Json j = valid_json();
    split("invert", false)(j);
    load(j);
  })());
  broken({"behavior", "Removed"}, split("behavior", "Removed"));
  broken({"invert"}, split("invert", true));
  broken({"pattern", "String"}, split("pattern", {{"String", "a"}}));
  broken({"split pattern 0", "missing"}, split("pattern", {{"Regex", "(a"}}));
}

TEST(TokenizerJson, NfcIsReadAloneAndInSequencesAndWrittenAgain) {
  for (const auto& [text, expected] : std::vector<std::pair<std::string, bool>>{
           {"null", false},
           {R"({"type":"Sequence","normalizers":[]})", false},
           {R"({"type":"NFC"})", true},
           {R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"NFC"}]})", true}}) {
    Json json = valid_json();
    json["normalizer"] = Json::parse(text);
    const Tokenizer tokenizer = load(json);
    EXPECT_EQ(tokenizer.definition().nfc, expected) << text;
    const Tokenizer again =
        Tokenizer::from_json(tokenizer_json(tokenizer.definition()), "again.json");
    EXPECT_EQ(again.definition().nfc, expected) << text;
  }
}

TEST(TokenizerJson, BrokenTextIsAnError) {
  const std::string text = valid_json().dump();
  expect_error("", {"not valid JSON"});
  expect_error("[]", {"an object"});
  expect_error("{}", {"decoder"});
  expect_error("null", {"an object"});
  expect_error(std::string(100'000, '['), {"nesting"});
  expect_error(R"({"model":{"vocab":{"a":0},"vocab":{"a":0}}})", {"vocab", "twice"});
  expect_error(R"({"version":1,"version":1})", {"version", "twice"});
  expect_error(R"({"model":{"vocab":{"a":0,"a":1}}})", {});
  for (size_t size = 0; size < text.size(); size += 7)
    expect_error(text.substr(0, size), {"not valid JSON"});
}

// Wherever one token of text stands in a file, the reader must not take the two files for one.
TEST(TokenizerJson, WhatIsWrittenIsReadBack) {
  for (const std::string name : {"deepseek_v3/tokenizer.json.gz", "small/tokenizer.json"}) {
    const TokenizerDefinition before =
        Tokenizer::load(local_file_system(), golden(name)).definition();
    const TokenizerDefinition after = parse_tokenizer_json(tokenizer_json(before), "written");
    EXPECT_EQ(after.tokens, before.tokens);
    ASSERT_EQ(after.merges.size(), before.merges.size());
    for (size_t i = 0; i < before.merges.size(); ++i) {
      ASSERT_EQ(after.merges[i].left, before.merges[i].left);
      ASSERT_EQ(after.merges[i].right, before.merges[i].right);
      ASSERT_EQ(after.merges[i].result, before.merges[i].result);
    }
    EXPECT_EQ(after.split_patterns, before.split_patterns);
    EXPECT_EQ(after.split_patterns, deepseek_split_patterns());
    ASSERT_EQ(after.added.size(), before.added.size());
    for (size_t i = 0; i < before.added.size(); ++i) {
      EXPECT_EQ(after.added[i].id, before.added[i].id);
      EXPECT_EQ(after.added[i].content, before.added[i].content);
      EXPECT_EQ(after.added[i].special, before.added[i].special);
      EXPECT_EQ(after.added[i].normalized, before.added[i].normalized);
    }
  }
}

TEST(TokenizerFiles, SavedFolderLoadsAndNamesItsSpecialTokens) {
  const std::vector<std::string_view> documents = {"the cat. \nthe dog.\n", "the end"};
  const Tokenizer tokenizer = train_bpe(documents, {.vocab_size = 290});
  const std::string folder = testing::TempDir() + "/fathom_saved_tokenizer";
  FileSystem& files = local_file_system();
  save_tokenizer(files, tokenizer, folder, {.model_max_length = 77});
  const Tokenizer again = Tokenizer::load(files, folder);
  EXPECT_EQ(again.vocab_size(), tokenizer.vocab_size());
  EXPECT_EQ(again.encode("the cat. \nthe"), tokenizer.encode("the cat. \nthe"));
  EXPECT_EQ(again.special().assistant, tokenizer.special().assistant);
  const Json config = parse_json(files.read_all(folder + "/tokenizer_config.json"), "config");
  EXPECT_EQ(config.at("model_max_length"), 77);
  EXPECT_EQ(config.at("bos_token"), "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(config.at("eos_token"), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(config.at("pad_token"), "<｜▁pad▁｜>");
  EXPECT_EQ(config.at("tokenizer_class"), "PreTrainedTokenizerFast");
  EXPECT_EQ(config.at("add_bos_token"), false) << "the template writes it";
  EXPECT_TRUE(config.contains("chat_template"));
  // Any write that fails leaves the old file.
  FaultyFileSystem faulty(files);
  const std::string before = files.read_all(folder + "/tokenizer.json");
  const Tokenizer other = train_bpe(documents, {.vocab_size = 290, .min_pair_count = 1});
  int64_t num_changes = 0;
  for (int64_t change = 0;; ++change) {
    faulty.fail_at(change, FaultyFileSystem::Fault::kError);
    try {
      save_tokenizer(faulty, other, folder);
      break;
    } catch (const Error&) {
      const Tokenizer left = Tokenizer::load(files, folder);
      EXPECT_TRUE(left.vocab_size() == tokenizer.vocab_size() ||
                  left.vocab_size() == other.vocab_size());
      ++num_changes;
    }
  }
  EXPECT_GE(num_changes, 8);
  EXPECT_TRUE(files.read_all(folder + "/tokenizer.json") != before);
  files.remove_all(folder);
}

TEST(TokenizerFiles, MissingFileIsAnError) {
  EXPECT_THROW(Tokenizer::load(local_file_system(), "/nowhere/at/all"), Error);
  EXPECT_THROW(Tokenizer::load(local_file_system(), golden("")), Error)
      << "a folder without tokenizer.json";
}

}  // namespace
}  // namespace fathom
