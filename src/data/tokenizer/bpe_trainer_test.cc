#include "data/tokenizer/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "data/compress/gzip.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace fathom {
namespace {

using Merges = std::vector<std::pair<std::string, std::string>>;

Merges merges_of(const Tokenizer& tokenizer) {
  Merges merges;
  for (const BpeMerge& merge : tokenizer.definition().merges) {
    merges.emplace_back(tokenizer.token_bytes(merge.left), tokenizer.token_bytes(merge.right));
  }
  return merges;
}

std::string golden_file(const std::string& name) {
  return local_file_system().read_all(std::string(FATHOM_GOLDEN_DIR "/tokenizer/small/") + name);
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    lines.push_back(text.substr(0, newline));
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
  }
  return lines;
}

// `tokenizers` trained on the same lines learns the same merges in the same order.
TEST(BpeTrainer, LearnsWhatTokenizersLearns) {
  const std::string corpus = gunzip(golden_file("corpus.txt.gz"), "corpus", 1 << 24);
  const Tokenizer theirs = Tokenizer::from_json(golden_file("tokenizer.json"), "golden");
  BpeTrainConfig config;
  config.vocab_size = 1000;
  config.min_pair_count = 0;
  config.added = theirs.definition().added;
  const Tokenizer ours = train_bpe(lines_of(corpus), config);
  EXPECT_EQ(ours.vocab_size(), 1000);
  EXPECT_EQ(merges_of(ours).size(), 741u);
  EXPECT_EQ(merges_of(ours), merges_of(theirs));
}

// Training as it is defined: count all pairs afresh, merge the best, again and again.
Merges defined(const std::vector<std::string_view>& documents, const BpeTrainConfig& config,
               int64_t* num_ties) {
  const PreTokenizer pre_tokenizer(config.split_patterns, "test");
  std::vector<std::vector<TokenId>> words;
  std::vector<std::string> tokens;
  std::map<char, TokenId> byte_token;
  for (const char byte : bytes_in_alphabet_order()) {
    byte_token[byte] = static_cast<TokenId>(tokens.size());
    tokens.emplace_back(1, byte);
  }
  for (const std::string_view document : documents) {
    std::vector<int64_t> ends;
    pre_tokenizer.split(document, ends);
    int64_t begin = 0;
    for (const int64_t end : ends) {
      words.emplace_back();
      for (; begin < end; ++begin)
        words.back().push_back(byte_token[document[static_cast<size_t>(begin)]]);
    }
  }
  Merges merges;
  while (static_cast<int64_t>(tokens.size() + config.added.size()) < config.vocab_size) {
    std::map<std::pair<TokenId, TokenId>, int64_t>
        counts;  // sorted: the first of equal counts wins
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    auto best = counts.end();
    for (auto pair = counts.begin(); pair != counts.end(); ++pair) {
      if (best != counts.end() && pair->second == best->second) ++*num_ties;
      if (best == counts.end() || pair->second > best->second) best = pair;
    }
    if (best == counts.end() || best->second < config.min_pair_count) break;
    const auto [left, right] = best->first;
    merges.emplace_back(tokens[static_cast<size_t>(left)], tokens[static_cast<size_t>(right)]);
    const std::string bytes = merges.back().first + merges.back().second;
    const auto known = std::find(tokens.begin(), tokens.end(), bytes);
    const auto result = static_cast<TokenId>(known - tokens.begin());
    if (known == tokens.end()) tokens.push_back(bytes);
    for (auto& word : words) {
      std::vector<TokenId> merged;
      for (size_t i = 0; i < word.size(); ++i) {
        if (i + 1 < word.size() && word[i] == left && word[i + 1] == right) {
          merged.push_back(result);
          ++i;
        } else {
          merged.push_back(word[i]);
        }
      }
      word = merged;
    }
  }
  return merges;
}

TEST(BpeTrainer, IncrementalCountsFollowTheDefinition) {
  int64_t num_ties = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Random random(seed, RandomPurpose::kTest);
    uint64_t draw = 0;
    std::vector<std::string> texts(6);
    for (std::string& text : texts) {
      while (text.size() < 150) text += "aab b\nc"[random.below(draw++, 7)];
    }
    const std::vector<std::string_view> documents(texts.begin(), texts.end());
    BpeTrainConfig config;
    config.vocab_size = 276 + static_cast<int64_t>(seed);
    config.added.clear();
    if (seed % 2 == 0)
      config.split_patterns.clear();  // whole documents as pieces: long words, long runs
    EXPECT_EQ(merges_of(train_bpe(documents, config)), defined(documents, config, &num_ties))
        << seed;
  }
  EXPECT_GT(num_ties, 20) << "the tie rule was hardly tried";
}

TEST(BpeTrainer, SameVocabularyWithAnyThreadsAndOrder) {
  const std::string corpus = gunzip(golden_file("corpus.txt.gz"), "corpus", 1 << 24);
  std::vector<std::string_view> documents = lines_of(corpus);
  BpeTrainConfig config;
  config.vocab_size = 800;
  const std::string expected = tokenizer_json(train_bpe(documents, config).definition());
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool threads(num_threads);
    EXPECT_EQ(tokenizer_json(train_bpe(documents, config, &threads).definition()), expected)
        << num_threads;
  }
  std::reverse(documents.begin(), documents.end());
  EXPECT_EQ(tokenizer_json(train_bpe(documents, config).definition()), expected);
  documents.pop_back();
  documents.resize(documents.size() / 2);
  EXPECT_NE(tokenizer_json(train_bpe(documents, config).definition()), expected)
      << "the comparison can fail";
}

TEST(BpeTrainer, IdsAreBytesThenMergesThenSpecialTokens) {
  const std::string corpus = gunzip(golden_file("corpus.txt.gz"), "corpus", 1 << 24);
  const std::vector<std::string_view> whole = {corpus};
  const Tokenizer tokenizer = train_bpe(whole, {.vocab_size = 600});
  EXPECT_EQ(tokenizer.vocab_size(), 600);
  for (TokenId id = 0; id < 600; ++id) {
    EXPECT_EQ(tokenizer.token_bytes(id).size() == 1, id < 256);
    EXPECT_EQ(tokenizer.is_added(id), id >= 580);
  }
  EXPECT_EQ(tokenizer.special().bos, 580);
  EXPECT_EQ(tokenizer.special().tool_sep, 599);
  bool has_punctuation_newline = false;
  for (TokenId id = 256; id < 580; ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    has_punctuation_newline = has_punctuation_newline || bytes == ".\n" || bytes == ",\n";
    int64_t num_digits = 0;
    for (const char c : bytes) num_digits += c >= '0' && c <= '9';
    EXPECT_LE(num_digits, 3);
  }
  EXPECT_TRUE(has_punctuation_newline);
}

TEST(BpeTrainer, SmallAndEmptyTexts) {
  BpeTrainConfig config{.vocab_size = 300};
  EXPECT_EQ(train_bpe({}, config).vocab_size(), 276);
  const std::vector<std::string_view> tiny = {"", "a", "\xFF"};
  EXPECT_EQ(train_bpe(tiny, config).vocab_size(), 276);
  const std::vector<std::string_view> once = {"abc"};
  EXPECT_EQ(train_bpe(once, config).vocab_size(), 276) << "every pair occurs once";
  config.min_pair_count = 1;
  EXPECT_EQ(train_bpe(once, config).vocab_size(), 278);
  config.vocab_size = 275;
  EXPECT_THROW(train_bpe(once, config), Error);
}

}  // namespace
}  // namespace fathom
