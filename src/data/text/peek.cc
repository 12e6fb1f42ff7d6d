#include "data/text/peek.h"

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "data/text/account.h"
#include "data/tokenizer/tokenizer_lines.h"

namespace fathom {
namespace {

// The numbers of the documents to show.
std::vector<int64_t> chosen(const ShardSet& shards, const PeekOptions& options) {
  const ShardManifest& manifest = shards.manifest();
  if (!options.label.empty()) {
    std::vector<std::string> known = manifest.languages;
    known.insert(known.end(), manifest.domains.begin(), manifest.domains.end());
    if (std::find(known.begin(), known.end(), options.label) == known.end()) {
      throw_bad_input({.where = "--label",
                       .found = options.label,
                       .expected = fmt::format("one of {}", fmt::join(known, ", "))});
    }
  }
  if (options.first > 0 && options.first >= shards.num_documents()) {
    throw_bad_input({.where = shards.folder(),
                     .found = fmt::format("{} documents", shards.num_documents()),
                     .expected = fmt::format("document {}", options.first)});
  }
  std::vector<int64_t> documents;
  for (int64_t i = options.first;
       i < shards.num_documents() && static_cast<int64_t>(documents.size()) < options.num_documents;
       ++i) {
    if (!options.label.empty()) {
      const Label label = shards.document(i).record.label;
      if (manifest.languages[label.language] != options.label &&
          manifest.domains[label.domain] != options.label)
        continue;
    }
    documents.push_back(i);
  }
  return documents;
}

struct Totals {
  std::map<std::string, Tally> languages, domains;  // of tokens, in `bytes`
  int64_t shortest = 0, longest = 0, median = 0;
};

Totals total(const ShardSet& shards) {
  Totals totals;
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < shards.num_documents(); ++i) {
    const ShardDocument document = shards.document(i);
    const auto tokens = static_cast<int64_t>(document.tokens.size());
    lengths.push_back(tokens);
    totals.languages[shards.manifest().languages[document.record.label.language]].add(tokens);
    totals.domains[shards.manifest().domains[document.record.label.domain]].add(tokens);
  }
  if (lengths.empty()) return totals;
  const auto middle = lengths.begin() + static_cast<std::ptrdiff_t>(lengths.size() / 2);
  std::nth_element(lengths.begin(), middle, lengths.end());
  totals.median = *middle;
  const auto [shortest, longest] = std::minmax_element(lengths.begin(), lengths.end());
  totals.shortest = *shortest;
  totals.longest = *longest;
  return totals;
}

std::string mixture_line(const std::map<std::string, Tally>& shares, int64_t tokens) {
  std::vector<std::pair<std::string, Tally>> rows(shares.begin(), shares.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  std::string line;
  for (size_t i = 0; i < rows.size() && i < 8; ++i) {
    line += fmt::format("{}{} {:.1f} %", i > 0 ? ", " : "", rows[i].first,
                        100.0 * static_cast<double>(rows[i].second.bytes) /
                            static_cast<double>(std::max<int64_t>(tokens, 1)));
  }
  if (rows.size() > 8) line += fmt::format(" and {} more", rows.size() - 8);
  return line;
}

// The tokens, each visible, with their boundaries. Line ends stay line ends behind their sign.
std::string tokens_text(std::span<const TokenId> tokens, const Tokenizer& tokenizer, bool colour) {
  std::string text = "  ";
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string visible = visible_token(tokenizer.token_bytes(tokens[i]));
    if (colour) {
      text += i % 2 == 0 ? "\033[48;5;236m" : "\033[48;5;240m";
      text += visible + "\033[0m";
    } else {
      text += (i > 0 ? "|" : "") + visible;
    }
    if (visible.ends_with("\\n")) text += "\n  ";
  }
  while (text.ends_with(' ') || text.ends_with('\n')) text.pop_back();
  return text + "\n";
}

std::span<const TokenId> shown(std::span<const TokenId> tokens, int64_t max_tokens) {
  return max_tokens > 0 ? tokens.first(std::min(tokens.size(), static_cast<size_t>(max_tokens)))
                        : tokens;
}

// The folder's name, after a look whether it is the right tokenizer.
std::string tokenizer_checked(const ShardSet& shards, const Tokenizer& tokenizer) {
  if (tokenizer_hash(tokenizer) != shards.manifest().tokenizer_hash) {
    throw_bad_input({.where = shards.folder(),
                     .found = "shards made with another tokenizer",
                     .expected = "the tokenizer.json that stands beside them"});
  }
  return shards.folder();
}

}  // namespace

