// Token shards: a folder of tokenised documents that are mapped into memory, not read. What stands
// where is described in docs/formats/shards.md.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json_fwd.h"
#include "data/text/labels.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {

// What a shard knows of each document beside its tokens: one record of the .documents file.
struct ShardRecord {
  int64_t token_end = 0;   // the document's tokens end here; they begin where the last one's end
  int64_t text_bytes = 0;  // of the text that the tokens stand for
  int64_t line = 0;        // of the input file
  uint64_t text_hash = 0;  // XXH3-64 of the text
  uint32_t input = 0;      // index into the manifest's inputs
  Label label;             // indices into the manifest's languages and domains
};
static_assert(sizeof(ShardRecord) == 40);

struct ShardEntry {
  std::string name;  // "shard-00000", without .tokens and .documents
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
  int64_t text_bytes = 0;
  std::string tokens_hash, documents_hash;  // XXH3-128 of each file, in hexadecimal
  bool operator==(const ShardEntry&) const = default;
};

struct ShardManifest {
  int64_t vocab_size = 0;
  std::string tokenizer_hash;
  std::vector<std::string> languages, domains, inputs;
  // How often a document of a label is to be seen an epoch, by language or domain; 1 if not named.
  std::map<std::string, double> weights;
  std::vector<ShardEntry> shards;

  int64_t num_documents() const;
  int64_t num_tokens() const;
};
inline constexpr const char* kShardManifest = "manifest.json";
bool is_shard_folder(FileSystem& files, const std::string& path);

std::string manifest_text(const ShardManifest& manifest);
ShardManifest parse_manifest(std::string_view text, const std::string& where);
Json shard_entry_to_json(const ShardEntry& entry);
ShardEntry shard_entry_from_json(const Json& json, const std::string& where);

// Two tokenizers with the same hash cut every text alike.
std::string tokenizer_hash(const Tokenizer& tokenizer);

// Writes one shard: under temporary names until finish().
class ShardWriter {
 public:
  ShardWriter(FileSystem& files, const std::string& folder, std::string name);
  ~ShardWriter();
  // token_end is filled in here.
  void append(std::span<const TokenId> tokens, ShardRecord record);
  int64_t num_tokens() const { return entry_.num_tokens; }
  // Both files on disk under their names.
  ShardEntry finish();

 private:
  struct Hashes;
  FileSystem& files_;
  std::string folder_;
  ShardEntry entry_;
  std::unique_ptr<WritableFile> tokens_file_, documents_file_;
  std::unique_ptr<Hashes> hashes_;
};

// A document of a mapped shard.
struct ShardDocument {
  std::span<const TokenId> tokens;
  ShardRecord record;
};

class ShardSet {
 public:
  enum class Verify {
    kSizes,      // of all files, and that the document records are in order
    kChecksums,  // every byte, too, and every token id
  };
  // An Error names the file and what is wrong with it.
  static ShardSet open(FileSystem& files, const std::string& folder, Verify verify);

  const ShardManifest& manifest() const { return manifest_; }
  const std::string& folder() const { return folder_; }
  int64_t num_documents() const { return first_document_.back(); }
  int64_t num_tokens() const { return manifest_.num_tokens(); }
  ShardDocument document(int64_t document_idx) const;
  // Which shard holds it.
  int64_t shard_of(int64_t document_idx) const;
  // How often a document is to be seen an epoch: the product of its labels' weights.
  double weight(const Label& label) const;
  // The bytes of a whole shard, for who reads it from end to end.
  std::span<const TokenId> shard_tokens(int64_t shard_idx) const;

 private:
  struct Shard {
    std::shared_ptr<const MappedFile> tokens, documents;
  };
  std::span<const ShardRecord> records(int64_t shard_idx) const;
  void check_shard(int64_t shard_idx, Verify verify) const;

  std::string folder_;
  ShardManifest manifest_;
  std::vector<Shard> shards_;
  std::vector<int64_t> first_document_;  // of each shard, and the count of all behind the last
};

}  // namespace fathom
