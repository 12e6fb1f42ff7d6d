// Texts that contain a piece of an evaluation set: n-grams of 13 words (characters where a script
// has no spaces), in small letters and without punctuation, as hashes in memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/file.h"
#include "data/text/text_facts.h"

namespace fathom {

class Contamination {
 public:
  explicit Contamination(int64_t ngram_units) : ngram_units_(ngram_units) {}

  // Every string of a JSON or JSONL file (any key, any depth), or a text file as a whole; packed or
  // not. An Error names what cannot be read: an evaluation set that is half there protects nothing.
  void add_file(FileSystem& files, const std::string& path);
  void add_text(std::string_view text);

  // The place of the first shared n-gram, counted in units; -1: none.
  int64_t find(const TextFacts& facts) const;

  bool empty() const { return ngrams_.empty(); }
  int64_t num_texts() const { return num_texts_; }
  int64_t num_too_short() const { return num_too_short_; }  // texts without a single n-gram
  int64_t num_ngrams() const { return static_cast<int64_t>(ngrams_.size()); }

 private:
  template <typename F>
  void for_each_ngram(const TextFacts& facts, F&& visit) const;

  int64_t ngram_units_;
  int64_t num_texts_ = 0, num_too_short_ = 0;
  std::unordered_set<uint64_t> ngrams_;
  TextFacts facts_;
};

}  // namespace fathom
