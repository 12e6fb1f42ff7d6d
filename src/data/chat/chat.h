// Conversations as token ids: DeepSeek-V3's chat template (December 2024; SPEC C.13), built on ids.
// Role tags are placed as ids and contents are encoded as plain text, so no message can forge a
// role or end a turn.
//
//   bos, system messages joined by "\n\n", then per turn <｜User｜> text, <｜Assistant｜> text eos
//
// Nothing stands between a tag and the text; a system message anywhere counts to the front.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace fathom {

enum class Role { kSystem, kUser, kAssistant };

// "system", "user", "assistant"; anything else is an Error(kBadInput) that names `where`.
Role parse_role(std::string_view name, const std::string& where);
std::string_view role_name(Role role);

struct Message {
  Role role = Role::kUser;
  std::string content;
};

struct ChatOptions {
  bool add_bos = true;
  bool add_generation_prompt = false;  // end with <｜Assistant｜>, for the model to go on
};

struct RenderedChat {
  std::vector<TokenId> tokens;
  // As long as tokens. 1: this token is something the model is to learn to write (an assistant's
  // text and the eos behind it); the loss of predicting tokens[i] counts where loss_mask[i] is 1.
  std::vector<uint8_t> loss_mask;
};

// Errors: a vocabulary without the role tags (or bos, eos); the name of the first missing one is
// given.
RenderedChat render_chat(std::span<const Message> messages, const Tokenizer& tokenizer,
                         const ChatOptions& options = {});

// The same conversation as text, equal to what the published template gives. For people and for
// comparing; encode it with special tokens allowed and a user's text can forge tags.
std::string render_chat_text(std::span<const Message> messages, const ChatOptions& options = {});

}  // namespace fathom
