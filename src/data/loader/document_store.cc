#include "data/loader/document_store.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "data/tokenizer/text_encoder.h"

namespace fathom {
namespace {

uint64_t hash_bytes(const void* data, size_t bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}
uint64_t hash_text(std::string_view text, uint64_t seed) {
  return hash_bytes(text.data(), text.size(), seed);
}

uint64_t hash_document(const Document& document, uint64_t seed) {
  seed = hash_text(document.text, seed);
  seed = hash_bytes(document.tokens.data(), document.tokens.size() * sizeof(TokenId), seed);
  return hash_bytes(document.is_label.data(), document.is_label.size(), seed);
}

// What hash_document gives for the same text in memory: a text is held out or not whatever form it
// comes in.
uint64_t hash_document(const ShardRecord& record) {
  return hash_bytes(nullptr, 0, hash_bytes(nullptr, 0, record.text_hash));
}

constexpr double kMostRepeats = 4095;  // the copies of a document that have draws of their own

}  // namespace

uint64_t hash_sources(const std::vector<Source>& sources, uint64_t seed) {
  uint64_t hash = seed;
  const auto add = [&hash](auto value) { hash = hash_bytes(&value, sizeof value, hash); };
  for (const Source& source : sources) {
    add(source.repeats);
    add(source.fill_in_middle);
    for (const Document& document : source.documents) hash = hash_document(document, hash);
    if (source.shards == nullptr) continue;
    for (const ShardEntry& shard : source.shards->manifest().shards)
      hash = hash_text(shard.documents_hash, hash_text(shard.tokens_hash, hash));
    for (const auto* weights : {&source.shards->manifest().weights, &source.weights}) {
      for (const auto& [label, weight] : *weights) {
        hash = hash_text(label, hash);
        add(weight);
      }
    }
  }
  return hash;
}

DocumentStore::DocumentStore(Tokenizer tokenizer, const LoaderConfig& config, uint64_t seed,
                             int64_t row_length)
    : config_(config),
      row_length_(row_length),
      tokenizer_(tokenizer),
      encoder_(std::move(tokenizer), config.fim_rate, config.split_rate, config.add_bos, seed) {}

bool DocumentStore::is_held_out(uint64_t hash) const {
  // The choice depends on the content alone, so equal documents are not on both sides.
  return static_cast<double>(hash >> 11) * 0x1.0p-53 < config_.held_out;
}

void DocumentStore::add(Source source) {
  SourceReport report{.name = source.name};
  sources_.push_back({.begin = num_documents_,
                      .first_item = static_cast<int64_t>(items_.size()),
                      .repeats = source.repeats,
                      .fill_in_middle = source.fill_in_middle,
                      .shards = source.shards,
                      .weights = source.weights});
  if (source.shards != nullptr) {
    FATHOM_CHECK(source.documents.empty(), "{}: shards and documents", source.name);
    add_shards(sources_.back(), report);
    num_documents_ += source.shards->num_documents();
  } else {
    const size_t before = items_.size();
    add_texts(source, report);
    num_documents_ += static_cast<int64_t>(items_.size() - before);
  }
  reports_.push_back(std::move(report));
}

void DocumentStore::add_texts(Source& source, SourceReport& report) {
  for (Document& document : source.documents) {
    const bool is_text = !document.text.empty();
    if (!is_text && document.tokens.empty()) continue;
    FATHOM_CHECK(document.is_label.empty() || document.is_label.size() == document.tokens.size(),
                 "{}: {} labels for {} tokens", source.name, document.is_label.size(),
                 document.tokens.size());
    ++report.num_documents;
    const uint64_t hash = hash_document(document, 0);
    const auto bytes = static_cast<double>(document.text.size());
    if (config_.held_out > 0 &&
        bytes * config_.held_out >= 4.0 * static_cast<double>(row_length_)) {
      auto cut = static_cast<size_t>(bytes * (1 - config_.held_out));
      while (cut > 0 && (static_cast<unsigned char>(document.text[cut]) & 0xC0) == 0x80) --cut;
      held_out_.push_back(
          {hash, tokenizer_.encode(std::string_view(document.text).substr(cut)), {}});
      document.text.resize(cut);
    } else if (is_held_out(hash)) {
      ++report.num_held_out;
      held_out_.push_back({hash,
                           is_text ? tokenizer_.encode(document.text) : std::move(document.tokens),
                           std::move(document.is_label)});
      continue;
    }
    if (is_text && document.text.empty()) continue;
    items_.push_back({.document = std::move(document), .is_text = is_text});
  }
}

int64_t DocumentStore::training_tokens(const ShardDocument& document) const {
  const auto tokens = static_cast<int64_t>(document.tokens.size());
  const auto bytes = static_cast<double>(document.record.text_bytes);
  if (config_.held_out <= 0 || bytes * config_.held_out < 4.0 * static_cast<double>(row_length_))
    return tokens;
  return static_cast<int64_t>(static_cast<double>(tokens) * (1 - config_.held_out));
}

double DocumentStore::shard_repeats(const SourceRange& range, const Label& label) const {
  double repeats = range.repeats * range.shards->weight(label);
  const ShardManifest& manifest = range.shards->manifest();
  for (const std::string& name :
       {manifest.languages[label.language], manifest.domains[label.domain]}) {
    const auto found = range.weights.find(name);
    if (found != range.weights.end()) repeats *= found->second;
  }
  return repeats;
}

void DocumentStore::add_shards(const SourceRange& range, SourceReport& report) {
  const ShardSet& shards = *range.shards;
  if (shards.manifest().tokenizer_hash != tokenizer_hash(tokenizer_)) {
    throw_bad_input({.where = shards.folder(),
                     .found = "shards made with another tokenizer",
                     .expected = "the one that the model is trained with",
                     .hint = "it stands beside them, as tokenizer.json"});
  }
  report.num_documents = shards.num_documents();
  for (int64_t i = 0; i < shards.num_documents(); ++i) {
    const ShardDocument document = shards.document(i);
    if (const double repeats = shard_repeats(range, document.record.label);
        repeats > kMostRepeats) {
      throw_bad_input({.where = shards.folder(),
                       .field = "weights",
                       .found = fmt::format("a document {} times an epoch", repeats),
                       .expected = fmt::format("at most {}", kMostRepeats)});
    }
    const auto tokens = static_cast<int64_t>(document.tokens.size());
    if (tokens == 0) continue;
    const int64_t cut = training_tokens(document);
    if (cut < tokens) {
      held_out_.push_back(
          {.hash = hash_document(document.record), .shards = &shards, .document = i, .begin = cut});
    } else if (is_held_out(hash_document(document.record))) {
      ++report.num_held_out;
      held_out_.push_back(
          {.hash = hash_document(document.record), .shards = &shards, .document = i});
      continue;
    }
    report.num_tokens += cut + 1;
  }
}

void DocumentStore::tokenize(ThreadPool* threads) {
  std::vector<std::string_view> texts;  // empty for documents of tokens
  for (const Item& item : items_) texts.push_back(item.document.text);
  std::vector<std::vector<TokenId>> encoded = encode_batch(tokenizer_, texts, {}, threads);
  for (size_t i = 0; i < items_.size(); ++i) {
    Item& item = items_[i];
    item.plain = item.is_text ? std::move(encoded[i]) : item.document.tokens;
  }
  const auto count = static_cast<int64_t>(items_.size());
  for (HeldOut& h : held_out_) {
    if (h.shards != nullptr) continue;
    const bool is_text = h.is_label.empty();
    if (is_text) h.tokens.push_back(tokenizer_.special().eos);
    h.is_label.resize(h.tokens.size(), 1);
  }
  std::stable_sort(held_out_.begin(), held_out_.end(),
                   [](const HeldOut& a, const HeldOut& b) { return a.hash < b.hash; });
  for (size_t s = 0; s < sources_.size(); ++s) {
    if (sources_[s].shards != nullptr) continue;
    const int64_t end = s + 1 < sources_.size() ? sources_[s + 1].first_item : count;
    for (int64_t i = sources_[s].first_item; i < end; ++i) {
      const Item& item = items_[static_cast<size_t>(i)];
      reports_[s].num_tokens += static_cast<int64_t>(item.plain.size()) + (item.is_text ? 1 : 0);
    }
  }
}

const DocumentStore::SourceRange& DocumentStore::source_of(int64_t document) const {
  const auto next = std::upper_bound(
      sources_.begin(), sources_.end(), document,
      [](int64_t wanted, const SourceRange& range) { return wanted < range.begin; });
  return *std::prev(next);
}

double DocumentStore::repeats(int64_t document) const {
  const SourceRange& source = source_of(document);
  if (source.shards == nullptr) return source.repeats;
  const ShardDocument found = source.shards->document(document - source.begin);
  const auto tokens = static_cast<int64_t>(found.tokens.size());
  const bool whole = training_tokens(found) == tokens;
  if (tokens == 0 || (whole && is_held_out(hash_document(found.record)))) return 0;
  return shard_repeats(source, found.record.label);
}

void DocumentStore::append(const DocumentEncoder::Key& key, std::vector<int32_t>& tokens,
                           std::vector<uint8_t>& labels) const {
  const SourceRange& source = source_of(key.document);
  const size_t first = tokens.size();
  if (source.shards != nullptr) {
    const ShardDocument document = source.shards->document(key.document - source.begin);
    const auto plain = document.tokens.first(static_cast<size_t>(training_tokens(document)));
    // Only a document that is rearranged needs its text.
    const bool fills = source.fill_in_middle && encoder_.fills_in_middle(key);
    encoder_.encode(fills ? tokenizer_.decode(plain) : std::string(), plain, fills, key, tokens);
    labels.resize(tokens.size(), 1);
    return;
  }
  const Item& item = items_[static_cast<size_t>(source.first_item + key.document - source.begin)];
  if (item.is_text) {
    encoder_.encode(item.document.text, item.plain, source.fill_in_middle, key, tokens);
  } else {
    tokens.insert(tokens.end(), item.plain.begin(), item.plain.end());
  }
  labels.resize(tokens.size(), 1);
  if (!item.document.is_label.empty()) {
    std::copy(item.document.is_label.begin(), item.document.is_label.end(),
              labels.begin() + static_cast<std::ptrdiff_t>(first));
  }
}

void DocumentStore::append_held_out(int64_t max_tokens, std::vector<int32_t>& tokens,
                                    std::vector<uint8_t>& labels) const {
  for (const HeldOut& h : held_out_) {
    if (static_cast<int64_t>(tokens.size()) >= max_tokens) break;
    if (h.shards == nullptr) {
      tokens.insert(tokens.end(), h.tokens.begin(), h.tokens.end());
      labels.insert(labels.end(), h.is_label.begin(), h.is_label.end());
      continue;
    }
    const auto held = h.shards->document(h.document).tokens.subspan(static_cast<size_t>(h.begin));
    tokens.insert(tokens.end(), held.begin(), held.end());
    tokens.push_back(tokenizer_.special().eos);
    labels.resize(tokens.size(), 1);
  }
}

}  // namespace fathom
