#include "data/chat/chat.h"

#include "core/error.h"

namespace fathom {
namespace {

std::string system_text(std::span<const Message> messages) {
  std::string text;
  bool first = true;
  for (const Message& message : messages) {
    if (message.role != Role::kSystem) continue;
    if (!first) text += "\n\n";
    text += message.content;
    first = false;
  }
  return text;
}

std::string_view name_of(TokenId SpecialTokens::*field) {
  for (const SpecialTokenName& token : special_token_names()) {
    if (token.field == field) return token.name;
  }
  FATHOM_CHECK(false, "every field has a name");
  return {};
}

void check_has_tags(const Tokenizer& tokenizer) {
  for (const auto field : {&SpecialTokens::bos, &SpecialTokens::eos, &SpecialTokens::user,
                           &SpecialTokens::assistant}) {
    if (tokenizer.special().*field != kNoToken) continue;
    throw_bad_input({"tokenizer", "added_tokens", "no " + std::string(name_of(field)),
                     "the tokens of DeepSeek's chat template",
                     "this vocabulary is not made for chat"});
  }
}

}  // namespace

std::string_view role_name(Role role) {
  switch (role) {
    case Role::kSystem:
      return "system";
    case Role::kUser:
      return "user";
    case Role::kAssistant:
      return "assistant";
  }
  FATHOM_CHECK(false, "role {}", static_cast<int>(role));
  return {};
}

Role parse_role(std::string_view name, const std::string& where) {
  for (const Role role : {Role::kSystem, Role::kUser, Role::kAssistant}) {
    if (name == role_name(role)) return role;
  }
  throw_bad_input({where, "role", fmt::format("\"{}\"", name), "system, user or assistant", ""});
}

RenderedChat render_chat(std::span<const Message> messages, const Tokenizer& tokenizer,
                         const ChatOptions& options) {
  check_has_tags(tokenizer);
  const SpecialTokens& special = tokenizer.special();
  RenderedChat chat;
  const auto add_tag = [&](TokenId id, uint8_t learn) {
    chat.tokens.push_back(id);
    chat.loss_mask.push_back(learn);
  };
  const auto add_text = [&](std::string_view text, uint8_t learn) {
    tokenizer.encode(text, {.allow_special = false}, chat.tokens);
    chat.loss_mask.resize(chat.tokens.size(), learn);
  };
  if (options.add_bos) add_tag(special.bos, 0);
  add_text(system_text(messages), 0);
  for (const Message& message : messages) {
    if (message.role == Role::kUser) {
      add_tag(special.user, 0);
      add_text(message.content, 0);
    } else if (message.role == Role::kAssistant) {
      add_tag(special.assistant, 0);
      add_text(message.content, 1);
      add_tag(special.eos, 1);
    }
  }
  if (options.add_generation_prompt) add_tag(special.assistant, 0);
  return chat;
}

std::string render_chat_text(std::span<const Message> messages, const ChatOptions& options) {
  std::string text;
  if (options.add_bos) text += name_of(&SpecialTokens::bos);
  text += system_text(messages);
  for (const Message& message : messages) {
    if (message.role == Role::kUser) {
      text.append(name_of(&SpecialTokens::user)).append(message.content);
    } else if (message.role == Role::kAssistant) {
      text.append(name_of(&SpecialTokens::assistant)).append(message.content);
      text += name_of(&SpecialTokens::eos);
    }
  }
  if (options.add_generation_prompt) text += name_of(&SpecialTokens::assistant);
  return text;
}

}  // namespace fathom
