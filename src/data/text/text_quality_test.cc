// Cleaning, facts, filters and labels of single texts.
#include <gtest/gtest.h>

#include "data/text/clean_text.h"
#include "data/text/filters.h"
#include "data/text/labels.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

TEST(CleanTextTest, RepairsOrRejects) {
  const std::string broken(
      "\xEF\xBB\xBF"
      "a\r\nb\rc\nd\0e\xC3(\xF0\x9F\x98",
      17);
  std::string text = broken;
  const CleanReport report = clean_document(text, {});
  EXPECT_EQ(text, "a\nb\nc\nde\xEF\xBF\xBD(\xEF\xBF\xBD");
  EXPECT_TRUE(report.had_bom);
  EXPECT_TRUE(report.mixed_line_ends);
  EXPECT_EQ(report.num_nul, 1);
  EXPECT_EQ(report.num_broken, 2);
  EXPECT_EQ(report.first_broken_line, 2);  // CR alone ends a line only after cleaning
  EXPECT_EQ(report.rejected, nullptr);
  text = broken;
  EXPECT_STREQ(clean_document(text, {.reject_broken = true}).rejected, "nul_bytes");
  text = "fine \xC3(";
  EXPECT_STREQ(clean_document(text, {.reject_broken = true}).rejected, "invalid_utf8");
  text = "a\r\nb";
  EXPECT_FALSE(clean_document(text, {}).mixed_line_ends);
  EXPECT_EQ(text, "a\nb");
  text = "a\r\nb";
  clean_document(text, {.unify_line_ends = false});
  EXPECT_EQ(text, "a\r\nb");
  text = "";
  EXPECT_EQ(clean_document(text, {}).rejected, nullptr);
}

TEST(CleanTextTest, NormalForms) {
  const std::string decomposed = "e\xCC\x81 \xEF\xBC\xA1";  // e + acute, full-width A
  std::string text = decomposed;
  clean_document(text, {});
  EXPECT_EQ(text, decomposed);
  clean_document(text, {.normalisation = Normalisation::kNfc});
  EXPECT_EQ(text, "\xC3\xA9 \xEF\xBC\xA1");
  clean_document(text, {.normalisation = Normalisation::kNfkc});
  EXPECT_EQ(text, "\xC3\xA9 A");
}

TEST(TextFactsTest, CountsCharactersAndFindsUnits) {
  TextFacts facts;
  find_facts("The CAT's 12 Über-Katzen\n\n水深\xE3\x80\x82 привет!\n", facts);
  EXPECT_EQ(facts.num_lines, 2);
  EXPECT_EQ(facts.num_digits, 2);
  EXPECT_EQ(facts.letters_of[static_cast<size_t>(Script::kHan)], 2);
  EXPECT_EQ(facts.letters_of[static_cast<size_t>(Script::kCyrillic)], 6);
  EXPECT_EQ(facts.letters_of[static_cast<size_t>(Script::kLatin)], 7 + 10);
  EXPECT_EQ(facts.num_symbols, 4);  // ' - 。 !
  std::vector<uint64_t> expected;
  for (const char* word : {"the", "cat", "s", "12", "über", "katzen", "水", "深", "привет"})
    expected.push_back(unit_hash(word));
  EXPECT_EQ(facts.units, expected);
  find_facts("", facts);
  EXPECT_EQ(facts.num_characters, 0);
  EXPECT_TRUE(facts.units.empty());
  find_facts("\xC3(\xFF", facts);  // broken UTF-8 is looked at, not trusted
  EXPECT_EQ(facts.num_characters, 3);
}

TEST(TextFactsTest, ScriptTableAgreesWithTheRanges) {
  EXPECT_EQ(script_of('a'), Script::kLatin);
  EXPECT_EQ(script_of(0x0411), Script::kCyrillic);
  EXPECT_EQ(script_of(0x3005), Script::kHan);
  EXPECT_EQ(script_of(0x3004), Script::kOther);
  EXPECT_EQ(script_of(0x3042), Script::kKana);
  EXPECT_EQ(script_of(0xAC00), Script::kHangul);
  EXPECT_EQ(script_of(0x20000), Script::kHan);
  EXPECT_EQ(script_of(0x10FFFF), Script::kOther);
}

