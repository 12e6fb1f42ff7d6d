#include "serve/chat_prompt.h"

#include <fmt/format.h>

#include "core/json.h"
#include "data/chat/jinja/value.h"
#include "data/tokenizer/unicode.h"
#include "serve/api_error.h"

namespace fathom::serve {
namespace {

// The wording of V3.1's model card, whose template leaves tools to the system message; for V3 and R1
// none is published, and they get the same with the form of calls that they were taught.
constexpr std::string_view kToolsHead = "## Tools\nYou have access to the following tools:\n";
constexpr std::string_view kCallV31 =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments"
    "<｜tool▁call▁end｜>{additional_tool_calls}<｜tool▁calls▁end｜>";
constexpr std::string_view kCallV3 =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>tool_call_name\n"
    "```json\ntool_call_arguments\n```<｜tool▁call▁end｜>{additional_tool_calls}<｜tool▁calls▁end｜>";
constexpr std::string_view kToolsTail =
    "\n\nWhere:\n\n- `tool_call_name` must be an exact match to one of the available tools\n"
    "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
    "- For multiple tool calls, chain them directly without separators or spaces\n";

// As Python's json.dumps writes it, with which the cards make their prompts.
std::string python_json(const std::string& text) {
  if (text.empty()) return "{}";
  return jinja::to_json(jinja::from_json(parse_json(text, "parameters")), {});
}

std::string_view name_of(TokenId SpecialTokens::*field) {
  for (const SpecialTokenName& token : special_token_names()) {
    if (token.field == field) return token.name;
  }
  return "?";
}

class PromptWriter {
 public:
  explicit PromptWriter(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), special_(tokenizer.special()) {}

  void tag(TokenId SpecialTokens::*field) {
    const TokenId id = special_.*field;
    if (id == kNoToken)
      throw ApiError(400, "invalid_request_error",
                     fmt::format("this model's vocabulary has no {}, which this request needs",
                                 name_of(field)));
    tokens_.push_back(id);
  }
  void text(std::string_view text) {
    tokenizer_.encode(text, {.allow_special = false}, tokens_);
  }
  // Of our own, in which tags are tags.
  void trusted(std::string_view text) {
    tokenizer_.encode(text, {.allow_special = true}, tokens_);
  }
  std::vector<TokenId> take() { return std::move(tokens_); }

 private:
  const Tokenizer& tokenizer_;
  const SpecialTokens& special_;
  std::vector<TokenId> tokens_;
};

// Writes message by message. What it must remember is what the published templates remember, under
// names that say what for; where those forget to reset it, as_published forgets too.
class ChatWriter {
 public:
  ChatWriter(const ChatPromptOptions& options, const Tokenizer& tokenizer)
      : options_(options),
        is_v31_(options.form == ChatForm::kV31),
        published_(options.as_published),
        out_(tokenizer) {}

  ChatPrompt write(std::span<const ChatMessage> messages, std::span<const Tool> tools) {
    out_.tag(&SpecialTokens::bos);
    head(messages, tools);
    for (const ChatMessage& message : messages) {
      if (message.role == ChatRole::kUser) user(message);
      if (message.role == ChatRole::kTool) result(message);
      if (message.role == ChatRole::kAssistant) answer(message);
    }
    if (in_results_) end_results();
    if (options_.add_generation_prompt && !open_) begin_reply();
    prompt_.tokens = out_.take();
    return std::move(prompt_);
  }

