#include "data/text/duplicates.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "data/text/contamination.h"
#include "data/text/minhash.h"
#include "data/text/text_facts.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

std::vector<uint64_t> shingles_of(const std::string& text, int64_t units = 3) {
  TextFacts facts;
  find_facts(text, facts);
  std::vector<uint64_t> shingles;
  for (int64_t i = 0; i + units <= static_cast<int64_t>(facts.units.size()); ++i)
    shingles.push_back(shingle_hash(facts, i, units));
  return shingles;
}

Signature signature_of(const std::string& text, IsaLevel level = IsaLevel::kReference) {
  Signature signature = empty_signature();
  fold_shingles(shingles_of(text), signature, level);
  return signature;
}

double jaccard(const std::string& a, const std::string& b) {
  const std::vector<uint64_t> x = shingles_of(a), y = shingles_of(b);
  const std::set<uint64_t> p(x.begin(), x.end()), q(y.begin(), y.end());
  int64_t common = 0;
  for (const uint64_t s : p) common += q.contains(s) ? 1 : 0;
  return static_cast<double>(common) / static_cast<double>(p.size() + q.size() - common);
}

// `text` with about this share of its words replaced by words that stand nowhere else.
std::string changed(const std::string& text, double share, uint64_t seed) {
  const Random random(seed, RandomPurpose::kTest, 7);
  std::string out, word;
  uint64_t draw = 0;
  const auto end_word = [&] {
    if (!word.empty()) {
      const uint64_t d = draw++;
      out += random.uniform(2 * d) < share ? fmt::format("q{}x", random.below(2 * d + 1, 1u << 30))
                                           : word;
    }
    word.clear();
  };
  for (const char c : text) {
    if (c == ' ' || c == '\n' || c == '.') {
      end_word();
      out += c;
    } else {
      word += c;
    }
  }
  end_word();
  return out;
}

TEST(MinhashTest, EstimatesTheShareOfCommonShingles) {
  // The estimate is a binomial share of 128: 5 sigma around the exact value, whatever that is.
  int far = 0;
  for (uint64_t i = 0; i < 60; ++i) {
    const std::string a = invented_text(i, 150), b = changed(a, 0.01 * static_cast<double>(i), i);
    const double exact = jaccard(a, b);
    const double estimate =
        static_cast<double>(equal_places(signature_of(a).data(), signature_of(b).data())) / 128;
    const double sigma = std::sqrt(exact * (1 - exact) / 128);
    EXPECT_NEAR(estimate, exact, 5 * sigma + 1e-9) << "pair " << i;
    far += std::abs(estimate - exact) > 2 * sigma ? 1 : 0;
  }
  EXPECT_LE(far, 10);  // 5 % of 60 lie beyond two sigma; beyond 10 the hashes are no good
}

TEST(MinhashTest, EveryLevelGivesTheSameBits) {
  for (const int64_t words : {3, 4, 10, 333}) {
    const std::string text = invented_text(5, words);
    for (const IsaLevel level : supported_isa_levels())
      EXPECT_EQ(signature_of(text, level), signature_of(text)) << isa_name(level);
  }
}

struct Corpus {
  std::vector<std::string> texts;
  std::vector<Signature> signatures;
  void add(const std::string& text) {
    texts.push_back(text);
    signatures.push_back(signature_of(text));
  }
  std::vector<Duplicate> duplicates(const DuplicateConfig& config, int64_t memory, int threads,
                                    DuplicateReport& report) const {
    ThreadPool pool(threads);
    return find_duplicates(
        {.num_documents = static_cast<int64_t>(texts.size()),
         .text_hash =
             [&](int64_t i) {
               const auto& text = texts[static_cast<size_t>(i)];
               return std::array{unit_hash(text), unit_hash(text + "2")};
             },
         .signature = [&](int64_t i) { return signatures[static_cast<size_t>(i)].data(); }},
        config, memory, pool, {}, report);
  }
};

