#include "data/loader/loader.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "data/loader/document_store.h"
#include "data/loader/epoch_layout.h"

namespace fathom {

void visit_fields(SourceConfig& c, ConfigFields& f) {
  f.field("path", c.path, "a .txt or .jsonl file, a folder of them, or a folder of token shards");
  f.field("repeats", c.repeats, between(0, 4095), "how often each document is seen an epoch");
  f.field("fill_in_middle", c.fill_in_middle, "whether fim_rate applies to this source");
  f.json("weights", c.weights,
         "of token shards: how often documents of a label are seen, times repeats and the shards' "
         "own weights: {code = 2, zh = 0.5}");
}

void visit_fields(LoaderConfig& c, ConfigFields& f) {
  f.field("fim_rate", c.fim_rate, between(0, 1),
          "share of documents in prefix-suffix-middle order");
  f.field("split_rate", c.split_rate, between(0, 1),
          "share of punctuation-and-newline tokens that are split");
  f.field("shuffle_window", c.shuffle_window, at_least(1), "documents that are packed together");
  f.field("fill_rows", c.fill_rows, "cut documents to fill rows; false: pad rows");
  f.field("mask_documents", c.mask_documents, "a document sees only itself");
  f.field("add_bos", c.add_bos, "documents begin with the begin-of-sentence token");
  f.field("held_out", c.held_out, between(0, 0.5), "share of the text kept for evaluation");
}

struct Loader::Impl {
  LoaderConfig config;
  int64_t context, row_length;
  DocumentStore documents;
  EpochLayout layout;
  int64_t next_row = 0;
  std::vector<int64_t> token_bytes;
  uint64_t fingerprint = 0;

  Impl(Tokenizer tokenizer, const LoaderConfig& config_in, uint64_t seed, int64_t context_in,
       int64_t mtp_depth)
      : config(config_in),
        context(context_in),
        row_length(context_in + 1 + mtp_depth),
        documents(std::move(tokenizer), config_in, seed, row_length),
        layout(documents, config, seed, context, row_length) {}

