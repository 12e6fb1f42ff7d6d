#include "data/loader/loader.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/random.h"
#include "data/loader/document_encoder.h"
#include "data/loader/packing.h"
#include "data/tokenizer/unicode.h"

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

}  // namespace

void visit_fields(SourceConfig& c, ConfigFields& f) {
  f.field("path", c.path, "a .txt or .jsonl file, or a folder of them");
  f.field("repeats", c.repeats, between(0, 4095), "how often each document is seen an epoch");
  f.field("fill_in_middle", c.fill_in_middle, "whether fim_rate applies to this source");
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
  struct Item {  // a training document
    Document document;
    std::vector<TokenId> plain;  // of the text; of token documents the tokens themselves
    bool is_text = false;
    bool fill_in_middle = false;
    double repeats = 1;
  };
  struct HeldOut {
    uint64_t hash;
    std::vector<TokenId> tokens;
    std::vector<uint8_t> is_label;
  };

  LoaderConfig config;
  uint64_t seed;
  int64_t context, row_length;
  Tokenizer tokenizer;
  DocumentEncoder encoder;
  std::vector<Item> items;
  std::vector<HeldOut> held_out;
  std::vector<SourceReport> reports;
  std::vector<int64_t> token_bytes;
  uint64_t fingerprint = 0;

  // The epoch that is laid out: rows of row_length tokens.
  int64_t epoch = -1;
  int64_t num_rows = 0;
  int64_t next_row = 0;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> is_label;
  std::vector<uint8_t> begins_document;

  Impl(Tokenizer tokenizer_in, const LoaderConfig& config_in, uint64_t seed_in, int64_t context_in,
       int64_t mtp_depth)
      : config(config_in),
        seed(seed_in),
        context(context_in),
        row_length(context_in + 1 + mtp_depth),
        tokenizer(tokenizer_in),
        encoder(std::move(tokenizer_in), config_in.fim_rate, config_in.split_rate,
                config_in.add_bos, seed_in) {}

  void add_source(Source source);
  void tokenize(ThreadPool* threads);
  void make_fingerprint(const std::vector<Source>& sources);
  void lay_out_epoch(int64_t wanted);
  void write_row(const PackedRow& row, const std::vector<int32_t>& stream,
                 const std::vector<uint8_t>& labels, const std::vector<int64_t>& item_begin);
  void copy_row(int64_t row, int64_t to, Batch& batch) const;
};

void Loader::Impl::add_source(Source source) {
  SourceReport report{.name = source.name};
  for (Document& document : source.documents) {
    const bool is_text = !document.text.empty();
    if (!is_text && document.tokens.empty()) continue;
    FATHOM_CHECK(document.is_label.empty() || document.is_label.size() == document.tokens.size(),
                 "{}: {} labels for {} tokens", source.name, document.is_label.size(),
                 document.tokens.size());
    ++report.num_documents;
    const uint64_t hash = hash_document(document, 0);
    // The choice depends on the content alone, so equal documents are not on both sides.
    const double chance = static_cast<double>(hash >> 11) * 0x1.0p-53;
    const auto bytes = static_cast<double>(document.text.size());
    if (config.held_out > 0 && bytes * config.held_out >= 4.0 * static_cast<double>(row_length)) {
      auto cut = static_cast<size_t>(bytes * (1 - config.held_out));
      while (cut > 0 && (static_cast<unsigned char>(document.text[cut]) & 0xC0) == 0x80) --cut;
      held_out.push_back({hash, tokenizer.encode(std::string_view(document.text).substr(cut)), {}});
      document.text.resize(cut);
    } else if (chance < config.held_out) {
      ++report.num_held_out;
      held_out.push_back({hash,
                          is_text ? tokenizer.encode(document.text) : std::move(document.tokens),
                          std::move(document.is_label)});
      continue;
    }
    if (is_text && document.text.empty()) continue;
    items.push_back({.document = std::move(document),
                     .is_text = is_text,
                     .fill_in_middle = is_text && source.fill_in_middle,
                     .repeats = source.repeats});
  }
  reports.push_back(std::move(report));
}

