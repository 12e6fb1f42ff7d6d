// A conversation as the token ids that the model goes on from, in the forms that DeepSeek's models
// were taught (SPEC C.13). Tags are placed as ids and what people wrote is encoded as plain text, so
// that no message forges a role.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "serve/requests.h"

namespace fathom::serve {

enum class ChatForm {
  kV3,        // December 2024 and 0324
  kR1,        // opens a thought; earlier thoughts are dropped
  kV31,       // thinks or not, as asked
  kTemplate,  // whatever the folder's template says: template_prompt.h
};

// From the chat template that a folder has (its text; empty: V3's). One that knows no
// <｜Assistant｜> is none of DeepSeek's.
ChatForm chat_form_of(std::string_view chat_template, const Tokenizer& tokenizer);
const char* chat_form_name(ChatForm form);

struct ChatPrompt {
  std::vector<TokenId> tokens;
  bool begins_in_thought = false;
};

struct ChatPromptOptions {
  ChatForm form = ChatForm::kV3;
  // To the byte what DeepSeek's published template writes, mistakes and all. Without it they are
  // mended: a second round of tools has its opening tags, results end before whatever follows them,
  // the newest answer to a tool hides its thought too, and V3.1 marks every answer as the
  // assistant's, not only one that follows a user.
  bool as_published = false;
  bool thinking = false;
  // Ends ready for the assistant's next words.
  bool add_generation_prompt = true;
};

// If the last message is a prefix, its text (and its thought, which may be unfinished) ends the
// prompt instead. Errors (ApiError): a vocabulary without the tags that are needed.
ChatPrompt chat_prompt(std::span<const ChatMessage> messages, std::span<const Tool> tools,
                       const ChatPromptOptions& options, const Tokenizer& tokenizer);

// Fill in the middle: begin, prefix, hole, suffix, end.
std::vector<TokenId> infill_prompt(std::string_view prefix, std::string_view suffix,
                                   const Tokenizer& tokenizer);

// The text of ids, special tokens included; what is no UTF-8 becomes U+FFFD.
std::string utf8_text(const Tokenizer& tokenizer, std::span<const TokenId> ids);

}  // namespace fathom::serve