std::string peek_text(const ShardSet& shards, const Tokenizer& tokenizer,
                      const PeekOptions& options, bool colour) {
  const std::string folder = tokenizer_checked(shards, tokenizer);
  const ShardManifest& manifest = shards.manifest();
  const Totals totals = total(shards);
  int64_t text_bytes = 0;
  for (const ShardEntry& shard : manifest.shards) text_bytes += shard.text_bytes;
  std::string text = fmt::format(
      "{}: {} documents, {} tokens, {} bytes of text ({:.2f} bytes a token), {} shards\n", folder,
      shards.num_documents(), shards.num_tokens(), text_bytes,
      static_cast<double>(text_bytes) /
          static_cast<double>(std::max<int64_t>(shards.num_tokens(), 1)),
      manifest.shards.size());
  text += fmt::format("vocabulary  {} tokens\n", manifest.vocab_size);
  text += fmt::format("lengths     {} to {} tokens, median {}\n", totals.shortest, totals.longest,
                      totals.median);
  text += fmt::format("languages   {}\n", mixture_line(totals.languages, shards.num_tokens()));
  text += fmt::format("kinds       {}\n", mixture_line(totals.domains, shards.num_tokens()));
  for (const auto& [label, weight] : manifest.weights)
    text += fmt::format("weight      {}: {} times an epoch\n", label, weight);
  for (const int64_t i : chosen(shards, options)) {
    const ShardDocument document = shards.document(i);
    const ShardRecord& record = document.record;
    text += fmt::format("\ndocument {} ({}), {} {}, {} tokens, {} bytes, from {}:{}\n", i,
                        manifest.shards[static_cast<size_t>(shards.shard_of(i))].name,
                        manifest.languages[record.label.language],
                        manifest.domains[record.label.domain], document.tokens.size(),
                        record.text_bytes, manifest.inputs[record.input], record.line);
    const auto part = shown(document.tokens, options.max_tokens);
    text += tokens_text(part, tokenizer, colour);
    if (part.size() < document.tokens.size())
      text += fmt::format("  … {} more tokens\n", document.tokens.size() - part.size());
  }
  return text;
}

Json peek_json(const ShardSet& shards, const Tokenizer& tokenizer, const PeekOptions& options) {
  const std::string folder = tokenizer_checked(shards, tokenizer);
  const ShardManifest& manifest = shards.manifest();
  const Totals totals = total(shards);
  const auto shares = [](const std::map<std::string, Tally>& tallies) {
    Json json = Json::object();
    for (const auto& [name, tally] : tallies)
      json[name] = {{"documents", tally.documents}, {"tokens", tally.bytes}};
    return json;
  };
  Json documents = Json::array();
  for (const int64_t i : chosen(shards, options)) {
    const ShardDocument document = shards.document(i);
    const ShardRecord& record = document.record;
    const auto part = shown(document.tokens, options.max_tokens);
    Json tokens = Json::array();
    for (const TokenId id : part) tokens.push_back(visible_token(tokenizer.token_bytes(id)));
    documents.push_back({{"document", i},
                         {"shard", manifest.shards[static_cast<size_t>(shards.shard_of(i))].name},
                         {"input", manifest.inputs[record.input]},
                         {"line", record.line},
                         {"language", manifest.languages[record.label.language]},
                         {"domain", manifest.domains[record.label.domain]},
                         {"bytes", record.text_bytes},
                         {"tokens", document.tokens.size()},
                         {"ids", std::vector<TokenId>(part.begin(), part.end())},
                         {"shown", std::move(tokens)}});
  }
  return {{"folder", folder},
          {"documents_total", shards.num_documents()},
          {"tokens_total", shards.num_tokens()},
          {"shards", manifest.shards.size()},
          {"vocab_size", manifest.vocab_size},
          {"shortest", totals.shortest},
          {"median", totals.median},
          {"longest", totals.longest},
          {"languages", shares(totals.languages)},
          {"domains", shares(totals.domains)},
          {"weights", manifest.weights},
          {"documents", std::move(documents)}};
}

}  // namespace fathom
