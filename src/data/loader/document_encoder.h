// One document as training tokens: fill-in-the-middle in prefix-suffix-middle order (report
// section 4.1), and the random splitting of tokens that join punctuation and line breaks. Every
// draw is a function of (seed, epoch, document, copy, token): not of the order in which documents
// are encoded.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace fathom {

class DocumentEncoder {
 public:
  // An Error names the token that the vocabulary lacks: eos always, the FIM tokens when fim_rate >
  // 0.
  DocumentEncoder(Tokenizer tokenizer, double fim_rate, double split_rate, bool add_bos,
                  uint64_t seed);

  // Which draws a document gets.
  struct Key {
    uint64_t epoch = 0;
    int64_t document = 0;
    int64_t copy = 0;
  };
  bool fills_in_middle(const Key& key) const;
  // Appends [bos] tokens eos. `plain` are the tokens of `text`, used where the text is not
  // rearranged; `text` is read only where it is.
  void encode(std::string_view text, std::span<const TokenId> plain, bool may_fill_in_middle,
              const Key& key, std::vector<TokenId>& out) const;

  // Tokens of punctuation followed by line breaks and the parts that they split into.
  bool splits(TokenId id) const { return !parts_[static_cast<size_t>(id)].empty(); }

 private:
  Tokenizer tokenizer_;
  double fim_rate_, split_rate_;
  bool add_bos_;
  uint64_t seed_;
  std::vector<std::vector<TokenId>> parts_;  // by id; empty: never split
};

}  // namespace fathom