const char* reason(const std::string& text, const FilterConfig& config = {}) {
  TextFacts facts;
  find_facts(text, facts);
  Filters filters(config);
  return filters.reason_against(text, facts);
}

TEST(FiltersTest, EachHasItsReasonAndLetsTextThrough) {
  EXPECT_EQ(reason(invented_text(1, 500)), nullptr);
  EXPECT_EQ(reason("x"), nullptr);
  EXPECT_STREQ(reason(""), "empty");
  EXPECT_STREQ(reason(" \n\t \xE3\x80\x80"), "empty");
  EXPECT_STREQ(reason("short", {.min_characters = 6}), "too_short");
  EXPECT_STREQ(reason("longer", {.max_characters = 5}), "too_long");
  EXPECT_STREQ(reason(repeated(60, '#') + " word"), "symbols");
  EXPECT_STREQ(reason("one two three " + repeated(200'000, 'x')), "long_lines");
  std::string blob;
  for (int i = 0; i < 20; ++i) blob += repeated(100, 'Q') + " ";
  EXPECT_STREQ(reason(blob), "long_words");
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += "the same line again\n";
  EXPECT_STREQ(reason(lines), "repeated_lines");
  std::string words;
  for (int i = 0; i < 100; ++i) words += "round and round it goes ";
  EXPECT_STREQ(reason(words), "repeated_words");
  // Their thresholds hold them back.
  EXPECT_EQ(reason(words, {.max_repeated_shingles = 1}), nullptr);
  EXPECT_EQ(reason(lines, {.max_repeated_lines = 1, .max_repeated_shingles = 1}), nullptr);
}

std::string_view language(std::string_view text) {
  TextFacts facts;
  find_facts(text, facts);
  return language_names()[label_text(text, facts).language];
}
std::string_view domain(std::string_view text) {
  TextFacts facts;
  find_facts(text, facts);
  return domain_names()[label_text(text, facts).domain];
}

TEST(LabelsTest, LanguagesByScriptAndFunctionWords) {
  EXPECT_EQ(language("All human beings are born free and equal in dignity and rights."), "en");
  EXPECT_EQ(language("Alle Menschen sind frei und gleich an Würde und Rechten geboren."), "de");
  EXPECT_EQ(language("Tous les êtres humains naissent libres et égaux en dignité et en droits."),
            "fr");
  EXPECT_EQ(language("Todos los seres humanos nacen libres e iguales en dignidad y derechos."),
            "es");
  EXPECT_EQ(language("人人生而自由，在尊严和权利上一律平等。"), "zh");
  EXPECT_EQ(language("すべての人間は、生れながらにして自由である。"), "ja");
  EXPECT_EQ(language("모든 인간은 태어날 때부터 자유로우며"), "ko");
  EXPECT_EQ(language("Все люди рождаются свободными и равными в своем достоинстве и правах."),
            "ru");
  EXPECT_EQ(language("Всі люди народжуються вільними і рівними у своїй гідності та правах."), "uk");
  EXPECT_EQ(language("يولد جميع الناس أحراراً متساوين في الكرامة والحقوق من عند"), "ar");
  EXPECT_EQ(language("मनुष्य को स्वतन्त्रता"), "hi");
  EXPECT_EQ(language("12345 67 + 8"), "other");
  EXPECT_EQ(language(""), "other");
}

TEST(LabelsTest, Kinds) {
  EXPECT_EQ(domain("It was a dark night; the sea lay still, and nobody spoke.\nThen (at last) it "
                   "rained.\n"),
            "prose");
  EXPECT_EQ(domain("#include <cstdio>\nint main() {\n  for (int i = 0; i < 3; ++i) {\n    "
                   "std::printf(\"%d\\n\", i);\n  }\n  return 0;\n}\n"),
            "code");
  EXPECT_EQ(domain("def f(x):\n    y = [a for a in x if a > 0]\n    return sum(y)\n\nclass A:\n    "
                   "def g(self):\n        self.b = {}\n        return self.b\n"),
            "code");
  EXPECT_EQ(domain("Let $f$ be continuous with $\\int_0^1 f(x)\\,dx = 1$. Then "
                   "\\begin{align}\\frac{1}{2}\\sum_{i} a_i \\le 1\\end{align}"),
            "maths");
  EXPECT_EQ(domain("12 + 30 = 42\n7 * 8 = 56\n"), "maths");
}

}  // namespace
}  // namespace fathom
