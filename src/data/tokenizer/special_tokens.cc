// DeepSeek's special tokens by name. The bars are U+FF5C, the low line-like character is U+2581;
// only EOT has ASCII bars.
#include <iterator>

#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {
namespace {

using S = SpecialTokens;
constexpr SpecialTokenName kNames[] = {
    {"<｜begin▁of▁sentence｜>", &S::bos, true},
    {"<｜end▁of▁sentence｜>", &S::eos, true},
    {"<｜▁pad▁｜>", &S::pad, true},
    {"<think>", &S::think_begin, false},
    {"</think>", &S::think_end, false},
    {"<｜fim▁hole｜>", &S::fim_hole, false},
    {"<｜fim▁begin｜>", &S::fim_begin, false},
    {"<｜fim▁end｜>", &S::fim_end, false},
    {"<｜User｜>", &S::user, false},
    {"<｜Assistant｜>", &S::assistant, false},
    {"<|EOT|>", &S::eot, true},
    {"<｜tool▁calls▁begin｜>", &S::tool_calls_begin, false},
    {"<｜tool▁calls▁end｜>", &S::tool_calls_end, false},
    {"<｜tool▁call▁begin｜>", &S::tool_call_begin, false},
    {"<｜tool▁call▁end｜>", &S::tool_call_end, false},
    {"<｜tool▁outputs▁begin｜>", &S::tool_outputs_begin, false},
    {"<｜tool▁outputs▁end｜>", &S::tool_outputs_end, false},
    {"<｜tool▁output▁begin｜>", &S::tool_output_begin, false},
    {"<｜tool▁output▁end｜>", &S::tool_output_end, false},
    {"<｜tool▁sep｜>", &S::tool_sep, false},
};
static_assert(sizeof(SpecialTokens) == std::size(kNames) * sizeof(TokenId),
              "every field has its name");

}  // namespace

std::span<const SpecialTokenName> special_token_names() { return kNames; }

std::vector<AddedToken> BpeTrainConfig::default_added_tokens() {
  std::vector<AddedToken> added;
  for (const SpecialTokenName& token : kNames) {
    added.push_back({.content = std::string(token.name), .special = token.special});
  }
  return added;
}

}  // namespace fathom
