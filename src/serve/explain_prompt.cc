#include "serve/explain_prompt.h"

#include <algorithm>

#include "core/error.h"
#include "serve/api_error.h"

namespace fathom::serve {
namespace {

constexpr std::string_view kThinkBegin = "<think>", kThinkEnd = "</think>";

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// The thought that an answer came with, in its own field or in its text.
std::string_view thought_of(const ChatMessage& message) {
  if (!message.reasoning_content.empty()) return trim(message.reasoning_content);
  std::string_view text = message.content;
  const size_t end = text.find(kThinkEnd);
  if (end == std::string_view::npos) return {};
  text = text.substr(0, end);
  const size_t begin = text.find(kThinkBegin);
  return trim(begin == std::string_view::npos ? text : text.substr(begin + kThinkBegin.size()));
}

// Where two texts part, with a few bytes of both from there on.
std::string difference(std::string_view ours, std::string_view theirs) {
  size_t at = static_cast<size_t>(
      std::mismatch(ours.begin(), ours.end(), theirs.begin(), theirs.end()).first - ours.begin());
  while (at > 0 && at < ours.size() && (static_cast<unsigned char>(ours[at]) & 0xC0) == 0x80) --at;
  // From the beginning of a tag that both began.
  const size_t open = at == 0 ? std::string_view::npos : ours.rfind('<', at - 1);
  if (open != std::string_view::npos && ours.find('>', open) >= at) at = open;
  const auto excerpt = [&](std::string_view text) {
    if (at >= text.size()) return std::string("nothing");
    size_t end = std::min(text.size(), at + 60);
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
    return fmt::format("\"{}\"", text.substr(at, end - at));
  };
  return fmt::format("from byte {} on {} instead of {}", at, excerpt(theirs), excerpt(ours));
}

std::vector<PromptPart> parts_of(const Tokenizer& tokenizer, std::span<const TokenId> tokens) {
  std::vector<PromptPart> parts;
  for (size_t i = 0; i < tokens.size();) {
    size_t end = i + 1;
    const bool is_tag = tokenizer.is_added(tokens[i]);
    while (!is_tag && end < tokens.size() && !tokenizer.is_added(tokens[end])) ++end;
    parts.push_back({.tag = is_tag ? tokens[i] : kNoToken,
                     .text = utf8_text(tokenizer, tokens.subspan(i, end - i)),
                     .num_tokens = static_cast<int64_t>(end - i)});
    i = end;
  }
  return parts;
}

std::string own_template_note(const ChatVocabulary& own, const std::string& text,
                              std::span<const ChatMessage> messages, std::span<const Tool> tools,
                              bool thinking, bool add_generation_prompt) {
  try {
    const std::string other = utf8_text(
        own.tokenizer, own.prompt(messages, tools, thinking, add_generation_prompt).tokens);
    if (other == text) return "the folder's own chat template writes the same";
    return "the folder's own chat template writes " + difference(text, other);
  } catch (const Error& error) {
    return fmt::format("the folder's own chat template refuses this: {}", error.what());
  } catch (const ApiError& error) {
    return fmt::format("the folder's own chat template refuses this: {}", error.what());
  }
}

}  // namespace

PromptExplanation explain_prompt(const ChatVocabulary& chat, const ChatVocabulary* own,
                                 std::span<const ChatMessage> messages, std::span<const Tool> tools,
                                 bool thinking, bool add_generation_prompt) {
  PromptExplanation result;
  result.prompt = chat.prompt(messages, tools, thinking, add_generation_prompt);
  const std::vector<TokenId>& tokens = result.prompt.tokens;
  const Tokenizer& tokenizer = chat.tokenizer;
  const std::string text = utf8_text(tokenizer, tokens);
  result.parts = parts_of(tokenizer, tokens);

  const TokenId bos = tokenizer.special().bos;
  const auto begins = std::find_if(tokens.begin(), tokens.end(),
                                   [&](TokenId id) { return id != bos; }) - tokens.begin();
  if (bos != kNoToken && begins != 1) {
    result.notes.push_back(fmt::format("{} stands at the beginning {} times, and models expect it once",
                                       tokenizer.token_bytes(bos), begins));
  }
  const std::vector<AddedToken> tags = tokenizer.definition().added;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string_view thought = thought_of(messages[i]);
    if (!thought.empty() && text.find(thought) == std::string::npos)
      result.notes.push_back(fmt::format(
          "messages[{}]: its thought ({} bytes) is not shown to the model", i, thought.size()));
    // Tags are spelled with letters that few would type by chance; what people typed is text.
    for (const AddedToken& tag : tags) {
      if (tag.content.empty() || messages[i].content.find(tag.content) == std::string::npos)
        continue;
      if (messages[i].role == ChatRole::kAssistant &&
          (tag.content == kThinkBegin || tag.content == kThinkEnd))
        continue;
      result.notes.push_back(
          fmt::format("messages[{}]: spells {}, which stays plain text", i, tag.content));
    }
  }
  if (own != nullptr)
    result.notes.push_back(
        own_template_note(*own, text, messages, tools, thinking, add_generation_prompt));
  return result;
}

}  // namespace fathom::serve
