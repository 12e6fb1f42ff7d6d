// Holds the sources to the layers of the design: a folder of src/ includes only folders that its
// CMake target links, directly or through others; links point down (or to a sibling that is named
// there); no header includes itself round a corner; heavy headers and intrinsics stay where they
// belong; every test is one that runs.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <sstream>

namespace fathom {
namespace {

using Files = std::map<std::string, std::string>;  // path below src/ -> contents
using Links = std::map<std::string, std::set<std::string>>;

const std::map<std::string, int>& layers() {
  static const std::map<std::string, int> all = {
      {"core", 0},  {"runtime", 1}, {"kernels", 2},  {"data", 2},  {"comm", 2},
      {"model", 3}, {"ckpt", 4},    {"parallel", 4}, {"plan", 5},  {"train", 5},
      {"infer", 5}, {"post", 6},    {"eval", 6},     {"serve", 6}, {"cli", 7}};
  return all;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

Files read_sources(const std::string& folder) {
  Files files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension().string();
    if (entry.is_regular_file() &&
        (extension == ".h" || extension == ".cc" || extension == ".inc")) {
      files[std::filesystem::relative(entry.path(), folder).generic_string()] = read(entry.path());
    }
  }
  return files;
}

// fathom_library(model LINK fathom_kernels …) -> model: {kernels}; lists of set(NAME …) are put in.
Links read_links(std::string cmake) {
  Links links;
  static const std::regex list(R"(set\((\w+)([^)]*)\))");
  const std::string original = cmake;
  for (auto it = std::sregex_iterator(original.begin(), original.end(), list);
       it != std::sregex_iterator(); ++it) {
    const std::string use = "${" + (*it)[1].str() + "}";
    for (size_t at = cmake.find(use); at != std::string::npos; at = cmake.find(use)) {
      cmake.replace(at, use.size(), (*it)[2].str());
    }
  }
  static const std::regex call(R"(fathom_library\((\w+)([^)]*)\))");
  static const std::regex target(R"(fathom_(\w+))");
  for (auto it = std::sregex_iterator(cmake.begin(), cmake.end(), call);
       it != std::sregex_iterator(); ++it) {
    auto& targets = links[(*it)[1]];
    const std::string rest = (*it)[2];
    for (auto t = std::sregex_iterator(rest.begin(), rest.end(), target);
         t != std::sregex_iterator(); ++t) {
      targets.insert((*t)[1]);
    }
  }
  return links;
}

std::set<std::string> reachable(const Links& links, const std::string& from) {
  std::set<std::string> seen;
  const std::function<void(const std::string&)> visit = [&](const std::string& folder) {
    const auto it = links.find(folder);
    if (it == links.end()) return;
    for (const std::string& next : it->second) {
      if (seen.insert(next).second) visit(next);
    }
  };
  visit(from);
  return seen;
}

std::vector<std::string> includes_of(const std::string& text, char open) {
  std::vector<std::string> names;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line.compare(at, 8, "#include") != 0) continue;
    const size_t begin = line.find(open, at);
    const size_t end =
        line.find(open == '<' ? '>' : '"', begin == std::string::npos ? begin : begin + 1);
    if (begin != std::string::npos && end != std::string::npos)
      names.push_back(line.substr(begin + 1, end - begin - 1));
  }
  return names;
}

std::string folder_of(const std::string& path) { return path.substr(0, path.find('/')); }

std::vector<std::string> layer_violations(const Files& files, const Links& links) {
  std::vector<std::string> wrong;
  for (const auto& [folder, targets] : links) {
    if (!layers().contains(folder)) {
      wrong.push_back(folder + " is not a layer of the design");
      continue;
    }
    for (const std::string& target : targets) {
      if (!layers().contains(target)) {
        wrong.push_back(folder + " links " + target + ", which is not a layer of the design");
      } else if (layers().at(target) > layers().at(folder)) {
        wrong.push_back(folder + " links upward to " + target);
      }
    }
    if (reachable(links, folder).contains(folder))
      wrong.push_back(folder + " links itself in a circle");
  }
  for (const auto& [path, text] : files) {
    const std::string folder = folder_of(path);
    const std::set<std::string> allowed = reachable(links, folder);
    for (const std::string& name : includes_of(text, '"')) {
      const std::string target = folder_of(name);
      if (!layers().contains(target))
        wrong.push_back(path + " includes \"" + name + "\": write the path below src/");
      if (layers().contains(target) && target != folder && !allowed.contains(target)) {
        wrong.push_back(path + " includes " + name + ", but fathom_" + folder +
                        " does not link fathom_" + target);
      }
    }
  }
  return wrong;
}

