// The command line as a user types it. The negative controls are the typos: each must be an error
// that names what was meant.
#include "cli/command_line.h"

#include <cstdlib>

#include "core/error.h"

namespace fathom::cli {
namespace {

struct Values {
  std::string model, precision = "fp32";
  int64_t steps = 10;
  std::optional<int64_t> limit;
  double rate = 0.5;
  bool json = false;
  std::vector<std::string> set;
  std::string word;
};

std::vector<Verb> verbs_for(Values& v) {
  return {
      {.name = "train",
       .help = "train a model",
       .declare =
           [&v](CommandLine& line) {
             line.add_model(v.model);
             line.add("--steps", v.steps, "steps").at_least(1);
             line.add("--limit", v.limit, "limit");
             line.add("--rate", v.rate, "rate").between(0, 1);
             line.add("--precision", v.precision, "format").one_of({"fp32", "bf16", "fp8"});
             line.add("--set", v.set, "field=value");
             line.add_json(v.json);
             line.epilog("Example: fathom train --model m");
           },
       .run = [] { return 0; }},
      {.name = "tokenizer train",
       .help = "train a tokenizer",
       .declare = [&v](CommandLine& line) { line.add("word", v.word, "a word").required(); },
       .run = [] { return 7; }},
      {.name = "tokenizer show",
       .help = "show it",
       .declare = [](CommandLine&) {},
       .run = []() -> int { fail(ErrorKind::kIo, "no such file"); }},
  };
}

Parsed parse(const std::vector<Verb>& verbs, std::vector<std::string> arguments) {
  return parse_command_line(verbs, arguments);
}

std::string usage_error(std::vector<std::string> arguments) {
  Values values;
  const auto verbs = verbs_for(values);
  try {
    parse(verbs, arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "(no error)";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(CommandLine, BindsEveryKindOfOption) {
  Values v;
  const auto verbs = verbs_for(v);
  const Parsed parsed =
      parse(verbs, {"train", "--model", "m", "--steps=3", "--limit", "-5", "--rate", "1e-1",
                    "--set", "a=1", "--set", "b=2", "--json", "--precision", "bf16"});
  EXPECT_EQ(parsed.verb, &verbs[0]);
  EXPECT_EQ(v.model, "m");
  EXPECT_EQ(v.steps, 3);
  EXPECT_EQ(v.limit, -5);
  EXPECT_EQ(v.rate, 0.1);
  EXPECT_EQ(v.precision, "bf16");
  EXPECT_EQ(v.set, (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_TRUE(v.json);
}

TEST(CommandLine, LeavesDefaultsAlone) {
  Values v;
  const auto verbs = verbs_for(v);
  parse(verbs, {"train", "--model", "m"});
  EXPECT_EQ(v.steps, 10);
  EXPECT_EQ(v.limit, std::nullopt);
  EXPECT_FALSE(v.json);
}

TEST(CommandLine, FindsNestedVerbsAndPositionals) {
  Values v;
  const auto verbs = verbs_for(v);
  EXPECT_EQ(parse(verbs, {"tokenizer", "train", "hello"}).verb, &verbs[1]);
  EXPECT_EQ(v.word, "hello");
}

TEST(CommandLine, TyposNameTheNearest) {
  expect_contains(usage_error({"trian", "--model", "m"}), "did you mean 'train'");
  expect_contains(usage_error({"tokenizer", "trian"}), "did you mean 'train'");
  expect_contains(usage_error({"train", "--modle", "m"}), "did you mean '--model'");
  expect_contains(usage_error({"train", "--model", "m", "--stepss=4"}), "did you mean '--steps'");
  expect_contains(usage_error({"train", "--model", "m", "--precision", "bf15"}),
                  "did you mean 'bf16'");
}

TEST(CommandLine, WrongValuesSayWhatWasExpected) {
  expect_contains(usage_error({"train"}), "--model is required");
  expect_contains(usage_error({"tokenizer", "train"}), "word is required");
  expect_contains(usage_error({"train", "--model", "m", "--steps", "4x"}),
                  "--steps: found '4x', expected a whole number");
  expect_contains(usage_error({"train", "--model", "m", "--steps", "99999999999999999999"}),
                  "a whole number");
  expect_contains(usage_error({"train", "--model", "m", "--steps", "0"}), "at least 1");
  expect_contains(usage_error({"train", "--model", "m", "--rate", "1.5"}), "from 0 to 1");
  expect_contains(usage_error({"train", "--model", "m", "--rate", "nan"}), "expected a number");
  expect_contains(usage_error({"train", "--model", "--json"}), "--model needs a value");
  expect_contains(usage_error({"train", "--model"}), "--model");
  expect_contains(usage_error({"train", "--model", "a", "--model", "b"}), "--model given 2 times");
  expect_contains(usage_error({"train", "stray", "--model", "m"}), "unknown argument 'stray'");
}

TEST(CommandLine, EnvironmentIsBelowTheCommandLine) {
  Values v;
  const auto verbs = verbs_for(v);
  setenv("FATHOM_STEPS", "77", 1);
  setenv("FATHOM_MODEL", "from_environment", 1);
  parse(verbs, {"train"});
  EXPECT_EQ(v.steps, 77);
  EXPECT_EQ(v.model, "from_environment");
  parse(verbs, {"train", "--steps", "5"});
  EXPECT_EQ(v.steps, 5);
  setenv("FATHOM_STEPS", "many", 1);
  expect_contains(usage_error({"train"}), "FATHOM_STEPS: found 'many'");
  unsetenv("FATHOM_STEPS");
  unsetenv("FATHOM_MODEL");
}

TEST(CommandLine, HelpShowsDefaultsAndExitStatuses) {
  Values v;
  const auto verbs = verbs_for(v);
  const std::string all = parse(verbs, {"--help"}).text;
  expect_contains(all, "train a model");
  expect_contains(all, "75 saved and ended on a signal");
  const std::string train = parse(verbs, {"train", "--help"}).text;
  expect_contains(train, "fathom train");
  expect_contains(train, "Usage: fathom train [OPTIONS]");
  expect_contains(train, "result as JSON");
  expect_contains(train, "[10]");
  expect_contains(train, "fp32, bf16, fp8");
  expect_contains(train, "(required)");
  expect_contains(train, "Example: fathom train");
  EXPECT_EQ(parse(verbs, {}).text, all);
  expect_contains(parse(verbs, {"tokenizer"}).text, "train a tokenizer");
  expect_contains(parse(verbs, {"--version"}).text, "fathom 0");
}

TEST(RunProgram, MapsErrorsToExitStatuses) {
  Values v;
  const auto verbs = verbs_for(v);
  EXPECT_EQ(run_program(verbs, {"train", "--model", "m"}), kExitDone);
  EXPECT_EQ(run_program(verbs, {"tokenizer", "train", "w"}), 7);
  EXPECT_EQ(run_program(verbs, {"tokenizer", "show"}), kExitFailed);
  EXPECT_EQ(run_program(verbs, {"train"}), kExitUsage);
}

}  // namespace
}  // namespace fathom::cli
