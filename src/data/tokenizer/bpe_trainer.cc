#include "data/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <limits>
#include <queue>
#include <tuple>
#include <unordered_map>

#include "core/error.h"
#include "core/integer.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/huge_page_allocator.h"
#include "data/tokenizer/pair_map.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace fathom {
namespace {

const std::string kWhere = "tokenizer training";

// The text as words of token ids, and the counts of all neighbouring pairs kept up to date while
// merges are applied. A pair remembers the words where it has ever been: a merge visits only those.
class PairCounts {
 public:
  struct Candidate {
    int64_t count;
    TokenId left;
    TokenId right;
    // Less means worse: the order of the priority queue, and the tie rule.
    bool operator<(const Candidate& other) const {
      return std::tuple(count, other.left, other.right) < std::tuple(other.count, left, right);
    }
  };

  explicit PairCounts(std::span<const TokenId, 256> byte_tokens) : byte_tokens_(byte_tokens) {}

  // All pieces first; merging begins after start().
  void add_piece(std::string_view piece, int64_t count) {
    if (piece.size() < 2) return;
    const auto word = narrow<int32_t>(static_cast<int64_t>(words_.size()));
    words_.push_back(
        {static_cast<int64_t>(symbols_.size()), static_cast<int64_t>(piece.size()), count});
    for (const char c : piece) symbols_.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
    const TokenId* symbol = &symbols_[symbols_.size() - piece.size()];
    for (size_t i = 0; i + 1 < piece.size(); ++i) add(symbol[i], symbol[i + 1], count, word);
  }
  void start() {
    for (const uint64_t key : changed_) push(key);
    changed_.clear();
  }

  // The best pair with at least `min_count` occurrences; a count of 0 if there is none.
  Candidate pop_best(int64_t min_count) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const int64_t now = pairs_[pair_key(top.left, top.right)].count;
      if (now != top.count) {  // out of date: counts have sunk since
        if (now > 0 && now < top.count) queue_.push({now, top.left, top.right});
        continue;
      }
      if (now < min_count) break;
      return top;
    }
    return {0, kNoToken, kNoToken};
  }

  // Replaces the pair by `result` everywhere, in each word from the left.
  void merge(TokenId left, TokenId right, TokenId result) {
    const uint64_t key = pair_key(left, right);
    const std::vector<int32_t> words = std::move(pairs_[key].words);
    // The words lie anywhere in memory: they are asked for ahead, first where their symbols stand,
    // then the symbols.
    constexpr size_t kAhead = 16;
    for (size_t i = 0; i < words.size(); ++i) {
      if (i + 2 * kAhead < words.size())
        __builtin_prefetch(&words_[static_cast<size_t>(words[i + 2 * kAhead])]);
      if (i + kAhead < words.size()) {
        const Word& word = words_[static_cast<size_t>(words[i + kAhead])];
        __builtin_prefetch(&symbols_[static_cast<size_t>(word.begin)]);
      }
      merge_in_word(words[i], left, right, result);
    }
    pairs_[key].count = 0;
    for (const uint64_t changed : changed_) push(changed);
    changed_.clear();
  }

 private:
  struct Word {
    int64_t begin;  // in symbols_
    int64_t size;   // shrinks in place
    int64_t count;
  };
  struct Pair {
    int64_t count = 0;
    bool is_changed = false;  // listed in changed_
    std::vector<int32_t> words;
  };

  void add(TokenId left, TokenId right, int64_t count, int32_t word) {
    const uint64_t key = pair_key(left, right);
    Pair& pair = pairs_[key];
    pair.count += count;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    if (!pair.is_changed) changed_.push_back(key);
    pair.is_changed = true;
  }
  void subtract(TokenId left, TokenId right, int64_t count) {
    pairs_[pair_key(left, right)].count -= count;
  }
  void push(uint64_t key) {
    Pair& pair = pairs_[key];
    pair.is_changed = false;
    if (pair.count > 0)
      queue_.push(
          {pair.count, static_cast<TokenId>(key >> 32), static_cast<TokenId>(key & 0xFFFFFFFFu)});
  }

  void merge_in_word(int32_t word_idx, TokenId left, TokenId right, TokenId result) {
    Word& word = words_[static_cast<size_t>(word_idx)];
    TokenId* symbols = &symbols_[static_cast<size_t>(word.begin)];
    int64_t kept = 0;
    for (int64_t i = 0; i < word.size;) {
      if (i + 1 >= word.size || symbols[i] != left || symbols[i + 1] != right) {
        symbols[kept++] = symbols[i++];
        continue;
      }
      if (kept > 0) {
        subtract(symbols[kept - 1], left, word.count);
        add(symbols[kept - 1], result, word.count, word_idx);
      }
      if (i + 2 < word.size) {
        subtract(right, symbols[i + 2], word.count);
        add(result, symbols[i + 2], word.count, word_idx);
      }
      symbols[kept++] = result;
      i += 2;
    }
    word.size = kept;
  }

  std::span<const TokenId, 256> byte_tokens_;
  std::vector<Word, HugePageAllocator<Word>> words_;
  std::vector<TokenId, HugePageAllocator<TokenId>> symbols_;
  PairMap<Pair> pairs_;
  std::vector<uint64_t> changed_;  // pairs whose count has grown since they were last queued
  std::priority_queue<Candidate> queue_;
};

}  // namespace