std::vector<std::string> include_cycles(const Files& files) {
  std::vector<std::string> wrong;
  std::map<std::string, int> state;  // 1: on the way, 2: done
  const std::function<void(const std::string&)> visit = [&](const std::string& path) {
    state[path] = 1;
    for (const std::string& name : includes_of(files.at(path), '"')) {
      if (!files.contains(name)) continue;
      if (state[name] == 1) wrong.push_back(path + " includes " + name + ", which includes it");
      if (state[name] == 0) visit(name);
    }
    state[path] = 2;
  };
  for (const auto& [path, text] : files) {
    if (state[path] == 0) visit(path);
  }
  return wrong;
}

std::vector<std::string> misplaced_headers(const Files& files) {
  struct Rule {
    const char* header;
    std::regex allowed;  // paths
  };
  static const std::vector<Rule> rules = {
      {"CLI/", std::regex(R"(cli/command_line\.cc)")},
      {"nlohmann/json.hpp", std::regex(R"(core/json\.h)")},
      {"toml++/", std::regex(R"(core/.*\.cc)")},
      {"immintrin.h", std::regex(R"(kernels/cpu/.*|runtime/.*)")},
      {"gtest/", std::regex(R"(.*_test\.cc|.*test_\w+\.h)")},
  };
  std::vector<std::string> wrong;
  for (const auto& [path, text] : files) {
    for (const std::string& name : includes_of(text, '<')) {
      for (const Rule& rule : rules) {
        if (name.starts_with(rule.header) && !std::regex_match(path, rule.allowed))
          wrong.push_back(path + " includes <" + name + ">");
      }
    }
    // JSON costs a second of compile time. A header that includes it is private to the .cc files
    // beside it.
    for (const std::string& name : includes_of(text, '"')) {
      if (!files.contains(name) || name == "core/json.h" || !name.ends_with(".h")) continue;
      const auto nested = includes_of(files.at(name), '"');
      if (std::find(nested.begin(), nested.end(), "core/json.h") == nested.end()) continue;
      const bool beside = path.substr(0, path.rfind('/')) == name.substr(0, name.rfind('/'));
      if (!beside || !path.ends_with(".cc"))
        wrong.push_back(path + " gets core/json.h through " + name);
    }
  }
  return wrong;
}

// Tests are found by name; one under another name would never run.
std::vector<std::string> unregistered_tests(const Files& files, const Links& links) {
  static const std::regex test(R"((^|\n)(TEST|TEST_F|TEST_P|TYPED_TEST)\()");
  std::vector<std::string> wrong;
  for (const auto& [path, text] : files) {
    const bool holds_tests = std::regex_search(text, test);
    const bool named = path.ends_with("_test.cc");
    if (holds_tests && !named) wrong.push_back(path + " holds tests but is not named *_test.cc");
    if (named && !holds_tests) wrong.push_back(path + " is named a test but holds none");
    if (named && !links.contains(folder_of(path)))
      wrong.push_back(path + " lies in a folder without a fathom_library");
  }
  return wrong;
}

std::string lines(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += item + "\n";
  return text;
}

class LayeringTest : public testing::Test {
 protected:
  const std::string root_ = FATHOM_SOURCE_DIR;
  const Files files_ = read_sources(root_ + "/src");
  const Links links_ = read_links(read(root_ + "/CMakeLists.txt"));
};

