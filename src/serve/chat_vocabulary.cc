#include "serve/chat_vocabulary.h"

#include <ctime>
#include <map>

#include "core/json.h"

namespace fathom::serve {
namespace {

// A token by its text, or by transformers' object with a "content".
std::string token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return {};
}

// A text, or a list of named ones, of which "default" is for conversations.
std::string template_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return {};
  for (const Json& one : value) {
    if (one.is_object() && one.value("name", "") == "default" && one.contains("template") &&
        one["template"].is_string())
      return one["template"].get<std::string>();
  }
  return {};
}

ChatForm form_of(const ChatFormChoice& choice, const ChatVocabulary& chat) {
  if (choice.name == "v3") return ChatForm::kV3;
  if (choice.name == "r1") return ChatForm::kR1;
  if (choice.name == "v3.1") return ChatForm::kV31;
  if (choice.name == "folder") return ChatForm::kTemplate;
  return chat_form_of(chat.chat_template, chat.tokenizer);
}

}  // namespace

ChatPrompt ChatVocabulary::prompt(std::span<const ChatMessage> messages,
                                  std::span<const Tool> tools, bool thinking,
                                  bool add_generation_prompt) const {
  if (form == ChatForm::kTemplate)
    return own_template->prompt(messages, tools, thinking, add_generation_prompt,
                                std::time(nullptr));
  return chat_prompt(messages, tools,
                     {.form = form,
                      .as_published = as_published,
                      .thinking = thinking,
                      .add_generation_prompt = add_generation_prompt},
                     tokenizer);
}

ChatVocabulary open_chat_vocabulary(FileSystem& files, const std::string& folder,
                                    const ChatFormChoice& choice) {
  ChatVocabulary chat{.tokenizer = Tokenizer::load(files, folder)};
  std::map<std::string, std::string> special_texts;
  const std::string config_path = join_path(folder, "tokenizer_config.json");
  std::string template_path = config_path;
  if (files.info(config_path).exists) {
    const Json config = parse_json(files.read_all(config_path), config_path);
    if (config.is_object()) {
      for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
        if (config.contains(name)) special_texts[name] = token_text(config[name]);
      }
      if (config.contains("chat_template"))
        chat.chat_template = template_text(config["chat_template"]);
    }
  }
  const std::string own_file = join_path(folder, "chat_template.jinja");
  if (files.info(own_file).exists) {
    chat.chat_template = files.read_all(own_file);
    template_path = own_file;
  }
  const SpecialTokens& special = chat.tokenizer.special();
  const TokenId named_end = chat.tokenizer.added_token_id(special_texts["eos_token"]);
  for (const TokenId id : {special.eos, special.user, special.bos, special.eot, named_end}) {
    if (id != kNoToken) chat.end_tokens.push_back(id);
  }
  chat.form = form_of(choice, chat);
  chat.as_published = choice.as_published;
  if (chat.form == ChatForm::kTemplate) {
    if (chat.chat_template.empty())
      throw_bad_input({template_path, "chat_template", "none", "a chat template",
                       "--template v3, r1 or v3.1 is built in"});
    chat.own_template = std::make_shared<const TemplatePrompt>(
        chat.chat_template, template_path, std::move(special_texts), chat.tokenizer);
  }
  return chat;
}

}  // namespace fathom::serve
