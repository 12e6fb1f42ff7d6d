#include "serve/template_prompt.h"

#include <array>

#include "core/json.h"
#include "data/tokenizer/unicode.h"
#include "serve/api_error.h"

namespace fathom::serve {
namespace {

// Characters that Unicode keeps free for a program's own use: one that no message holds is the mark.
constexpr uint32_t kFirstMark = 0xFDD0, kLastMark = 0xFDEF;

size_t code_point_bytes(std::string_view text) {
  const auto byte = static_cast<unsigned char>(text[0]);
  const size_t bytes = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  return std::min(bytes, text.size());
}

// Puts the mark behind the first character of every tag that a text spells.
class Marker {
 public:
  Marker(const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
         std::span<const Tool> tools) {
    for (const AddedToken& token : tokenizer.definition().added) {
      if (token.content.size() <= code_point_bytes(token.content)) continue;
      tags_by_byte_[static_cast<unsigned char>(token.content[0])].push_back(token.content);
    }
    for (uint32_t mark = kFirstMark; mark_.empty(); ++mark) {
      if (mark > kLastMark)
        throw ApiError(400, "invalid_request_error", "too many characters that are none",
                       "messages");
      const std::string text = {'\xEF', '\xB7', static_cast<char>(0x90 + (mark - kFirstMark))};
      bool used = false;
      const auto look = [&](std::string_view in) {
        used = used || in.find(text) != std::string_view::npos;
      };
      for (const ChatMessage& message : messages) {
        look(message.content), look(message.reasoning_content), look(message.tool_call_id);
        for (const ToolCall& call : message.tool_calls)
          look(call.id), look(call.name), look(call.arguments);
      }
      for (const Tool& tool : tools) look(tool.description), look(tool.parameters);
      if (!used) mark_ = text;
    }
  }

  std::string operator()(std::string_view text, bool keeps_thoughts = false) {
    std::string marked;
    for (size_t at = 0; at < text.size();) {
      const size_t bytes = code_point_bytes(text.substr(at));
      marked += text.substr(at, bytes);
      for (const std::string_view tag : tags_by_byte_[static_cast<unsigned char>(text[at])]) {
        if (!text.substr(at).starts_with(tag)) continue;
        if (keeps_thoughts && (tag == "<think>" || tag == "</think>")) continue;
        marked += mark_;
        has_marked_ = true;
        break;
      }
      at += bytes;
    }
    return marked;
  }
  // All texts in a value.
  void mark_all(Json& value) {
    if (value.is_string()) {
      value = (*this)(value.get_ref<const std::string&>());
    } else if (value.is_structured()) {
      for (Json& item : value) mark_all(item);
    }
  }
  bool has_marked() const { return has_marked_; }
  const std::string& mark() const { return mark_; }

 private:
  std::array<std::vector<std::string_view>, 256> tags_by_byte_;
  std::string mark_;
  bool has_marked_ = false;
};

Json message_json(const ChatMessage& message, bool arguments_are_text, Marker& mark) {
  constexpr std::array<const char*, 4> kRoles = {"system", "user", "assistant", "tool"};
  const bool is_answer = message.role == ChatRole::kAssistant;
  Json json{{"role", kRoles[static_cast<size_t>(message.role)]},
            {"content", mark(message.content, is_answer)}};
  if (!message.reasoning_content.empty())
    json["reasoning_content"] = mark(message.reasoning_content);
  if (!message.tool_call_id.empty()) json["tool_call_id"] = mark(message.tool_call_id);
  for (const ToolCall& call : message.tool_calls) {
    Json arguments = mark(call.arguments);
    if (!arguments_are_text) {
      // What is no JSON stays the text that it is.
      const Json parsed = Json::parse(call.arguments, nullptr, /*allow_exceptions=*/false);
      if (parsed.is_object()) {
        arguments = parsed;
        mark.mark_all(arguments);
      }
    }
    json["tool_calls"].push_back(
        {{"id", mark(call.id)},
         {"type", "function"},
         {"function", {{"name", mark(call.name)}, {"arguments", std::move(arguments)}}}});
  }
  return json;
}

Json tool_json(const Tool& tool, Marker& mark) {
  Json parameters = tool.parameters.empty() ? Json::object()
                                            : parse_json(tool.parameters, "parameters");
  mark.mark_all(parameters);
  return {{"type", "function"},
          {"function",
           {{"name", tool.name},
            {"description", mark(tool.description)},
            {"parameters", std::move(parameters)}}}};
}

// Runs of text lose their marks and are encoded as text; tags stay.
std::vector<TokenId> encode_marked(const Tokenizer& tokenizer, const std::string& text,
                                   const std::string& mark) {
  std::vector<TokenId> ids;
  std::string run;
  const auto end_run = [&] {
    for (size_t at = 0; (at = run.find(mark, at)) != std::string::npos;) run.erase(at, mark.size());
    tokenizer.encode(run, {.allow_special = false}, ids);
    run.clear();
  };
  for (const TokenId id : tokenizer.encode(text, {.allow_special = true})) {
    if (tokenizer.is_added(id)) {
      end_run();
      ids.push_back(id);
    } else {
      run += tokenizer.token_bytes(id);
    }
  }
  end_run();
  return ids;
}

// The prompt's last tag opens a thought, and nothing but space follows.
bool ends_in_thought(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  while (!ids.empty() && !tokenizer.is_added(ids.back())) {
    if (tokenizer.token_bytes(ids.back()).find_first_not_of(" \n") != std::string_view::npos)
      return false;
    ids = ids.first(ids.size() - 1);
  }
  return !ids.empty() && ids.back() == tokenizer.special().think_begin;
}

}  // namespace

TemplatePrompt::TemplatePrompt(std::string_view source, const std::string& where,
                               std::map<std::string, std::string> special_texts,
                               const Tokenizer& tokenizer)
    : template_(source, where),
      special_texts_(std::move(special_texts)),
      tokenizer_(tokenizer),
      arguments_are_text_(source.find("<｜Assistant｜>") != std::string_view::npos) {}

ChatPrompt TemplatePrompt::prompt(std::span<const ChatMessage> messages,
                                  std::span<const Tool> tools, bool thinking,
                                  bool add_generation_prompt, std::time_t now) const {
  Marker mark(tokenizer_, messages, tools);
  const bool has_prefix = !messages.empty() && messages.back().prefix;
  Json variables{{"messages", Json::array()},
                 {"tools", nullptr},
                 {"add_generation_prompt", add_generation_prompt || has_prefix},
                 {"thinking", thinking},
                 {"enable_thinking", thinking}};
  for (const auto& [name, text] : special_texts_) variables[name] = text;
  for (const ChatMessage& message : messages.first(messages.size() - (has_prefix ? 1 : 0)))
    variables["messages"].push_back(message_json(message, arguments_are_text_, mark));
  for (const Tool& tool : tools) variables["tools"].push_back(tool_json(tool, mark));
  std::string text;
  try {
    text = template_.render(variables, now);
  } catch (const Error& error) {
    throw ApiError(400, "invalid_request_error",
                   fmt::format("the model's chat template refuses this conversation: {}",
                               error.what()),
                   "messages");
  }
  if (has_prefix) text += mark(messages.back().content, /*keeps_thoughts=*/true);
  ChatPrompt prompt;
  prompt.tokens = mark.has_marked() ? encode_marked(tokenizer_, text, mark.mark())
                                    : tokenizer_.encode(text, {.allow_special = true});
  prompt.begins_in_thought = ends_in_thought(tokenizer_, prompt.tokens);
  return prompt;
}

}  // namespace fathom::serve