TEST_F(LayeringTest, FoldersIncludeOnlyWhatTheyLink) {
  ASSERT_GT(files_.size(), 50u);
  ASSERT_GT(links_.size(), 5u);
  EXPECT_EQ(lines(layer_violations(files_, links_)), "");
}
TEST_F(LayeringTest, NoHeaderIncludesItselfRoundACorner) {
  EXPECT_EQ(lines(include_cycles(files_)), "");
}
TEST_F(LayeringTest, HeavyHeadersStayWhereTheyBelong) {
  EXPECT_EQ(lines(misplaced_headers(files_)), "");
}
TEST_F(LayeringTest, EveryTestIsRegistered) {
  EXPECT_EQ(lines(unregistered_tests(files_, links_)), "");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root_ + "/tests")) {
    if (entry.path().filename().string().ends_with("_test.cc")) {
      EXPECT_EQ(entry.path().parent_path(), std::filesystem::path(root_ + "/tests"))
          << "only tests/*.cc is built";
    }
  }
}

// Each rule on sources that break it.
TEST(LayeringRules, SeeWhatIsWrong) {
  const Links links = read_links(
      "fathom_library(core LINK fmt::fmt)\nfathom_library(data LINK fathom_core)\n"
      "fathom_library(kernels LINK fathom_core)\nfathom_library(model LINK fathom_kernels)\n");
  EXPECT_EQ(links.at("model"), std::set<std::string>{"kernels"});
  const auto wrong = [&](const std::string& path, const std::string& text) {
    return layer_violations({{path, text}}, links).size();
  };
  EXPECT_EQ(wrong("model/a.cc", "#include \"core/error.h\"\n#include \"model/b.h\"\n"), 0u);
  EXPECT_EQ(wrong("core/a.cc", "#include \"model/b.h\"\n"), 1u);    // upward
  EXPECT_EQ(wrong("model/a.cc", "#include \"data/b.h\"\n"), 1u);    // down, but not linked
  EXPECT_EQ(wrong("data/a.cc", "#include \"kernels/b.h\"\n"), 1u);  // a sibling
  EXPECT_EQ(wrong("data/a.cc", "  #include \"b.h\"\n"), 1u);        // a path that hides its folder
  EXPECT_EQ(layer_violations({}, {{"core", {"model"}}}).size(), 1u);
  EXPECT_EQ(layer_violations({}, {{"data", {"kernels"}}, {"kernels", {"data"}}}).size(), 2u);
  EXPECT_EQ(layer_violations({}, {{"misc", {}}}).size(), 1u);

  EXPECT_EQ(
      include_cycles({{"core/a.h", "#include \"core/b.h\""}, {"core/b.h", "#include \"core/a.h\""}})
          .size(),
      1u);
  EXPECT_EQ(include_cycles({{"core/a.h", "#include \"core/b.h\""}, {"core/b.h", ""}}).size(), 0u);
  EXPECT_EQ(misplaced_headers({{"model/a.cc", "#include <immintrin.h>"}}).size(), 1u);
  EXPECT_EQ(misplaced_headers({{"cli/a_verb.cc", "#include <CLI/App.hpp>"}}).size(), 1u);
  const std::string json = "#include \"core/json.h\"";
  EXPECT_EQ(misplaced_headers({{"data/a.h", json}, {"data/b.cc", "#include \"data/a.h\""}}).size(),
            0u);
  EXPECT_EQ(misplaced_headers({{"data/a.h", json}, {"model/b.cc", "#include \"data/a.h\""}}).size(),
            1u);
  EXPECT_EQ(misplaced_headers({{"data/a.h", json}, {"data/b.h", "#include \"data/a.h\""}}).size(),
            1u);
  EXPECT_EQ(read_links("set(ALL fathom_a fathom_b)\nfathom_library(cli LINK ${ALL})").at("cli"),
            (std::set<std::string>{"a", "b"}));
  EXPECT_EQ(unregistered_tests({{"core/a.cc", "\nTEST(A, B) {}"}}, links).size(), 1u);
  EXPECT_EQ(unregistered_tests({{"core/a_test.cc", "int x;"}}, links).size(), 1u);
  EXPECT_EQ(unregistered_tests({{"core/a_test.cc", "\nTEST(A, B) {}"}}, links).size(), 0u);
}

}  // namespace
}  // namespace fathom
