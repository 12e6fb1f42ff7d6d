// The documents of a loader under one numbering, source by source: texts held in memory, tokens
// held in memory, and documents of token shards, which stay on disk and are mapped. Says which are
// kept for evaluation and gives any document as training tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "data/loader/document_encoder.h"
#include "data/loader/loader.h"

namespace fathom {

class DocumentStore {
 public:
  DocumentStore(Tokenizer tokenizer, const LoaderConfig& config, uint64_t seed, int64_t row_length);
  void add(Source source);
  // After the last source: texts become tokens.
  void tokenize(ThreadPool* threads);

  int64_t num_documents() const { return num_documents_; }
  // How often it is to be seen an epoch; 0 if it is kept for evaluation.
  double repeats(int64_t document) const;
  // Appends the document's training tokens, and as many labels.
  void append(const DocumentEncoder::Key& key, std::vector<int32_t>& tokens,
              std::vector<uint8_t>& labels) const;

  // Documents (or their ends) kept for evaluation, in an order that follows from their content;
  // stops behind `max_tokens`.
  void append_held_out(int64_t max_tokens, std::vector<int32_t>& tokens,
                       std::vector<uint8_t>& labels) const;

  const std::vector<SourceReport>& reports() const { return reports_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  struct Item {  // a training document in memory
    Document document;
    std::vector<TokenId> plain;  // of the text; of token documents the tokens themselves
    bool is_text = false;
  };
  struct SourceRange {
    int64_t begin = 0;  // of its documents
    int64_t first_item = 0;
    double repeats = 1;
    bool fill_in_middle = true;
    std::shared_ptr<const ShardSet> shards;
    std::map<std::string, double> weights;
  };
  struct HeldOut {
    uint64_t hash = 0;
    std::vector<TokenId> tokens;
    std::vector<uint8_t> is_label;
    // Or tokens from `begin` on of a document of a shard.
    const ShardSet* shards = nullptr;
    int64_t document = 0, begin = 0;
  };

  const SourceRange& source_of(int64_t document) const;
  void add_texts(Source& source, SourceReport& report);
  void add_shards(const SourceRange& range, SourceReport& report);
  double shard_repeats(const SourceRange& range, const Label& label) const;
  // Where a long document's part for evaluation begins; its size if none.
  int64_t training_tokens(const ShardDocument& document) const;
  bool is_held_out(uint64_t hash) const;

  LoaderConfig config_;
  int64_t row_length_;
  Tokenizer tokenizer_;
  DocumentEncoder encoder_;
  std::vector<SourceRange> sources_;
  std::vector<Item> items_;
  std::vector<HeldOut> held_out_;
  std::vector<SourceReport> reports_;
  int64_t num_documents_ = 0;
};

// Of what the sources hold and how it is served.
uint64_t hash_sources(const std::vector<Source>& sources, uint64_t seed);

}  // namespace fathom
