// The text that the repository ships for the demo: readable, clean, small, with its sources named,
// and without the answers to the demo's test.
#include <map>
#include <set>

#include "core/file.h"
#include "core/json.h"
#include "data/loader/corpus.h"
#include "data/tasks/world.h"

namespace fathom {
namespace {

const std::string kFolder = FATHOM_SOURCE_DIR "/data/demo";

// "12 + 34" and "12 plus 34": the addends, if the text at `at` begins such a sum of two-digit
// numbers.
bool two_digit_sum_at(const std::string& text, size_t at) {
  const auto digit = [&](size_t i) { return i < text.size() && text[i] >= '0' && text[i] <= '9'; };
  if (!digit(at) || !digit(at + 1)) return false;
  size_t i = at + 2;
  while (i < text.size() && text[i] == ' ') ++i;
  if (text.compare(i, 1, "+") == 0) {
    i += 1;
  } else if (text.compare(i, 4, "plus") == 0) {
    i += 4;
  } else {
    return false;
  }
  while (i < text.size() && text[i] == ' ') ++i;
  return digit(i) && digit(i + 1);
}
bool holds_two_digit_sum(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (two_digit_sum_at(text, i)) return true;
  }
  return false;
}

TEST(DemoData, IsSmallCleanAndHasItsSourcesNamed) {
  FileSystem& files = local_file_system();
  const std::string readme = files.read_all(kFolder + "/README.md");
  int64_t bytes_on_disk = 0;
  for (const std::string name : {"english.jsonl", "chinese.jsonl", "code.jsonl"}) {
    EXPECT_NE(readme.find("`" + name + "`"), std::string::npos) << name;
    const std::string contents = files.read_all(kFolder + "/" + name);
    bytes_on_disk += static_cast<int64_t>(contents.size());
    for (size_t begin = 0; begin < contents.size();) {
      const size_t end = contents.find('\n', begin);
      ASSERT_NE(end, std::string::npos) << name << " does not end with a newline";
      const Json line = parse_json(std::string_view(contents).substr(begin, end - begin), name);
      const auto source = line.at("source").get<std::string>();
      const size_t commit = source.find('@');
      EXPECT_NE(readme.find(source.substr(0, commit)), std::string::npos) << source;
      EXPECT_NE(readme.find(source.substr(commit + 1, 12)), std::string::npos) << source;
      begin = end + 1;
    }
  }
  EXPECT_LT(bytes_on_disk, 4'000'000);
}

TEST(DemoData, HoldsWhatTheReadmeSaysAndNoSums) {
  CorpusReport total;
  const std::map<std::string, int64_t> bytes_in_readme = {
      {"english", 1182294}, {"chinese", 672392}, {"code", 309975}};
  const std::string readme = local_file_system().read_all(kFolder + "/README.md");
  for (const auto& [name, bytes] : bytes_in_readme) {
    CorpusReport report;
    const auto documents =
        read_corpus(local_file_system(), kFolder + "/" + name + ".jsonl", BadText::kError, report);
    EXPECT_EQ(report.num_bytes, bytes) << name;
    std::string grouped = std::to_string(bytes);
    for (int64_t i = static_cast<int64_t>(grouped.size()) - 3; i > 0; i -= 3)
      grouped.insert(static_cast<size_t>(i), ",");
    EXPECT_NE(readme.find(grouped), std::string::npos) << name;
    for (const std::string& text : documents)
      EXPECT_FALSE(holds_two_digit_sum(text)) << text.substr(0, 100);
  }
}

TEST(DemoData, TheSearchForSumsCanSee) {
  for (const std::string text : {"see 47 + 25", "47+25", "x = 147 plus 25"})
    EXPECT_TRUE(holds_two_digit_sum(text)) << text;
  for (const std::string text : {"4 + 25", "47 - 25", "47 and 25", "47 + ", "47"})
    EXPECT_FALSE(holds_two_digit_sum(text)) << text;
}

// The people of the world are invented: none of them, and none of their pets, may walk through
// Treasure Island.
TEST(DemoData, KnowsNobodyOfTheWorld) {
  CorpusReport report;
  std::string all;
  for (const std::string& text : read_corpus(local_file_system(), kFolder, BadText::kError, report))
    all += text + "\n";
  EXPECT_NE(all.find("Alice"), std::string::npos);
  for (int64_t seed = 0; seed < 3; ++seed) {
    WorldConfig config;
    config.seed = seed;
    const World world(config);
    for (int64_t i = 0; i < world.num_people(); ++i) {
      EXPECT_EQ(all.find(world.person_name(i, WorldLanguage::kEnglish)), std::string::npos)
          << world.person_name(i, WorldLanguage::kEnglish);
    }
  }
}

}  // namespace
}  // namespace fathom
