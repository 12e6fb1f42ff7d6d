#include <algorithm>
#include <bit>
#include <chrono>
#include <memory>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/json.h"
#include "data/text/prepare_stages.h"
#include "data/tokenizer/text_encoder.h"

namespace fathom {
namespace {

// The next document to tokenise.
struct ShardPosition {
  int64_t segment = 0;
  int64_t record = 0;  // of the segment
};

std::string shard_name(size_t index) { return fmt::format("shard-{:05}", index); }

// The shard being written and everything that its commit record says.
class ShardRow {
 public:
  explicit ShardRow(PrepareState& state) : state_(state) {}

  // Takes up the shards that are finished; the position behind them.
  ShardPosition resume() {
    ShardPosition position;
    for (;;) {
      const std::string path = commit_path();
      if (!state_.files.info(path).exists) return position;
      const Json json = parse_json(state_.files.read_all(path), path);
      entries_.push_back(shard_entry_from_json(json.at("shard"), path));
      state_.result.account.add(account_from_json(json.at("account"), path));
      position = {json.at("segment").get<int64_t>(), json.at("record").get<int64_t>()};
    }
  }
  void append(std::span<const TokenId> tokens, const SegmentRecord& from, std::string_view text) {
    if (writer_ == nullptr) {
      writer_ =
          std::make_unique<ShardWriter>(state_.files, state_.job.out, shard_name(entries_.size()));
    }
    writer_->append(tokens, {.text_bytes = from.text_bytes,
                             .line = from.line,
                             .text_hash = XXH3_64bits(text.data(), text.size()),
                             .input = from.input,
                             .label = from.label});
    const auto count = static_cast<int64_t>(tokens.size());
    account_.out.add(from.text_bytes);
    account_.tokens += count;
    for (auto [shares, name] :
         {std::pair{&account_.languages, language_names()[from.label.language]},
          std::pair{&account_.domains, domain_names()[from.label.domain]}}) {
      Share& share = (*shares)[std::string(name)];
      share.text.add(from.text_bytes);
      share.tokens += count;
    }
    ++account_.lengths[std::min<size_t>(std::bit_width(static_cast<uint64_t>(count)),
                                        account_.lengths.size() - 1)];
  }
  bool is_full() const {
    return writer_ != nullptr && writer_->num_tokens() >= state_.config.shard_tokens;
  }
  void finish(const ShardPosition& next) {
    if (writer_ == nullptr) return;
    const std::string path = commit_path();
    const ShardEntry entry = writer_->finish();
    const Json json{{"shard", shard_entry_to_json(entry)},
                    {"account", account_to_json(account_)},
                    {"segment", next.segment},
                    {"record", next.record}};
    write_file_atomically(state_.files, path, json.dump());
    state_.say(fmt::format("{}: {} documents, {} tokens", entry.name, entry.num_documents,
                           entry.num_tokens));
    state_.result.account.add(account_);
    account_ = {};
    writer_.reset();
    entries_.push_back(entry);
  }
  std::vector<ShardEntry> take() { return std::move(entries_); }

 private:
  std::string commit_path() const { return state_.work(shard_name(entries_.size()) + ".json"); }
  PrepareState& state_;
  std::vector<ShardEntry> entries_;
  std::unique_ptr<ShardWriter> writer_;
  Account account_;
};

}  // namespace

std::vector<ShardEntry> shard_stage(PrepareState& state, int64_t num_segments,
                                    const std::vector<Duplicate>& duplicates) {
  ShardRow row(state);
  const ShardPosition begin = row.resume();
  BatchEncoder encoder(state.tokenizer, &state.threads);
  int64_t first_document = 0;  // of the segment, among all
  WorkTime time{.name = "tokenise"};
  for (int64_t s = 0; s < num_segments; ++s) {
    const SegmentFile segment(state.files, segment_path(state, s));
    const auto records = segment.records();
    const auto count = static_cast<int64_t>(records.size());
    std::vector<int64_t> kept;
    for (int64_t i = s == begin.segment ? begin.record : 0; s >= begin.segment && i < count; ++i) {
      if (duplicates[static_cast<size_t>(first_document + i)] == Duplicate::kNo) kept.push_back(i);
    }
    first_document += count;
    std::vector<std::string_view> texts;
    for (const int64_t i : kept) texts.push_back(segment.text(records[static_cast<size_t>(i)]));
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::vector<TokenId>> tokens = encoder.encode(texts);
    time.seconds += state.threads.num_threads() *
                    std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (size_t i = 0; i < kept.size(); ++i) {
      const SegmentRecord& record = records[static_cast<size_t>(kept[i])];
      time.bytes += record.text_bytes;
      row.append(tokens[i], record, texts[i]);
      if (row.is_full()) row.finish({s, kept[i] + 1});
    }
  }
  row.finish({num_segments, 0});
  if (time.bytes > 0) state.result.times.push_back(time);
  return row.take();
}

}  // namespace fathom
