// How a model is talked to: its tokenizer, the form of its conversations, and what ends a reply, as
// its folder says.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "serve/chat_prompt.h"
#include "serve/requests.h"
#include "serve/template_prompt.h"

namespace fathom::serve {

struct ChatVocabulary {
  Tokenizer tokenizer;
  ChatForm form = ChatForm::kV3;
  bool as_published = false;
  std::string chat_template;  // as the folder has it; may be empty
  std::shared_ptr<const TemplatePrompt> own_template;  // of ChatForm::kTemplate
  std::vector<TokenId> end_tokens;

  ChatPrompt prompt(std::span<const ChatMessage> messages, std::span<const Tool> tools,
                    bool thinking, bool add_generation_prompt = true) const;
};

// Which form to use: "auto" (DeepSeek's where the folder's template is one of theirs or missing,
// else the template itself), "v3", "r1", "v3.1", or "folder" (the template, whosever it is).
struct ChatFormChoice {
  std::string name = "auto";
  bool as_published = false;
};

// Reads tokenizer.json, tokenizer_config.json and chat_template.jinja. Errors: "folder" without a
// template, a template that cannot be parsed.
ChatVocabulary open_chat_vocabulary(FileSystem& files, const std::string& folder,
                                    const ChatFormChoice& choice);

}  // namespace fathom::serve