void Loader::Impl::tokenize(ThreadPool* threads) {
  const auto one = [this](int64_t i, int) {
    Item& item = items[static_cast<size_t>(i)];
    item.plain = item.is_text ? tokenizer.encode(item.document.text) : item.document.tokens;
  };
  const auto count = static_cast<int64_t>(items.size());
  if (threads != nullptr) {
    threads->parallel_for(count, one);
  } else {
    for (int64_t i = 0; i < count; ++i) one(i, 0);
  }
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    token_bytes.push_back(
        tokenizer.is_added(id) ? 0 : static_cast<int64_t>(tokenizer.token_bytes(id).size()));
  }
  for (HeldOut& h : held_out) {
    const bool is_text = h.is_label.empty();
    if (is_text) h.tokens.push_back(tokenizer.special().eos);
    h.is_label.resize(h.tokens.size(), 1);
  }
  std::stable_sort(held_out.begin(), held_out.end(),
                   [](const HeldOut& a, const HeldOut& b) { return a.hash < b.hash; });
}

void Loader::Impl::make_fingerprint(const std::vector<Source>& sources) {
  uint64_t hash = seed;
  const auto add = [&hash](auto value) { hash = hash_bytes(&value, sizeof value, hash); };
  for (const Source& source : sources) {
    add(source.repeats);
    add(source.fill_in_middle);
    for (const Document& document : source.documents) hash = hash_document(document, hash);
  }
  add(config.fim_rate), add(config.split_rate), add(config.shuffle_window), add(config.fill_rows);
  add(config.mask_documents), add(config.add_bos), add(config.held_out), add(context),
      add(row_length);
  for (const std::string& token : tokenizer.definition().tokens) hash = hash_text(token, hash);
  for (const BpeMerge& merge : tokenizer.definition().merges) add(merge.left), add(merge.right);
  fingerprint = hash;
}

void Loader::Impl::write_row(const PackedRow& row, const std::vector<int32_t>& stream,
                             const std::vector<uint8_t>& labels,
                             const std::vector<int64_t>& item_begin) {
  for (const Piece& piece : row) {
    const int64_t from = item_begin[static_cast<size_t>(piece.item)] + piece.begin;
    tokens.insert(tokens.end(), stream.begin() + from, stream.begin() + from + piece.count);
    is_label.insert(is_label.end(), labels.begin() + from, labels.begin() + from + piece.count);
    begins_document.push_back(1);
    begins_document.resize(tokens.size(), 0);
  }
  // Short rows are padded with text that does not count (an expert's load should be that of text),
  // or with eos where rows are of whole examples.
  const auto filled = static_cast<int64_t>(row_tokens(row));
  if (filled == row_length) return;
  begins_document.push_back(1);
  for (int64_t i = filled; i < row_length; ++i) {
    tokens.push_back(config.fill_rows ? stream[static_cast<size_t>(i - filled) % stream.size()]
                                      : tokenizer.special().eos);
    is_label.push_back(0);
  }
  begins_document.resize(tokens.size(), 0);
}

