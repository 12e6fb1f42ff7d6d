#include "data/text/shards.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/json.h"
#include "data/text/peek.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

using Verify = ShardSet::Verify;

class ShardsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    manifest_ = {.vocab_size = text_tokenizer().vocab_size(),
                 .tokenizer_hash = tokenizer_hash(text_tokenizer()),
                 .languages = {"other", "en"},
                 .domains = {"prose", "code"},
                 .inputs = {"in.jsonl"},
                 .weights = {{"code", 2.5}}};
    for (int s = 0; s < 2; ++s) {
      ShardWriter writer(local_file_system(), folder_ / "", fmt::format("shard-{:05}", s));
      for (uint64_t d = 0; d < 5; ++d) {
        const std::string text = d == 3 ? "" : invented_text(10 * static_cast<uint64_t>(s) + d, 20);
        tokens_.push_back(text_tokenizer().encode(text));
        writer.append(tokens_.back(), {.text_bytes = static_cast<int64_t>(text.size()),
                                       .line = static_cast<int64_t>(d) + 1,
                                       .label = {1, static_cast<uint16_t>(d % 2)}});
      }
      manifest_.shards.push_back(writer.finish());
    }
    write_manifest(manifest_text(manifest_));
    save_tokenizer(local_file_system(), text_tokenizer(), folder_ / "");
  }
  void write_manifest(const std::string& text) { folder_.write("manifest.json", text); }
  std::string open_error(Verify verify = Verify::kChecksums) {
    return error_of([&] { ShardSet::open(local_file_system(), folder_ / "", verify); });
  }
  // Changes one byte of a file, sees what opening says, and changes it back.
  std::string error_with_flip(const std::string& name, size_t at, Verify verify) {
    const std::string path = folder_ / name;
    std::string bytes = local_file_system().read_all(path);
    bytes[at] = static_cast<char>(bytes[at] ^ 0x04);
    folder_.write(name, bytes);
    const std::string error = open_error(verify);
    bytes[at] = static_cast<char>(bytes[at] ^ 0x04);
    folder_.write(name, bytes);
    return error;
  }

  TextFolder folder_{"shards"};
  ShardManifest manifest_;
  std::vector<std::vector<TokenId>> tokens_;
};

TEST_F(ShardsTest, WhatWasWrittenIsRead) {
  const ShardSet set = ShardSet::open(local_file_system(), folder_ / "", Verify::kChecksums);
  ASSERT_EQ(set.num_documents(), 10);
  for (int64_t i = 0; i < 10; ++i) {
    const ShardDocument document = set.document(i);
    EXPECT_EQ(std::vector<TokenId>(document.tokens.begin(), document.tokens.end()),
              tokens_[static_cast<size_t>(i)]);
    EXPECT_EQ(document.record.line, i % 5 + 1);
    EXPECT_EQ(set.shard_of(i), i / 5);
    EXPECT_EQ(set.weight(document.record.label), i % 5 % 2 == 1 ? 2.5 : 1.0);
  }
  const ShardManifest again = parse_manifest(manifest_text(manifest_), "m");
  EXPECT_EQ(again.shards, manifest_.shards);
  EXPECT_EQ(manifest_text(again), manifest_text(manifest_));
  EXPECT_THROW(set.document(10), CheckFailure);
}

TEST_F(ShardsTest, EveryFlippedByteIsFound) {
  for (const char* name : {"shard-00000.tokens", "shard-00001.documents"}) {
    const auto size = static_cast<size_t>(local_file_system().info(folder_ / name).bytes);
    for (size_t at = 0; at < size; at += 7) {
      const std::string error = error_with_flip(name, at, Verify::kChecksums);
      ASSERT_NE(error.find(name), std::string::npos) << "byte " << at << ": " << error;
    }
  }
  // Without checksums the order of the records is still looked at.
  EXPECT_NE(error_with_flip("shard-00001.documents", 6, Verify::kSizes).find("cannot be"),
            std::string::npos);
  EXPECT_EQ(open_error(), "no error");
}

