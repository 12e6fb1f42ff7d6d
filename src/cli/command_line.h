// The command line of the program: verbs, and options bound to variables. A verb declares its
// options on a CommandLine and reads the variables when it runs; CLI11 does the parsing and the
// help text, in command_line.cc and nowhere else.
//
// A verb is one file, src/cli/<verb>_verb.cc, with no logic of its own:
//
//   Verb peek_verb() {
//     struct Options { std::string model; int64_t rows = 10; bool json = false; };
//     auto options = std::make_shared<Options>();
//     return {.name = "peek", .help = "look inside a shard",
//             .declare = [options](CommandLine& line) {
//               line.add("--model", options->model, "model folder").required();
//               line.add("--rows", options->rows, "rows to show").at_least(1);
//               line.add_json(options->json);
//             },
//             .run = [options] { ...; return 0; }};
//   }
//
// then one line in verbs.h and one in main.cc. Conventions: results go to standard output, progress
// and logs to standard error. Every option --foo-bar may also be given by the environment variable
// FATHOM_FOO_BAR; the command line wins.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::cli {

// Exit statuses; the same table closes every help text.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitSavedOnSignal = 75;

// One declared option. The setters refine it and return it, so that they chain.
class OptionSpec {
 public:
  OptionSpec& required();
  OptionSpec& one_of(std::vector<std::string> values);  // strings: the only values allowed
  OptionSpec& at_least(double minimum);                 // numbers
  OptionSpec& between(double minimum, double maximum);  // numbers, both ends allowed
  OptionSpec& without_environment();                    // where the variable means something else

 private:
  friend class CommandLine;
  friend class Parser;
  enum class Kind { kText, kInteger, kNumber, kFlag, kTextList };

  // The value that was found in `source` ("--steps", "FATHOM_STEPS"): checked, then stored.
  void assign(const std::string& text, const std::string& source) const;
  void check_range(double value, const std::string& text, const std::string& source) const;

  std::string name_;  // "--rows", or "text" for a positional argument
  std::string help_;
  std::string environment_;   // empty: none
  std::string default_text_;  // empty: not shown
  Kind kind_ = Kind::kText;
  bool required_ = false;
  std::vector<std::string> allowed_;
  std::optional<double> minimum_, maximum_;
  std::function<void(const std::string&)> store_text_;
  std::function<void(int64_t)> store_integer_;
  std::function<void(double)> store_number_;
};

// The options of one verb. A name that begins with "--" is an option; any other is a positional
// argument, taken in the order of declaration. The variable's value is the default and is shown in
// the help; std::optional variables tell "not given" from every value, for what overrides a file.
// The variables must live as long as the Verb (hold them in a shared_ptr).
class CommandLine {
 public:
  OptionSpec& add(const std::string& name, std::string& value, const std::string& help);
  OptionSpec& add(const std::string& name, int64_t& value, const std::string& help);
  OptionSpec& add(const std::string& name, double& value, const std::string& help);
  OptionSpec& add(const std::string& name, bool& value, const std::string& help);  // present: true
  OptionSpec& add(const std::string& name, std::vector<std::string>& values,
                  const std::string& help);
  OptionSpec& add(const std::string& name, std::optional<std::string>& value,
                  const std::string& help);
  OptionSpec& add(const std::string& name, std::optional<int64_t>& value, const std::string& help);
  OptionSpec& add(const std::string& name, std::optional<double>& value, const std::string& help);

  // The options that mean the same in every verb.
  OptionSpec& add_model(std::string& value);  // --model DIR, required
  OptionSpec& add_seed(int64_t& value);       // --seed
  OptionSpec& add_threads(int64_t& value);    // --threads, 0: one per processor
  OptionSpec& add_json(bool& value);          // --json: the result as one JSON object on stdout
  OptionSpec& add_quiet(bool& value);         // --quiet: no progress on stderr

  // Text shown below the options, for example a command to copy.
  void epilog(std::string text) { epilog_ = std::move(text); }

 private:
  friend class Parser;
  OptionSpec& append(const std::string& name, const std::string& help, OptionSpec::Kind kind);
  std::deque<OptionSpec> options_;  // a deque: references stay valid
  std::string epilog_;
};

struct Verb {
  std::string name;  // "train", or two words: "tokenizer train"
  std::string help;  // one line
  std::function<void(CommandLine&)> declare;
  std::function<int()> run;  // returns the exit status; errors are exceptions
};

// What a command line asks for: a verb whose variables are now set, or a text to print (help,
// version).
struct Parsed {
  const Verb* verb = nullptr;
  std::string text;
};

// Throws Error(kUsage) with the verb's name and, for a typo, the nearest name.
Parsed parse_command_line(std::span<const Verb> verbs, const std::vector<std::string>& arguments);

// parse, run, and the mapping of exceptions to one line on standard error and an exit status.
int run_program(std::span<const Verb> verbs, const std::vector<std::string>& arguments);

}  // namespace fathom::cli
