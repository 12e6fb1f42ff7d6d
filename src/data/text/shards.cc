#include "data/text/shards.h"

#include <algorithm>
#include <bit>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/integer.h"

namespace fathom {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are little endian");

std::string hex(const XXH128_hash_t& hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string tokens_name(const std::string& name) { return name + ".tokens"; }
std::string documents_name(const std::string& name) { return name + ".documents"; }

[[noreturn]] void broken(const std::string& path, const std::string& field, std::string found,
                         std::string expected) {
  throw_bad_input({.where = path,
                   .field = field,
                   .found = std::move(found),
                   .expected = std::move(expected),
                   .hint = "the shard is damaged, or not of this folder; prepare it again"});
}

}  // namespace

int64_t ShardManifest::num_documents() const {
  int64_t sum = 0;
  for (const ShardEntry& shard : shards) sum += shard.num_documents;
  return sum;
}
int64_t ShardManifest::num_tokens() const {
  int64_t sum = 0;
  for (const ShardEntry& shard : shards) sum += shard.num_tokens;
  return sum;
}

bool is_shard_folder(FileSystem& files, const std::string& path) {
  return files.info(join_path(path, kShardManifest)).exists;
}

std::string tokenizer_hash(const Tokenizer& tokenizer) {
  const TokenizerDefinition& definition = tokenizer.definition();
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  const auto add = [&state](std::string_view text) {
    const uint64_t size = text.size();
    XXH3_128bits_update(&state, &size, sizeof size);
    XXH3_128bits_update(&state, text.data(), text.size());
  };
  for (const std::string& token : definition.tokens) add(token);
  for (const BpeMerge& merge : definition.merges) {
    const TokenId ids[3] = {merge.left, merge.right, merge.result};
    XXH3_128bits_update(&state, ids, sizeof ids);
  }
  for (const AddedToken& token : definition.added) {
    XXH3_128bits_update(&state, &token.id, sizeof token.id);
    add(token.content);
  }
  for (const std::string& pattern : definition.split_patterns) add(pattern);
  add(definition.ignore_merges ? "whole" : "");
  return hex(XXH3_128bits_digest(&state));
}

struct ShardWriter::Hashes {
  XXH3_state_t tokens, documents;
};

ShardWriter::ShardWriter(FileSystem& files, const std::string& folder, std::string name)
    : files_(files), folder_(folder), hashes_(std::make_unique<Hashes>()) {
  entry_.name = std::move(name);
  const std::string base = join_path(folder_, entry_.name);
  tokens_file_ = files_.create(tokens_name(base) + ".tmp");
  documents_file_ = files_.create(documents_name(base) + ".tmp");
  XXH3_128bits_reset(&hashes_->tokens);
  XXH3_128bits_reset(&hashes_->documents);
}
ShardWriter::~ShardWriter() = default;

void ShardWriter::append(std::span<const TokenId> tokens, ShardRecord record) {
  entry_.num_tokens += static_cast<int64_t>(tokens.size());
  entry_.text_bytes += record.text_bytes;
  ++entry_.num_documents;
  record.token_end = entry_.num_tokens;
  tokens_file_->append(tokens.data(), static_cast<int64_t>(tokens.size_bytes()));
  documents_file_->append(&record, sizeof record);
  XXH3_128bits_update(&hashes_->tokens, tokens.data(), tokens.size_bytes());
  XXH3_128bits_update(&hashes_->documents, &record, sizeof record);
}

ShardEntry ShardWriter::finish() {
  const std::string base = join_path(folder_, entry_.name);
  for (WritableFile* file : {tokens_file_.get(), documents_file_.get()}) {
    file->sync();
    file->close();
  }
  files_.rename(tokens_name(base) + ".tmp", tokens_name(base));
  files_.rename(documents_name(base) + ".tmp", documents_name(base));
  files_.sync_directory(folder_);
  entry_.tokens_hash = hex(XXH3_128bits_digest(&hashes_->tokens));
  entry_.documents_hash = hex(XXH3_128bits_digest(&hashes_->documents));
  return entry_;
}

ShardSet ShardSet::open(FileSystem& files, const std::string& folder, Verify verify) {
  ShardSet set;
  set.folder_ = folder;
  const std::string manifest = join_path(folder, kShardManifest);
  if (!files.info(manifest).exists) {
    throw_bad_input({.where = folder,
                     .found = "no manifest.json",
                     .expected = "a folder that `fathom data prepare` has finished"});
  }
  set.manifest_ = parse_manifest(files.read_all(manifest), manifest);
  set.first_document_.push_back(0);
  for (const ShardEntry& entry : set.manifest_.shards) {
    const std::string base = join_path(folder, entry.name);
    set.shards_.push_back({files.map(tokens_name(base)), files.map(documents_name(base))});
    set.first_document_.push_back(set.first_document_.back() + entry.num_documents);
    set.check_shard(static_cast<int64_t>(set.shards_.size()) - 1, verify);
  }
  return set;
}

void ShardSet::check_shard(int64_t shard_idx, Verify verify) const {
  const ShardEntry& entry = manifest_.shards[static_cast<size_t>(shard_idx)];
  const Shard& shard = shards_[static_cast<size_t>(shard_idx)];
  const std::string base = join_path(folder_, entry.name);
  const auto check_file = [&](const std::string& path, const MappedFile& file, int64_t count,
                              int64_t size, const std::string& hash) {
    const auto bytes = static_cast<int64_t>(file.bytes().size());
    if (bytes != count * size)
      broken(path, "", fmt::format("{} bytes", bytes), fmt::format("{}", count * size));
    if (verify == Verify::kSizes) return;
    const std::string found = hex(XXH3_128bits(file.bytes().data(), file.bytes().size()));
    if (found != hash) broken(path, "checksum", found, hash);
  };
  check_file(tokens_name(base), *shard.tokens, entry.num_tokens, sizeof(TokenId),
             entry.tokens_hash);
  check_file(documents_name(base), *shard.documents, entry.num_documents, sizeof(ShardRecord),
             entry.documents_hash);
  int64_t end = 0, text_bytes = 0;
  for (const ShardRecord& record : records(shard_idx)) {
    if (record.token_end < end || record.token_end > entry.num_tokens || record.text_bytes < 0 ||
        record.input >= manifest_.inputs.size() ||
        record.label.language >= manifest_.languages.size() ||
        record.label.domain >= manifest_.domains.size()) {
      broken(
          documents_name(base), "",
          fmt::format("a record that cannot be (tokens {} to {}, input {}, labels {} and {})", end,
                      record.token_end, record.input, record.label.language, record.label.domain),
          "what the manifest says");
    }
    end = record.token_end;
    text_bytes += record.text_bytes;
  }
  if (end != entry.num_tokens || text_bytes != entry.text_bytes) {
    broken(documents_name(base), "", fmt::format("{} tokens of {} bytes of text", end, text_bytes),
           fmt::format("{} of {}", entry.num_tokens, entry.text_bytes));
  }
  if (verify == Verify::kSizes) return;
  for (const TokenId id : shard_tokens(shard_idx)) {
    if (id < 0 || id >= manifest_.vocab_size)
      broken(tokens_name(base), "", fmt::format("token {}", id),
             fmt::format("0 to {}", manifest_.vocab_size - 1));
  }
  shard.tokens->forget(0, static_cast<int64_t>(shard.tokens->bytes().size()));
}

std::span<const ShardRecord> ShardSet::records(int64_t shard_idx) const {
  const auto bytes = shards_[static_cast<size_t>(shard_idx)].documents->bytes();
  return {reinterpret_cast<const ShardRecord*>(bytes.data()), bytes.size() / sizeof(ShardRecord)};
}

std::span<const TokenId> ShardSet::shard_tokens(int64_t shard_idx) const {
  const auto bytes = shards_[static_cast<size_t>(shard_idx)].tokens->bytes();
  return {reinterpret_cast<const TokenId*>(bytes.data()), bytes.size() / sizeof(TokenId)};
}

int64_t ShardSet::shard_of(int64_t document_idx) const {
  FATHOM_CHECK(document_idx >= 0 && document_idx < num_documents(), "document {} of {}",
               document_idx, num_documents());
  return std::upper_bound(first_document_.begin(), first_document_.end(), document_idx) -
         first_document_.begin() - 1;
}

ShardDocument ShardSet::document(int64_t document_idx) const {
  const int64_t shard = shard_of(document_idx);
  const auto within =
      static_cast<size_t>(document_idx - first_document_[static_cast<size_t>(shard)]);
  const std::span<const ShardRecord> all = records(shard);
  const int64_t begin = within == 0 ? 0 : all[within - 1].token_end;
  return {shard_tokens(shard).subspan(static_cast<size_t>(begin),
                                      static_cast<size_t>(all[within].token_end - begin)),
          all[within]};
}

double ShardSet::weight(const Label& label) const {
  double weight = 1;
  for (const std::string& name :
       {manifest_.languages[label.language], manifest_.domains[label.domain]}) {
    const auto found = manifest_.weights.find(name);
    if (found != manifest_.weights.end()) weight *= found->second;
  }
  return weight;
}

}  // namespace fathom