TEST_F(ShardsTest, TruncatedAndMissingFilesAreNamed) {
  for (const char* name : {"shard-00001.tokens", "shard-00000.documents"}) {
    const std::string bytes = local_file_system().read_all(folder_ / name);
    folder_.write(name, bytes.substr(0, bytes.size() - 4));
    const std::string error = open_error(Verify::kSizes);
    EXPECT_NE(error.find(name), std::string::npos);
    EXPECT_NE(error.find(fmt::format("{} bytes", bytes.size() - 4)), std::string::npos) << error;
    local_file_system().remove_all(folder_ / name);
    EXPECT_NE(open_error().find(name), std::string::npos);
    folder_.write(name, bytes);
  }
  local_file_system().remove_all(folder_ / "manifest.json");
  EXPECT_NE(open_error().find("no manifest.json"), std::string::npos);
}

TEST_F(ShardsTest, WrongManifestFieldsAreNamed) {
  const Json good = parse_json(manifest_text(manifest_), "m");
  const auto error_with = [&](const std::function<void(Json&)>& change) {
    Json json = good;
    change(json);
    write_manifest(json.dump());
    return open_error();
  };
  const auto expect_named = [&](const std::string& field, const std::string& error) {
    EXPECT_NE(error.find(field), std::string::npos) << error;
    EXPECT_NE(error, "no error") << field;
  };
  for (const char* field :
       {"format", "format_version", "vocab_size", "tokenizer_xxh3_128", "documents", "tokens",
        "languages", "domains", "inputs", "weights", "shards"}) {
    expect_named(field, error_with([&](Json& json) { json.erase(field); }));
    expect_named(field, error_with([&](Json& json) { json[field] = nullptr; }));
  }
  expect_named("documents", error_with([](Json& json) { json["documents"] = 11; }));
  expect_named("format_version", error_with([](Json& json) { json["format_version"] = 2; }));
  expect_named("tokens", error_with([](Json& json) { json["tokens"] = -1; }));
  expect_named("weights.en", error_with([](Json& json) { json["weights"]["en"] = -1; }));
  expect_named("name", error_with([](Json& json) { json["shards"][0]["name"] = "../x"; }));
  expect_named("checksum", error_with([](Json& json) {
                 json["shards"][0]["tokens_xxh3_128"] = std::string(32, '0');
               }));
  expect_named("token ", error_with([](Json& json) { json["vocab_size"] = 5; }));
  expect_named("cannot be", error_with([](Json& json) { json["domains"] = {"prose"}; }));
  expect_named("40 ", error_with([](Json& json) {  // sizes of one record too many
                        json["shards"][0]["documents"] = 6;
                        json["documents"] = 11;
                      })
                          .insert(0, "40 "));
  EXPECT_NE(error_with([](Json& json) { json["languages"] = {"other", "en", "de"}; }), "no");
  write_manifest("{");
  expect_named("manifest.json", open_error());
}

TEST_F(ShardsTest, PeekShowsDocumentsWithTheirTokens) {
  const ShardSet set = ShardSet::open(local_file_system(), folder_ / "", Verify::kSizes);
  const std::string text =
      peek_text(set, text_tokenizer(), {.first = 1, .num_documents = 2, .max_tokens = 5}, false);
  EXPECT_NE(text.find("10 documents"), std::string::npos);
  EXPECT_NE(text.find("document 1 (shard-00000), en code"), std::string::npos) << text;
  EXPECT_NE(text.find("in.jsonl:2"), std::string::npos);
  EXPECT_NE(text.find("|"), std::string::npos);
  EXPECT_NE(text.find("more tokens"), std::string::npos);
  EXPECT_EQ(text.find("document 3"), std::string::npos);
  const Json json = peek_json(set, text_tokenizer(), {.num_documents = 99, .label = "code"});
  EXPECT_EQ(json["documents"].size(), 4u);
  EXPECT_EQ(json["documents_total"], 10);
  EXPECT_EQ(json["domains"]["code"]["documents"], 4);
  EXPECT_EQ(json["documents"][0]["ids"].get<std::vector<TokenId>>(), tokens_[1]);
  EXPECT_NE(
      error_of([&] { peek_text(set, text_tokenizer(), {.label = "cod"}, false); }).find("one of"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              peek_text(set, text_tokenizer(), {.first = 10}, false);
            }).find("10 documents"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
