// What became of a conversation: the tags and the text between them, and what a reader of the template
// would not guess (thoughts that the model is not shown, tags that people spelled, a tag of the
// beginning that is there twice). For `fathom template --explain`.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "serve/chat_vocabulary.h"

namespace fathom::serve {

struct PromptPart {
  TokenId tag = kNoToken;  // of a tag; kNoToken: text
  std::string text;
  int64_t num_tokens = 0;
};

struct PromptExplanation {
  ChatPrompt prompt;
  std::vector<PromptPart> parts;
  std::vector<std::string> notes;
};

// `own`: the vocabulary with the folder's own template, to compare with (null: nothing to compare).
PromptExplanation explain_prompt(const ChatVocabulary& chat, const ChatVocabulary* own,
                                 std::span<const ChatMessage> messages, std::span<const Tool> tools,
                                 bool thinking, bool add_generation_prompt);

}  // namespace fathom::serve
