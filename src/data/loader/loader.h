// Documents -> packed rows of tokens (report section 4.1; SPEC C.12): fill-in-the-middle and random
// token splitting per document, best-fit-decreasing packing within a shuffle window, rows in random
// order. An epoch is a pure function of (documents, configuration, seed, epoch number): the cursor
// is just (epoch, row), and continuing from one gives what an uninterrupted run would have given,
// on any number of ranks.
//
// Each token is trained on once an epoch. Documents end with eos; those longer than a row are
// split, and so are some short ones so that rows have no padding (fill_rows). The one row of an
// epoch that stays short is topped up with text that does not count as labels. Sources are texts,
// which this holds in memory, or token shards, which it maps; of rows it holds a shuffle window.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/text/shards.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/thread_pool.h"

namespace fathom {

struct SourceConfig {
  std::string path;  // a .txt or .jsonl file, a folder of them, or a folder of token shards
  double repeats =
      1;  // how often each document is seen an epoch; a fraction is a share of documents
  bool fill_in_middle = true;  // whether fim_rate applies
  std::string weights;         // of token shards: JSON object, factors on repeats by label
};

struct LoaderConfig {
  double fim_rate = 0.1;          // share of documents turned into prefix-suffix-middle order
  double split_rate = 0.1;        // share of punctuation+newline tokens that are split in two
  int64_t shuffle_window = 4096;  // documents packed together
  bool fill_rows = true;        // split documents to fill rows; false: pad (rows of whole examples)
  bool mask_documents = false;  // a document sees only itself, and its positions start at 0
  bool add_bos = false;         // documents begin with bos
  double held_out = 0;          // share of documents kept for evaluation
};
void visit_fields(SourceConfig& c, ConfigFields& f);
void visit_fields(LoaderConfig& c, ConfigFields& f);

// One document: text (tokenised here, FIM may apply), or tokens ready as they are, with a loss
// mask.
struct Document {
  std::string text;
  std::vector<TokenId> tokens;    // used when text is empty; no eos is added
  std::vector<uint8_t> is_label;  // as long as tokens, or empty: all count
};

struct Source {
  std::string name;
  double repeats = 1;
  bool fill_in_middle = true;
  std::vector<Document> documents;
  // Or these, without documents of its own. Their documents are repeated as often as `repeats`, the
  // weights of the shards and these say, multiplied.
  std::shared_ptr<const ShardSet> shards;
  std::map<std::string, double> weights;  // by language or kind
};

// What one shuffle window needs of those before it.
struct WindowStart {
  int64_t position = 0;   // of its first document in the epoch's order
  int64_t first_row = 0;  // of the epoch
  int64_t num_draws = 0;  // of the epoch's row shuffles before it
  // What the window before left over: tokens [begin, begin + count) of the document at a position.
  struct Carried {
    int64_t position = 0, begin = 0, count = 0;
    bool operator==(const Carried&) const = default;
  };
  std::vector<Carried> carried;
  bool operator==(const WindowStart&) const = default;
};

// (epoch, row) says everything; the window of that row only saves laying out those before it.
struct LoaderCursor {
  int64_t epoch = 0;
  int64_t row = 0;  // the next row of the epoch
  std::optional<WindowStart> window = std::nullopt;
  bool operator==(const LoaderCursor& other) const {
    return epoch == other.epoch && row == other.row;
  }
};

// Which of the rows of a step a rank takes: the rank-th of num_ranks even parts, in order. All
// ranks ask for the same rows, so the position is that of the whole run, whatever the number of
// ranks.
struct RankShare {
  int64_t rank = 0;
  int64_t num_ranks = 1;
};

// The rows of one step. Buffers are allocated once for the largest.
struct Batch {
  int64_t num_rows = 0;
  int64_t context = 0;
  int64_t row_length = 0;
  std::vector<int32_t> tokens;     // [rows, row_length]
  std::vector<uint8_t> is_label;   // [rows, row_length]
  std::vector<int32_t> first_key;  // [rows, context]; used when masked
  std::vector<int32_t> positions;  // [rows, context]; used when masked
  bool masked = false;
  int64_t epoch = 0, first_row = 0;  // of the step's first row
};

struct SourceReport {
  std::string name;
  int64_t num_documents = 0;
  int64_t num_held_out = 0;
  int64_t num_tokens = 0;  // an epoch's worth before repeats, without held-out documents
};

class Loader {
 public:
  // Rows have context + 1 + mtp_depth tokens. Needs eos (and the FIM tokens where fim_rate > 0) in
  // the vocabulary. Errors name the source. Texts are tokenised here, on `threads` if given.
  Loader(Tokenizer tokenizer, std::vector<Source> sources, const LoaderConfig& config,
         uint64_t seed, int64_t context, int64_t mtp_depth, ThreadPool* threads = nullptr);
  ~Loader();
  Loader(Loader&&) noexcept;
  Loader& operator=(Loader&&) noexcept;

  // Room for this many rows in `batch`.
  void reserve(Batch& batch, int64_t max_rows) const;
  // The next rows of all ranks, crossing into the next epoch where this one ends; `batch` gets
  // those of one. Allocates only when a shuffle window begins.
  void next(int64_t num_rows, Batch& batch, const RankShare& share = {});
  LoaderCursor cursor() const;
  void seek(const LoaderCursor& cursor);
  // Lays out the rest of the epoch to count its rows.
  int64_t rows_in_epoch();
  // The held-out documents as rows (no FIM, no splitting), mixed over the sources and always the
  // same, whatever the seed; at most max_rows. Short documents are held out whole, long ones by
  // their end.
  Batch held_out_rows(int64_t max_rows) const;

  // Bytes of text that the labels of positions [0, context) of the batch stand for.
  int64_t label_bytes(const Batch& batch) const;
  const std::vector<SourceReport>& reports() const;
  // Of documents, tokenizer, configuration and seed: a run resumes only on the data that it began
  // on.
  uint64_t fingerprint() const;
  const Tokenizer& tokenizer() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
