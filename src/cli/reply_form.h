// What `generate` may demand of a reply: strings that end it, and one form of its text, by the code
// that the service has for the same fields of a request.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "data/tokenizer/tokenizer.h"
#include "infer/constraint/constraint.h"

namespace fathom::cli {

struct ReplyForm {
  std::vector<std::string> stop, choices;
  std::string schema_file, regex;
  bool json_object = false;

  void declare(CommandLine& line);
  bool is_free() const { return stop.empty() && !has_language(); }
  bool has_language() const;
  // Compiles what was asked for, so that mistakes show before a model is loaded; an Error names the
  // option. Two forms at once are a usage error.
  std::shared_ptr<const Automaton> language() const;
};

// The language over the tokenizer's vocabulary; any of `end_tokens` ends the text.
std::shared_ptr<Constraint> make_constraint(const Automaton& language, const Tokenizer& tokenizer,
                                            std::span<const int32_t> end_tokens);

}  // namespace fathom::cli