// SYSTEMS row 27: at least 95 % of planted near and all exact copies go, none of 1,000 planted
// pairs of different documents. Pairs share a third of their text (a common passage), copies have
// 5 % of their words changed.
TEST(DuplicatesTest, PlantedCopiesGoAndDistinctPairsStay) {
  Corpus corpus;
  for (uint64_t i = 0; i < 1000; ++i) {
    const std::string passage = invented_text(10'000 + i, 50);
    corpus.add(invented_text(i, 100) + "\n" + passage);
    corpus.add(passage + "\n" + invented_text(20'000 + i, 100));
  }
  const size_t distinct = corpus.texts.size();
  for (size_t i = 0; i < 300; ++i) corpus.add(corpus.texts[i * 3]);
  const size_t exact_end = corpus.texts.size();
  for (size_t i = 0; i < 1000; ++i) corpus.add(changed(corpus.texts[i * 2], 0.05, i));
  DuplicateReport report;
  const std::vector<Duplicate> found = corpus.duplicates({}, 1 << 30, 2, report);
  int64_t wrongly = 0, exact = 0, near = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (i < distinct) {
      wrongly += found[i] != Duplicate::kNo ? 1 : 0;
    } else if (i < exact_end) {
      exact += found[i] == Duplicate::kExact ? 1 : 0;
    } else {
      near += found[i] == Duplicate::kNear ? 1 : 0;
    }
  }
  EXPECT_EQ(wrongly, 0);
  EXPECT_EQ(exact, 300);
  EXPECT_GE(near, 950);
  std::printf("[ PLANTED  ] %lld of 300 exact, %lld of 1000 near, %lld of 1000 distinct pairs\n",
              static_cast<long long>(exact), static_cast<long long>(near),
              static_cast<long long>(wrongly));

  // Negative control: with a threshold above what was changed, copies stay.
  const std::vector<Duplicate> strict = corpus.duplicates({.threshold = 0.98}, 1 << 30, 2, report);
  EXPECT_LT(std::count(strict.begin(), strict.end(), Duplicate::kNear), 100);
}

TEST(DuplicatesTest, MemoryAndThreadsDoNotChangeTheResult) {
  Corpus corpus;
  for (uint64_t i = 0; i < 400; ++i) {
    corpus.add(invented_text(i % 150, 60));
    corpus.add(changed(invented_text(i % 90, 60), 0.08, i));
  }
  DuplicateReport report;
  const std::vector<Duplicate> expected = corpus.duplicates({}, 1 << 30, 1, report);
  EXPECT_LE(report.peak_bytes, 800 * 24);
  const int64_t passes = report.num_passes;
  for (const int64_t memory : {1000, 5000}) {
    for (const int threads : {1, 3}) {
      EXPECT_EQ(corpus.duplicates({}, memory, threads, report), expected);
      EXPECT_GT(report.num_passes, passes);
      EXPECT_LE(report.peak_bytes, memory);
    }
  }
  EXPECT_GT(std::count(expected.begin(), expected.end(), Duplicate::kNear), 50);
  const auto off = corpus.duplicates({.exact = false, .near = false}, 1000, 2, report);
  EXPECT_EQ(std::count(off.begin(), off.end(), Duplicate::kNo), 800);
}

// SYSTEMS row 129.
TEST(ContaminationTest, FlagsAPlantedItemHoweverItIsWritten) {
  const TextFolder folder("contamination");
  const std::string question = invented_text(77, 30);
  Contamination contamination(13);
  std::string quoted = json_text(question);  // {"text": …} and a line end
  quoted.pop_back();
  contamination.add_file(
      local_file_system(),
      folder.write("eval.jsonl", "{\"id\": 7, \"q\": [\"too short\", [" + quoted + "]]}\n"));
  EXPECT_EQ(contamination.num_texts(), 2);
  EXPECT_EQ(contamination.num_too_short(), 1);
  const auto find = [&](const std::string& text) {
    TextFacts facts;
    find_facts(text, facts);
    return contamination.find(facts);
  };
  const std::string before = invented_text(1, 40), behind = invented_text(2, 40);
  EXPECT_EQ(find(before + " " + question + " " + behind), 40);
  std::string shouted = question;
  for (char& c : shouted) c = c == ' ' ? '-' : static_cast<char>(std::toupper(c));
  EXPECT_EQ(find(before + "\n" + shouted), 40);
  // Thirteen words are enough, twelve are not.
  std::string words = question.substr(0, question.find('.'));  // its first 12
  EXPECT_EQ(find(before + " " + words), -1);
  const size_t next = question.find(' ', question.find('.') + 2);
  EXPECT_EQ(find(before + " " + question.substr(0, next)), 40);
  EXPECT_EQ(find(before + behind), -1);
  Contamination characters(13);
  characters.add_text("人人生而自由在尊严和权利上一律平等");
  TextFacts facts;
  find_facts("他说：“人人生而自由，在尊严和权利上一律平等。”", facts);
  EXPECT_EQ(characters.find(facts), 2);
  EXPECT_THROW(contamination.add_file(local_file_system(), folder.write("bad.json", "{")), Error);
}

}  // namespace
}  // namespace fathom