 private:
  void head(std::span<const ChatMessage> messages, std::span<const Tool> tools) {
    bool has_system = false;
    for (const ChatMessage& message : messages) {
      if (message.role != ChatRole::kSystem) continue;
      if (std::exchange(has_system, true)) out_.text("\n\n");
      out_.text(message.content);
    }
    if (tools.empty()) return;
    if (has_system) out_.text("\n\n");
    out_.trusted(kToolsHead);
    for (const Tool& tool : tools) {
      out_.text(fmt::format("\n### {}\nDescription: {}\n\nParameters: {}\n", tool.name,
                            tool.description, python_json(tool.parameters)));
    }
    out_.trusted("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
    out_.trusted(is_v31_ ? kCallV31 : kCallV3);
    out_.trusted(kToolsTail);
  }

  void user(const ChatMessage& message) {
    if (in_results_ && !published_) end_results();
    in_results_ = false;
    out_.tag(&SpecialTokens::user);
    out_.text(message.content);
    follows_user_ = true;
  }

  // V3.1 writes results without a pair of tags around them all.
  void result(const ChatMessage& message) {
    if (!is_v31_ && !std::exchange(results_begun_, true))
      out_.tag(&SpecialTokens::tool_outputs_begin);
    out_.tag(&SpecialTokens::tool_output_begin);
    out_.text(message.content);
    out_.tag(&SpecialTokens::tool_output_end);
    in_results_ = true;
    follows_user_ = false;
  }
  void end_results() {
    if (!is_v31_) out_.tag(&SpecialTokens::tool_outputs_end);
    if (!published_) results_begun_ = false;
  }

  void answer(const ChatMessage& message) {
    const bool has_calls = !message.tool_calls.empty();
    const bool after_results = std::exchange(in_results_, false);
    const bool after_user = std::exchange(follows_user_, false);
    if (published_ && !is_v31_ && has_calls) return published_calls(message);
    if (after_results) end_results();
    if (published_ && is_v31_ ? after_user : !after_results) {
      out_.tag(&SpecialTokens::assistant);
      if (begins_thought(message)) return thought_prefix(message);
      if (is_v31_) out_.tag(&SpecialTokens::think_end);
    }
    const bool whole = published_ && (after_results || has_calls);
    out_.text(whole ? std::string_view(message.content) : without_thought(message.content));
    if (has_calls) calls(message.tool_calls);
    end_answer(message);
  }
  void end_answer(const ChatMessage& message) {
    if (message.prefix) {
      open_ = true;
    } else {
      out_.tag(&SpecialTokens::eos);
    }
  }
  // A prefix with a thought; V3.1's template also takes the text for one if it is to think.
  bool begins_thought(const ChatMessage& message) const {
    if (!message.prefix || options_.form == ChatForm::kV3) return false;
    if (published_) return is_v31_ && options_.thinking;
    return !message.reasoning_content.empty();
  }
  void thought_prefix(const ChatMessage& message) {
    out_.tag(&SpecialTokens::think_begin);
    prompt_.begins_in_thought = true;
    if (options_.form == ChatForm::kR1) out_.text("\n");
    if (published_) {
      out_.text(without_thought(message.content));
    } else {
      out_.text(message.reasoning_content);
      if (!message.content.empty()) {
        out_.tag(&SpecialTokens::think_end);
        prompt_.begins_in_thought = false;
        out_.text(message.content);
      }
    }
    open_ = true;
  }

  void calls(std::span<const ToolCall> calls) {
    out_.tag(&SpecialTokens::tool_calls_begin);
    bool first = true;
    for (const ToolCall& one : calls) {
      if (!std::exchange(first, false) && !is_v31_) out_.text("\n");
      call(one);
    }
    out_.tag(&SpecialTokens::tool_calls_end);
  }
  // V3's and R1's template opens the assistant's turn and the calls before the first call of the
  // whole conversation only; every other is a further call to it.
  void published_calls(const ChatMessage& message) {
    for (const ToolCall& one : message.tool_calls) {
      if (std::exchange(calls_begun_, true)) {
        out_.text("\n");
      } else {
        out_.tag(&SpecialTokens::assistant);
        out_.text(message.content);
        out_.tag(&SpecialTokens::tool_calls_begin);
      }
      call(one);
    }
    out_.tag(&SpecialTokens::tool_calls_end);
    end_answer(message);
  }
  void call(const ToolCall& call) {
    out_.tag(&SpecialTokens::tool_call_begin);
    out_.text(is_v31_ ? std::string_view(call.name) : "function");
    out_.tag(&SpecialTokens::tool_sep);
    out_.text(is_v31_ ? call.arguments
                      : fmt::format("{}\n```json\n{}\n```", call.name, call.arguments));
    out_.tag(&SpecialTokens::tool_call_end);
  }

  void begin_reply() {
    if (in_results_ || (published_ && is_v31_ && !follows_user_)) return;
    out_.tag(&SpecialTokens::assistant);
    if (options_.form == ChatForm::kR1 || (is_v31_ && options_.thinking)) {
      out_.tag(&SpecialTokens::think_begin);
      prompt_.begins_in_thought = true;
      if (options_.form == ChatForm::kR1) out_.text("\n");
    } else if (is_v31_) {
      out_.tag(&SpecialTokens::think_end);
    }
  }

  // What of an earlier answer is shown again: not its thought. V3.1 cuts at the first end of one,
  // the others at the last.
  std::string_view without_thought(std::string_view content) const {
    constexpr std::string_view kEnd = "</think>";
    const size_t at = is_v31_ ? content.find(kEnd) : content.rfind(kEnd);
    return at == std::string_view::npos ? content : content.substr(at + kEnd.size());
  }

  const ChatPromptOptions& options_;
  const bool is_v31_, published_;
  PromptWriter out_;
  ChatPrompt prompt_;
  bool in_results_ = false;     // the last thing written was a tool's result
  bool results_begun_ = false;  // the tag before them stands
  bool calls_begun_ = false;    // there has been a call (as published)
  bool follows_user_ = false;   // the last thing written was a user's
  bool open_ = false;           // the assistant is to go on as it is
};

}  // namespace

const char* chat_form_name(ChatForm form) {
  switch (form) {
    case ChatForm::kV3:
      return "v3";
    case ChatForm::kR1:
      return "r1";
    case ChatForm::kV31:
      return "v3.1";
    case ChatForm::kTemplate:
      return "template";
  }
  FATHOM_CHECK(false, "form {}", static_cast<int>(form));
  return {};
}

ChatForm chat_form_of(std::string_view chat_template, const Tokenizer& tokenizer) {
  const auto has = [&](std::string_view text) {
    return chat_template.find(text) != std::string_view::npos;
  };
  if (!chat_template.empty() && !has(name_of(&SpecialTokens::assistant)))
    return ChatForm::kTemplate;
  const SpecialTokens& special = tokenizer.special();
  if (special.think_begin == kNoToken || special.think_end == kNoToken) return ChatForm::kV3;
  // V3's template too cuts thoughts from earlier answers, at </think>; R1's alone opens one, and
  // V3.1's asks whether to.
  if (has("thinking")) return ChatForm::kV31;
  return has("<think>") ? ChatForm::kR1 : ChatForm::kV3;
}

ChatPrompt chat_prompt(std::span<const ChatMessage> messages, std::span<const Tool> tools,
                       const ChatPromptOptions& options, const Tokenizer& tokenizer) {
  FATHOM_CHECK(options.form != ChatForm::kTemplate, "a template has a writer of its own");
  return ChatWriter(options, tokenizer).write(messages, tools);
}

std::string utf8_text(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  return utf8_with_replacement(tokenizer.decode(ids));
}

std::vector<TokenId> infill_prompt(std::string_view prefix, std::string_view suffix,
                                   const Tokenizer& tokenizer) {
  PromptWriter out(tokenizer);
  out.tag(&SpecialTokens::bos);
  out.tag(&SpecialTokens::fim_begin);
  out.text(prefix);
  out.tag(&SpecialTokens::fim_hole);
  out.text(suffix);
  out.tag(&SpecialTokens::fim_end);
  return out.take();
}

}  // namespace fathom::serve