struct BpeTrainer::Impl {
  Impl(BpeTrainConfig c, ThreadPool* threads)
      : config(std::move(c)),
        pre_tokenizer(config.split_patterns, kWhere),
        counter(pre_tokenizer, config.counting, threads) {
    const auto num_added = static_cast<int64_t>(config.added.size());
    if (config.vocab_size < 256 + num_added || config.vocab_size > INT32_MAX / 2) {
      throw_bad_input({kWhere, "vocab_size", fmt::format("{}", config.vocab_size),
                       fmt::format("256 bytes + {} special tokens or more, below 2^30", num_added),
                       ""});
    }
  }

  BpeTrainConfig config;
  PreTokenizer pre_tokenizer;
  PieceCounter counter;
  PieceCounter::Totals totals;
};

BpeTrainer::BpeTrainer(BpeTrainConfig config, ThreadPool* threads)
    : impl_(std::make_unique<Impl>(std::move(config), threads)) {}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::span<const std::string_view> documents) {
  impl_->counter.add(static_cast<int64_t>(documents.size()),
                     [&](int64_t i, std::string&) { return documents[static_cast<size_t>(i)]; });
}

void BpeTrainer::add(int64_t count,
                     const std::function<std::string_view(int64_t, std::string&)>& document) {
  impl_->counter.add(count, document);
}

const PieceCounter::Totals& BpeTrainer::totals() const { return impl_->totals; }

Tokenizer BpeTrainer::finish() {
  const BpeTrainConfig& config = impl_->config;
  const auto num_added = static_cast<int64_t>(config.added.size());
  TokenizerDefinition definition;
  definition.split_patterns = config.split_patterns;
  TokenId byte_tokens[256];
  for (const char byte : bytes_in_alphabet_order()) {
    byte_tokens[static_cast<uint8_t>(byte)] = static_cast<TokenId>(definition.tokens.size());
    definition.tokens.emplace_back(1, byte);
  }

  PairCounts pairs(byte_tokens);
  impl_->totals = impl_->counter.finish(
      [&](std::string_view piece, int64_t count) { pairs.add_piece(piece, count); });
  pairs.start();
  // Two different pairs may spell the same bytes: they share one token. So a merged pair can come
  // up again where such a token has appeared anew; it is then applied, but is no new merge.
  std::unordered_map<std::string, TokenId> id_of;
  PairMap<uint8_t> is_merge;
  while (static_cast<int64_t>(definition.tokens.size()) < config.vocab_size - num_added) {
    const auto best = pairs.pop_best(std::max<int64_t>(config.min_pair_count, 1));
    if (best.count == 0) break;
    std::string bytes = definition.tokens[static_cast<size_t>(best.left)] +
                        definition.tokens[static_cast<size_t>(best.right)];
    const auto [known, is_new] =
        id_of.emplace(std::move(bytes), static_cast<TokenId>(definition.tokens.size()));
    if (is_new) definition.tokens.push_back(known->first);
    if (!is_merge[pair_key(best.left, best.right)]++)
      definition.merges.push_back({best.left, best.right, known->second});
    pairs.merge(best.left, best.right, known->second);
  }
  for (AddedToken token : config.added) {
    token.id = static_cast<TokenId>(definition.tokens.size());
    definition.tokens.push_back(token.content);
    definition.added.push_back(std::move(token));
  }
  return Tokenizer(std::move(definition), kWhere);
}

Tokenizer train_bpe(std::span<const std::string_view> documents, const BpeTrainConfig& config,
                    ThreadPool* threads) {
  BpeTrainer trainer(config, threads);
  trainer.add(documents);
  return trainer.finish();
}

}  // namespace fathom