// Everything about an epoch follows from its number: which documents, their order, FIM and splits,
// rows.
void Loader::Impl::lay_out_epoch(int64_t wanted) {
  if (wanted == epoch) return;
  struct Copy {
    int64_t item, copy;
  };
  std::vector<Copy> order;
  const auto step = static_cast<uint64_t>(wanted);
  const Random mixture(seed, RandomPurpose::kMixture, step);
  for (int64_t i = 0; i < static_cast<int64_t>(items.size()); ++i) {
    const double repeats = items[static_cast<size_t>(i)].repeats;
    const auto whole = static_cast<int64_t>(std::floor(repeats));
    const int64_t copies =
        whole +
        (mixture.uniform(static_cast<uint64_t>(i)) < repeats - static_cast<double>(whole) ? 1 : 0);
    for (int64_t copy = 0; copy < copies; ++copy) order.push_back({i, copy});
  }
  const Random shuffle(seed, RandomPurpose::kShuffle, step);
  for (uint64_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[shuffle.below(i, i)]);

  tokens.clear();
  is_label.clear();
  begins_document.clear();
  std::vector<int32_t> stream;
  std::vector<uint8_t> labels;
  // The row that the last window left short goes into the next window, piece by piece.
  std::vector<int64_t> carried_counts;
  std::vector<int32_t> carried_stream;
  std::vector<uint8_t> carried_labels;
  uint64_t row_draw = uint64_t{1} << 40;
  for (size_t begin = 0; begin < order.size();) {
    const size_t end = std::min(order.size(), begin + static_cast<size_t>(config.shuffle_window));
    std::vector<int64_t> item_begin;
    std::vector<Piece> pieces;
    stream = carried_stream;
    labels = carried_labels;
    for (int64_t carried = 0; const int64_t count : carried_counts) {
      pieces.push_back({static_cast<int64_t>(item_begin.size()), 0, count});
      item_begin.push_back(carried);
      carried += count;
    }
    for (; begin < end; ++begin) {
      const Item& item = items[static_cast<size_t>(order[begin].item)];
      const auto first = static_cast<int64_t>(stream.size());
      if (item.is_text) {
        encoder.encode(item.document.text, item.plain, item.fill_in_middle,
                       {step, order[begin].item, order[begin].copy}, stream);
      } else {
        stream.insert(stream.end(), item.plain.begin(), item.plain.end());
      }
      labels.resize(stream.size(), 1);
      if (!item.document.is_label.empty())
        std::copy(item.document.is_label.begin(), item.document.is_label.end(),
                  labels.begin() + first);
      pieces.push_back({static_cast<int64_t>(item_begin.size()), 0,
                        static_cast<int64_t>(stream.size()) - first});
      item_begin.push_back(first);
    }
    std::vector<PackedRow> rows = pack_rows(pieces, row_length, config.fill_rows);
    carried_counts.clear();
    carried_stream.clear();
    carried_labels.clear();
    if (config.fill_rows && end < order.size() && !rows.empty() &&
        row_tokens(rows.back()) < row_length) {
      for (const Piece& piece : rows.back()) {
        const int64_t from = item_begin[static_cast<size_t>(piece.item)] + piece.begin;
        carried_counts.push_back(piece.count);
        carried_stream.insert(carried_stream.end(), stream.begin() + from,
                              stream.begin() + from + piece.count);
        carried_labels.insert(carried_labels.end(), labels.begin() + from,
                              labels.begin() + from + piece.count);
      }
      rows.pop_back();
    }
    for (uint64_t i = rows.size(); i > 1; --i)
      std::swap(rows[i - 1], rows[shuffle.below(row_draw++, i)]);
    for (const PackedRow& row : rows) write_row(row, stream, labels, item_begin);
  }
  num_rows = static_cast<int64_t>(tokens.size()) / row_length;
  FATHOM_CHECK_EQ(num_rows * row_length, static_cast<int64_t>(tokens.size()));
  if (config.mask_documents) {
    // The step into another document is no prediction, nor is any of a document that starts behind
    // the context.
    for (int64_t row = 0; row < num_rows; ++row) {
      bool behind = false;
      for (int64_t i = 0; i < row_length; ++i) {
        const auto t = static_cast<size_t>(row * row_length + i);
        behind = behind || (i >= context && begins_document[t] != 0);
        if (behind || begins_document[t] != 0) is_label[t] = 0;
      }
    }
  }
  epoch = wanted;
}

void Loader::Impl::copy_row(int64_t row, int64_t to, Batch& batch) const {
  const auto from = row * row_length;
  std::copy_n(tokens.begin() + from, row_length, batch.tokens.begin() + to * row_length);
  std::copy_n(is_label.begin() + from, row_length, batch.is_label.begin() + to * row_length);
  if (!config.mask_documents) return;
  int32_t begin = 0;
  for (int64_t i = 0; i < context; ++i) {
    if (begins_document[static_cast<size_t>(from + i)] != 0) begin = static_cast<int32_t>(i);
    batch.first_key[static_cast<size_t>(to * context + i)] = begin;
    batch.positions[static_cast<size_t>(to * context + i)] = static_cast<int32_t>(i) - begin;
  }
}

