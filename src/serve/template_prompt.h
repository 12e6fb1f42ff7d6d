// Prompts by the chat template of a model's own folder, for models that were not taught DeepSeek's
// forms. The template makes text, in which tags are tags; so what people wrote is marked before it
// goes in, wherever it spells one of the vocabulary's tags, and is encoded as plain text after it
// came out: no message forges a role here either. Thought tags in an assistant's own words stay
// tags, since templates look for them.
#pragma once

#include <ctime>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat/jinja/template.h"
#include "data/tokenizer/tokenizer.h"
#include "serve/chat_prompt.h"
#include "serve/requests.h"

namespace fathom::serve {

class TemplatePrompt {
 public:
  // special_texts: what the template knows besides the conversation, such as bos_token. Errors name
  // `where` and the line.
  TemplatePrompt(std::string_view source, const std::string& where,
                 std::map<std::string, std::string> special_texts, const Tokenizer& tokenizer);

  // As chat_prompt (a prefix is what the generation prompt and its text make). A template that
  // raises, or fails, is an ApiError 400 with its words.
  ChatPrompt prompt(std::span<const ChatMessage> messages, std::span<const Tool> tools,
                    bool thinking, bool add_generation_prompt, std::time_t now) const;

 private:
  const ChatTemplate template_;
  const std::map<std::string, std::string> special_texts_;
  const Tokenizer tokenizer_;
  // DeepSeek's templates put arguments of calls in as they are; others make JSON of what they get.
  const bool arguments_are_text_;
};

}  // namespace fathom::serve
