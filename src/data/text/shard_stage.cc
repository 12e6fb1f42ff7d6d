#include <algorithm>
#include <bit>
#include <chrono>
#include <memory>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/json.h"
#include "data/text/prepare_stages.h"
#include "data/text/token_file.h"
#include "data/tokenizer/text_encoder.h"

namespace fathom {
namespace {

// A document to tokenise or write: the how manieth of those of a segment that go on.
struct Place {
  int64_t segment = 0;
  int64_t kept = 0;
};
// Documents [begin, end) of the row of all that go on.
struct ShardRange {
  Place begin, end;
};

std::string token_path(const PrepareState& state, const SegmentName& name) {
  return state.work(name.file("tokens"));
}

// work/tokens-*.bin for this process's share of the segments.
void tokenise(PrepareState& state, const AllSegments& segments,
              const std::vector<Duplicate>& duplicates) {
  BatchEncoder encoder(state.tokenizer, &state.threads);
  WorkTime time{.name = "tokenise"};
  for (int64_t s = state.job.team.rank; s < segments.num_segments(); s += state.job.team.size) {
    const std::string path = token_path(state, segments.name(s));
    if (state.files.info(path).exists) continue;
    const SegmentFile& segment = segments.file(s);
    std::vector<TokenRecord> kept;
    std::vector<std::string_view> texts;
    for (int64_t i = 0; i < std::ssize(segment.records()); ++i) {
      if (duplicates[static_cast<size_t>(segments.first_document(s) + i)] != Duplicate::kNo)
        continue;
      texts.push_back(segment.text(segment.records()[static_cast<size_t>(i)]));
      kept.push_back({0, XXH3_64bits(texts.back().data(), texts.back().size()), i});
      time.bytes += std::ssize(texts.back());
    }
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::vector<TokenId>> tokens = encoder.encode(texts);
    time.seconds += state.threads.num_threads() *
                    std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (size_t i = 0; i < kept.size(); ++i) kept[i].num_tokens = std::ssize(tokens[i]);
    write_token_file(state.files, path, kept, tokens);
    state.say(fmt::format("tokenised {} of {} segments", s + 1, segments.num_segments()));
  }
  if (time.bytes > 0) state.result.times.push_back(time);
}

// Each shard ends with the document that fills it.
std::vector<ShardRange> cut_shards(const PrepareState& state, const AllSegments& segments) {
  std::vector<ShardRange> shards;
  Place begin;
  int64_t tokens = 0;
  bool any = false;
  for (int64_t s = 0; s < segments.num_segments(); ++s) {
    const TokenFile file(state.files, token_path(state, segments.name(s)));
    for (int64_t i = 0; i < std::ssize(file.records()); ++i) {
      any = true;
      tokens += file.records()[static_cast<size_t>(i)].num_tokens;
      if (tokens < state.config.shard_tokens) continue;
      shards.push_back({begin, {s, i + 1}});
      begin = {s, i + 1};
      tokens = 0;
      any = false;
    }
  }
  if (any) shards.push_back({begin, {segments.num_segments(), 0}});
  return shards;
}

void account_for(const SegmentRecord& from, int64_t num_tokens, Account& account) {
  account.out.add(from.text_bytes);
  account.tokens += num_tokens;
  for (auto [shares, name] : {std::pair{&account.languages, language_names()[from.label.language]},
                              std::pair{&account.domains, domain_names()[from.label.domain]}}) {
    Share& share = (*shares)[std::string(name)];
    share.text.add(from.text_bytes);
    share.tokens += num_tokens;
  }
  ++account.lengths[std::min<size_t>(std::bit_width(static_cast<uint64_t>(num_tokens)),
                                     account.lengths.size() - 1)];
}

// The shard's files, and behind them what it says of itself.
void write_shard(const PrepareState& state, const AllSegments& segments, const ShardRange& range,
                 const std::string& name, const std::string& commit_path) {
  ShardWriter writer(state.files, state.job.out, name);
  Account account;
  for (int64_t s = range.begin.segment; s < segments.num_segments() && s <= range.end.segment;
       ++s) {
    const TokenFile file(state.files, token_path(state, segments.name(s)));
    const auto records = file.records();
    const int64_t first = s == range.begin.segment ? range.begin.kept : 0;
    const int64_t end = s == range.end.segment ? range.end.kept : std::ssize(records);
    int64_t at = 0;
    for (int64_t i = 0; i < end; ++i) {
      const TokenRecord& record = records[static_cast<size_t>(i)];
      if (i >= first) {
        const SegmentRecord& from = segments.file(s).records()[static_cast<size_t>(record.record)];
        writer.append(
            file.tokens().subspan(static_cast<size_t>(at), static_cast<size_t>(record.num_tokens)),
            {.text_bytes = from.text_bytes,
             .line = from.line,
             .text_hash = record.text_hash,
             .input = from.input,
             .label = from.label});
        account_for(from, record.num_tokens, account);
      }
      at += record.num_tokens;
    }
  }
  const ShardEntry entry = writer.finish();
  const Json json{{"shard", shard_entry_to_json(entry)}, {"account", account_to_json(account)}};
  write_file_atomically(state.files, commit_path, json.dump());
  state.say(fmt::format("{}: {} documents, {} tokens", entry.name, entry.num_documents,
                        entry.num_tokens));
}

}  // namespace

std::vector<ShardEntry> shard_stage(PrepareState& state, const AllSegments& segments,
                                    const std::vector<Duplicate>& duplicates) {
  const Team& team = state.job.team;
  tokenise(state, segments, duplicates);
  team.gather("tokenised");
  const std::vector<ShardRange> shards = cut_shards(state, segments);
  const auto name = [](size_t i) { return fmt::format("shard-{:05}", i); };
  const auto commit_path = [&](size_t i) { return state.work(name(i) + ".json"); };
  for (size_t i = static_cast<size_t>(team.rank); i < shards.size();
       i += static_cast<size_t>(team.size)) {
    if (!state.files.info(commit_path(i)).exists)
      write_shard(state, segments, shards[i], name(i), commit_path(i));
  }
  team.gather("written");
  std::vector<ShardEntry> entries;
  for (size_t i = 0; team.is_first() && i < shards.size(); ++i) {
    const Json json = parse_json(state.files.read_all(commit_path(i)), commit_path(i));
    entries.push_back(shard_entry_from_json(json.at("shard"), commit_path(i)));
    state.result.account.add(account_from_json(json.at("account"), commit_path(i)));
  }
  return entries;
}

}  // namespace fathom