Loader::Loader(Tokenizer tokenizer, std::vector<Source> sources, const LoaderConfig& config,
               uint64_t seed, int64_t context, int64_t mtp_depth, ThreadPool* threads)
    : impl_(std::make_unique<Impl>(std::move(tokenizer), config, seed, context, mtp_depth)) {
  FATHOM_CHECK_GE(context, 1);
  FATHOM_CHECK_GE(mtp_depth, 0);
  impl_->make_fingerprint(sources);
  std::vector<size_t> source_end;
  for (Source& source : sources) {
    impl_->add_source(std::move(source));
    source_end.push_back(impl_->items.size());
  }
  impl_->tokenize(threads);
  size_t i = 0;
  for (size_t s = 0; s < source_end.size(); ++s) {
    for (; i < source_end[s]; ++i) {
      const Impl::Item& item = impl_->items[i];
      impl_->reports[s].num_tokens +=
          static_cast<int64_t>(item.plain.size()) + (item.is_text ? 1 : 0);
    }
  }
  impl_->lay_out_epoch(0);
  if (impl_->num_rows == 0) {
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

void Loader::next(int64_t num_rows, Batch& batch) {
  if (batch.tokens.size() < static_cast<size_t>(num_rows * impl_->row_length))
    reserve(batch, num_rows);
  batch.num_rows = num_rows;
  batch.begin = cursor();
  for (int64_t to = 0; to < num_rows; ++to) {
    if (impl_->next_row == impl_->num_rows) seek({impl_->epoch + 1, 0});
    impl_->copy_row(impl_->next_row++, to, batch);
  }
}

LoaderCursor Loader::cursor() const { return {impl_->epoch, impl_->next_row}; }

void Loader::seek(const LoaderCursor& cursor) {
  FATHOM_CHECK_GE(cursor.epoch, 0);
  impl_->lay_out_epoch(cursor.epoch);
  if (cursor.row < 0 || cursor.row > impl_->num_rows) {
    throw_bad_input({.where = "data cursor",
                     .field = "row",
                     .found = std::to_string(cursor.row),
                     .expected = fmt::format("at most {}, the rows of epoch {}", impl_->num_rows,
                                             cursor.epoch)});
  }
  // An epoch may be without rows (all repeats fractions, none drawn): the next one with rows
  // follows.
  impl_->next_row = cursor.row;
  for (int64_t tries = 0; impl_->num_rows == 0; ++tries) {
    FATHOM_CHECK_LT(tries, 1000, "no documents in 1000 epochs");
    impl_->lay_out_epoch(impl_->epoch + 1);
    impl_->next_row = 0;
  }
}

int64_t Loader::rows_in_epoch() { return impl_->num_rows; }

Batch Loader::held_out_rows(int64_t max_rows) const {
  Batch batch;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> labels;
  for (const Impl::HeldOut& h : impl_->held_out) {
    if (static_cast<int64_t>(tokens.size()) >= max_rows * impl_->row_length) break;
    tokens.insert(tokens.end(), h.tokens.begin(), h.tokens.end());
    labels.insert(labels.end(), h.is_label.begin(), h.is_label.end());
  }
  const int64_t R = impl_->row_length;
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t rows = std::min(max_rows, count >= R ? count / R : (count > 0 ? 1 : 0));
  tokens.resize(static_cast<size_t>(rows * R), impl_->tokenizer.special().eos);
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

const std::vector<SourceReport>& Loader::reports() const { return impl_->reports; }
uint64_t Loader::fingerprint() const { return impl_->fingerprint; }
const Tokenizer& Loader::tokenizer() const { return impl_->tokenizer; }

}  // namespace fathom