  void make_fingerprint(const std::vector<Source>& sources, uint64_t seed);
  void begin_epoch_with_rows(int64_t epoch);
};

void Loader::Impl::make_fingerprint(const std::vector<Source>& sources, uint64_t seed) {
  uint64_t hash = hash_sources(sources, seed);
  const auto add = [&hash](auto value) { hash = XXH3_64bits_withSeed(&value, sizeof value, hash); };
  add(config.fim_rate), add(config.split_rate), add(config.shuffle_window), add(config.fill_rows);
  add(config.mask_documents), add(config.add_bos), add(config.held_out), add(context),
      add(row_length);
  const TokenizerDefinition& definition = documents.tokenizer().definition();
  for (const std::string& token : definition.tokens)
    hash = XXH3_64bits_withSeed(token.data(), token.size(), hash);
  for (const BpeMerge& merge : definition.merges) add(merge.left), add(merge.right);
  fingerprint = hash;
}

// This epoch, or the first behind it that has rows: with repeats below 1 one may have none.
void Loader::Impl::begin_epoch_with_rows(int64_t epoch) {
  next_row = 0;
  for (int64_t tries = 0;; ++tries) {
    FATHOM_CHECK_LT(tries, 1000, "no documents in 1000 epochs");
    layout.begin(epoch + tries);
    while (layout.end_row() == 0 && layout.advance()) {
    }
    if (layout.end_row() > 0) return;
  }
}

Loader::Loader(Tokenizer tokenizer, std::vector<Source> sources, const LoaderConfig& config,
               uint64_t seed, int64_t context, int64_t mtp_depth, ThreadPool* threads)
    : impl_(std::make_unique<Impl>(std::move(tokenizer), config, seed, context, mtp_depth)) {
  FATHOM_CHECK_GE(context, 1);
  FATHOM_CHECK_GE(mtp_depth, 0);
  impl_->make_fingerprint(sources, seed);
  for (Source& source : sources) impl_->documents.add(std::move(source));
  impl_->documents.tokenize(threads);
  for (TokenId id = 0; id < this->tokenizer().vocab_size(); ++id) {
    impl_->token_bytes.push_back(
        this->tokenizer().is_added(id)
            ? 0
            : static_cast<int64_t>(this->tokenizer().token_bytes(id).size()));
  }
  impl_->layout.begin(0);
  while (impl_->layout.end_row() == 0 && impl_->layout.advance()) {
  }
  if (impl_->layout.end_row() == 0) {
    throw_bad_input(
        {.where = "data", .found = "no documents to train on", .expected = "at least one"});
  }
}

Loader::~Loader() = default;
Loader::Loader(Loader&&) noexcept = default;
Loader& Loader::operator=(Loader&&) noexcept = default;

void Loader::reserve(Batch& batch, int64_t max_rows) const {
  batch.context = impl_->context;
  batch.row_length = impl_->row_length;
  batch.masked = impl_->config.mask_documents;
  batch.tokens.resize(static_cast<size_t>(max_rows * batch.row_length));
  batch.is_label.resize(static_cast<size_t>(max_rows * batch.row_length));
  if (batch.masked) {
    batch.first_key.resize(static_cast<size_t>(max_rows * batch.context));
    batch.positions.resize(static_cast<size_t>(max_rows * batch.context));
  }
}

void Loader::next(int64_t num_rows, Batch& batch, const RankShare& share) {
  FATHOM_CHECK(share.rank >= 0 && share.rank < share.num_ranks, "rank {} of {}", share.rank,
               share.num_ranks);
  const int64_t begin = num_rows * share.rank / share.num_ranks;
  const int64_t end = num_rows * (share.rank + 1) / share.num_ranks;
  if (batch.tokens.size() < static_cast<size_t>((end - begin) * impl_->row_length))
    reserve(batch, end - begin);
  batch.num_rows = end - begin;
  batch.epoch = impl_->layout.epoch();
  batch.first_row = impl_->next_row;
  for (int64_t row = 0; row < num_rows; ++row) {
    while (impl_->next_row == impl_->layout.end_row()) {
      if (!impl_->layout.advance()) impl_->begin_epoch_with_rows(impl_->layout.epoch() + 1);
    }
    if (row >= begin && row < end) impl_->layout.copy_row(impl_->next_row, row - begin, batch);
    ++impl_->next_row;
  }
}

LoaderCursor Loader::cursor() const {
  return {impl_->layout.epoch(), impl_->next_row, impl_->layout.start()};
}

void Loader::seek(const LoaderCursor& cursor) {
  FATHOM_CHECK_GE(cursor.epoch, 0);
  EpochLayout& layout = impl_->layout;
  if (cursor.window) {
    layout.begin_at(cursor.epoch, *cursor.window);
  } else {
    layout.begin(cursor.epoch);
    while (cursor.row > layout.end_row() && layout.advance()) {
    }
  }
  if (cursor.row < layout.first_row() || cursor.row > layout.end_row()) {
    throw_bad_input({.where = "data cursor",
                     .field = "row",
                     .found = std::to_string(cursor.row),
                     .expected = fmt::format("{} to {}, rows of epoch {}", layout.first_row(),
                                             layout.end_row(), cursor.epoch)});
  }
  impl_->next_row = cursor.row;
  if (cursor.row == 0 && layout.end_row() == 0) {
    while (layout.end_row() == 0 && layout.advance()) {
    }
    if (layout.end_row() == 0) impl_->begin_epoch_with_rows(cursor.epoch + 1);
  }
}

int64_t Loader::rows_in_epoch() {
  const LoaderCursor here = cursor();
  while (impl_->layout.advance()) {
  }
  const int64_t rows = impl_->layout.end_row();
  seek(here);
  return rows;
}

Batch Loader::held_out_rows(int64_t max_rows) const {
  Batch batch;
  const int64_t R = impl_->row_length;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> labels;
  impl_->documents.append_held_out(max_rows * R, tokens, labels);
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t rows = std::min(max_rows, count >= R ? count / R : (count > 0 ? 1 : 0));
  tokens.resize(static_cast<size_t>(rows * R), tokenizer().special().eos);
  labels.resize(static_cast<size_t>(rows * R), 0);
  batch.num_rows = rows;
  batch.context = impl_->context;
  batch.row_length = R;
  batch.tokens = std::move(tokens);
  batch.is_label = std::move(labels);
  return batch;
}

int64_t Loader::label_bytes(const Batch& batch) const {
  int64_t bytes = 0;
  for (int64_t row = 0; row < batch.num_rows; ++row) {
    for (int64_t i = 1; i <= batch.context; ++i) {
      const auto t = static_cast<size_t>(row * batch.row_length + i);
      if (batch.is_label[t] != 0) bytes += impl_->token_bytes[static_cast<size_t>(batch.tokens[t])];
    }
  }
  return bytes;
}

const std::vector<SourceReport>& Loader::reports() const { return impl_->documents.reports(); }
uint64_t Loader::fingerprint() const { return impl_->fingerprint; }
const Tokenizer& Loader::tokenizer() const { return impl_->documents.tokenizer(); }

}  // namespace fathom
