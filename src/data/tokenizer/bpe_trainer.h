// Learns a byte-level BPE vocabulary from documents. The result is a function of the set of
// documents and the configuration alone: never of the number of threads, nor of the documents'
// order.
//
// Ids: the 256 bytes (in the order of byte_alphabet.h, as in DeepSeek's and GPT-2's files), then
// the token of each merge in the order learnt, then the special tokens as added tokens. Each step
// merges the pair with the highest count; of equal counts the one with the smallest left id, then
// the smallest right id. This is `tokenizers`' own order, so both learn the same merges from the
// same text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/piece_counter.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/thread_pool.h"

namespace fathom {

struct BpeTrainConfig {
  int64_t vocab_size =
      4096;  // special tokens included; fewer come out when the text has no more pairs
  int64_t min_pair_count = 2;
  std::vector<std::string> split_patterns = deepseek_split_patterns();
  // Appended in this order; the default is the list of special_token_names().
  std::vector<AddedToken> added = default_added_tokens();

  // By default everything is counted in memory.
  PieceCounterConfig counting = {};

  static std::vector<AddedToken> default_added_tokens();
};

// For texts larger than the memory: documents come a part at a time.
class BpeTrainer {
 public:
  // `threads` may be null: one thread.
  explicit BpeTrainer(BpeTrainConfig config, ThreadPool* threads = nullptr);
  ~BpeTrainer();
  void add(std::span<const std::string_view> documents);
  // document(i, buffer) for i in [0, count), over the threads: see PieceCounter::add.
  void add(int64_t count,
           const std::function<std::string_view(int64_t i, std::string& buffer)>& document);
  // Once, after all documents.
  Tokenizer finish();
  // What was counted; after finish().
  const PieceCounter::Totals& totals() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// `threads` may be null: one thread.
Tokenizer train_bpe(std::span<const std::string_view> documents, const BpeTrainConfig& config,
                    ThreadPool* threads = nullptr);

}  // namespace fathom
