#include "cli/reply_form.h"

#include "core/error.h"
#include "core/file.h"
#include "infer/constraint/json_schema.h"
#include "infer/constraint/regex.h"
#include "infer/stop_strings.h"

namespace fathom::cli {
namespace {

constexpr char kAnyObject[] = R"({"type":"object"})";

// Runs `compile`; an error says which option it is about.
template <typename F>
auto naming(const std::string& option, F&& compile) {
  try {
    return compile();
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {}", option, error.what()));
  }
}

}  // namespace

void ReplyForm::declare(CommandLine& line) {
  line.add("--stop", stop, "text that ends the reply and is no part of it");
  line.add("--regex", regex, "a regular expression that the whole reply obeys");
  line.add("--choice", choices, "a text that the reply may be; several: one of them");
  line.add("--json-object", json_object, "the reply is a JSON object");
  line.add("--json-schema", schema_file, "file with a JSON schema that the reply obeys");
}

bool ReplyForm::has_language() const {
  return json_object || !choices.empty() || !schema_file.empty() || !regex.empty();
}

std::shared_ptr<const Automaton> ReplyForm::language() const {
  naming("--stop", [&] { return StopMatcher(stop); });
  if (json_object + !choices.empty() + !schema_file.empty() + !regex.empty() > 1) {
    fail(ErrorKind::kUsage,
         "a reply has one form: give one of --regex, --choice, --json-object and --json-schema");
  }
  const auto share = [](Automaton automaton) {
    return std::make_shared<const Automaton>(std::move(automaton));
  };
  if (!regex.empty()) return share(naming("--regex", [&] { return compile_regex(regex); }));
  if (!choices.empty()) return share(naming("--choice", [&] { return compile_choice(choices); }));
  if (json_object) return share(compile_json_schema(kAnyObject));
  if (schema_file.empty()) return nullptr;
  return share(naming("--json-schema " + schema_file, [&] {
    return compile_json_schema(local_file_system().read_all(schema_file));
  }));
}

std::shared_ptr<Constraint> make_constraint(const Automaton& language, const Tokenizer& tokenizer,
                                            std::span<const int32_t> end_tokens) {
  std::vector<int32_t> ends;
  for (const int32_t id : end_tokens) {
    if (tokenizer.is_valid(id)) ends.push_back(id);
  }
  if (ends.empty()) {
    throw_bad_input({"config.json", "eos_token_id", "no token of the tokenizer",
                     "the token that ends a reply", "a reply's form needs one"});
  }
  std::vector<std::string> bytes = text_token_bytes(tokenizer);
  for (const int32_t id : ends) bytes[static_cast<size_t>(id)].clear();
  return std::make_shared<Constraint>(
      language, std::make_shared<ConstraintVocabulary>(std::move(bytes), std::move(ends)));
}

}  // namespace fathom::cli
