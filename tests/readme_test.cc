// Documents execute: every path that README, CONTRIBUTING and docs/ name exists, and the README's
// commands that take seconds are run and print what it says. In its `console` blocks "$ " begins a
// command, the lines after it are its output; numbers may differ, and "…" stands for anything.
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace fathom {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = FATHOM_SOURCE_DIR;

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<fs::path> documents() {
  std::vector<fs::path> all = {kRoot / "README.md", kRoot / "CONTRIBUTING.md",
                               kRoot / "data/demo/README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "docs")) {
    if (entry.path().extension() == ".md") all.push_back(entry.path());
  }
  return all;
}

// What stands in `backticks` or [links](…) and looks like a path of this repository. Names with a
// placeholder
// (<verb>, NAME, {h,cc}, *) are patterns, not paths.
std::set<std::string> named_paths(const std::string& text) {
  static const std::regex path(
      R"((?:`|\]\()(\.?/?(?:(?:src|tests|docs|script|configs|data|bench|tools|cmake|\.ci)/[^`\s)#]*|(?:README|CONTRIBUTING)\.md|CMake[A-Za-z]+\.(?:txt|json)))(?=[`)#]))");
  static const std::regex placeholder(R"([<>*{}…]|[A-Z]{4,}(?!\.md)[_/.])");
  std::set<std::string> names;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), path); it != std::sregex_iterator();
       ++it) {
    const std::string name = (*it)[1];
    if (!std::regex_search(name, placeholder)) names.insert(name);
  }
  return names;
}

bool exists(const fs::path& document, const std::string& name) {
  return fs::exists(kRoot / name) || fs::exists(document.parent_path() / name);
}

struct Example {
  std::string command;
  std::vector<std::string> output;
};
std::vector<Example> console_examples(const std::string& text) {
  std::vector<Example> examples;
  std::istringstream lines(text);
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      inside = line == "```console";
    } else if (inside && line.starts_with("$ ")) {
      examples.push_back({line.substr(2), {}});
    } else if (inside && !examples.empty()) {
      examples.back().output.push_back(line);
    }
  }
  return examples;
}

// Numbers to '#', runs of spaces to one, spaces at the ends away.
std::string skeleton(const std::string& line) {
  static const std::regex number(R"([-+]?[0-9][0-9.,]*(e[-+]?[0-9]+)?)"), spaces(R"(\s+)"),
      ends("^ | $");
  return std::regex_replace(std::regex_replace(std::regex_replace(line, number, "#"), spaces, " "),
                            ends, "");
}

bool matches(const std::string& expected, const std::string& actual) {
  // Pieces between the "…" must stand in order, the first at the beginning, the last at the end.
  const std::string pattern = skeleton(expected), text = skeleton(actual);
  const std::string dots = "…";
  size_t at = 0, begin = 0;
  while (true) {
    const size_t end = pattern.find(dots, begin);
    const std::string piece = pattern.substr(begin, end == std::string::npos ? end : end - begin);
    if (end == std::string::npos) {
      if (begin == 0) return piece == text;
      return text.size() >= at + piece.size() && text.ends_with(piece);
    }
    const size_t found = text.find(piece, at);
    if (found == std::string::npos || (begin == 0 && found != 0)) return false;
    at = found + piece.size();
    begin = end + dots.size();
  }
}

// Every expected line, in order; a line "…" lets any number of lines pass.
bool output_matches(const std::vector<std::string>& expected,
                    const std::vector<std::string>& actual) {
  size_t at = 0;
  bool skipping = false;
  for (const std::string& line : expected) {
    if (line == "…") {
      skipping = true;
      continue;
    }
    if (skipping) {
      while (at < actual.size() && !matches(line, actual[at])) ++at;
    }
    if (at >= actual.size() || !matches(line, actual[at])) return false;
    ++at;
    skipping = false;
  }
  return skipping || at == actual.size();
}

TEST(Documents, NameOnlyPathsThatExist) {
  for (const fs::path& document : documents()) {
    for (const std::string& name : named_paths(read(document))) {
      EXPECT_TRUE(exists(document, name)) << fs::relative(document, kRoot) << " names " << name;
    }
  }
}

TEST(Documents, TheFolderMapIsComplete) {
  const std::string readme = read(kRoot / "README.md");
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    if (fs::is_empty(entry.path())) continue;
    const std::string name = "`src/" + entry.path().filename().string() + "/`";
    EXPECT_NE(readme.find(name), std::string::npos) << "the folder map lacks " << name;
  }
}

TEST(Documents, TheQuickCommandsOfTheReadmePrintWhatItSays) {
  int64_t num_run = 0;
  for (const Example& example : console_examples(read(kRoot / "README.md"))) {
    const std::string program = "build/release/fathom ";
    if (!example.command.starts_with(program)) {
      // The long ones are run by people and by continuous integration; here they only have to be
      // there.
      EXPECT_TRUE(fs::exists(kRoot / example.command.substr(0, example.command.find(' '))))
          << example.command;
      continue;
    }
    const std::string command = "cd '" + kRoot.string() + "' && '" FATHOM_BINARY_DIR "/fathom' " +
                                example.command.substr(program.size()) + " 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::vector<std::string> output(1);
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
      if (c == '\n') {
        output.emplace_back();
      } else {
        output.back() += static_cast<char>(c);
      }
    }
    EXPECT_EQ(pclose(pipe), 0) << command;
    while (!output.empty() && output.back().empty()) output.pop_back();
    std::string all;
    for (const std::string& line : output) all += line + "\n";
    EXPECT_TRUE(output_matches(example.output, output)) << example.command << "\nprints\n" << all;
    ++num_run;
  }
  EXPECT_GE(num_run, 1);
}

// The checks on documents that are wrong.
TEST(DocumentRules, SeeWhatIsWrong) {
  EXPECT_EQ(named_paths("see `src/core/error.h` and `src/cli/<verb>_verb.cc` and "
                        "[it](docs/log.md#top) and `a/b`"),
            (std::set<std::string>{"src/core/error.h", "docs/log.md"}));
  EXPECT_TRUE(exists(kRoot / "README.md", "src/core/error.h"));
  EXPECT_FALSE(exists(kRoot / "README.md", "src/core/eror.h"));

  EXPECT_TRUE(output_matches({"a 1", "…", "b 2.5 GB/s"}, {"a 17", "x", "y", "b   3 GB/s"}));
  EXPECT_TRUE(output_matches({"a … c"}, {"a b c"}));
  EXPECT_TRUE(output_matches({"a", "…"}, {"a", "b"}));
  EXPECT_FALSE(output_matches({"a"}, {"a", "b"}));
  EXPECT_FALSE(output_matches({"a", "b"}, {"a"}));
  EXPECT_FALSE(output_matches({"a", "…", "c"}, {"a", "b"}));
  EXPECT_FALSE(output_matches({"a … d"}, {"a b c"}));
  const auto examples = console_examples("```console\n$ x y\nout\n```\n```sh\n$ z\n```\n");
  ASSERT_EQ(examples.size(), 1u);
  EXPECT_EQ(examples[0].command, "x y");
  EXPECT_EQ(examples[0].output, std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace fathom
