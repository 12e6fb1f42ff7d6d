#include "serve/completion_reply.h"

#include <algorithm>
#include <map>

#include "data/tokenizer/unicode.h"

namespace fathom::serve {
namespace {

int64_t num_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string logprob_text(double logprob) { return fmt::format("{:.6f}", std::max(logprob, -9999.0)); }

}  // namespace

std::string CompletionReply::head_json() const {
  return fmt::format(
      R"({{"id":"{}","object":"text_completion","created":{},"model":{},"system_fingerprint":"fp_fathom")",
      id_, created_unix_, json_string(input_.model));
}

void CompletionReply::score(Text& text, const GeneratedToken& token, bool has_logprob) {
  const std::string_view bytes = tokenizer().token_bytes(token.id);
  const std::string shown = utf8_with_replacement(bytes);
  if (parameters().return_token_ids) append_item(text.token_ids, fmt::format("{}", token.id));
  if (parameters().num_top_logprobs >= 0) {
    Scores& scores = text.scores;
    append_item(scores.tokens, json_string(shown));
    append_item(scores.logprobs, has_logprob ? logprob_text(token.logprob) : "null");
    append_item(scores.offsets, fmt::format("{}", text.offset));
    if (!has_logprob) {
      append_item(scores.top, "null");
    } else {
      // By text: of several tokens with the same, the likeliest counts. The token itself is among
      // them, as in OpenAI's replies.
      std::map<std::string, double> top;
      const auto add = [&](TokenId id, double logprob) {
        if (id < 0 || !tokenizer().is_valid(id)) return;
        const auto [it, is_new] =
            top.emplace(utf8_with_replacement(tokenizer().token_bytes(id)), logprob);
        if (!is_new) it->second = std::max(it->second, logprob);
      };
      for (const TokenLogprob& other : token.top) add(other.id, other.logprob);
      add(token.id, token.logprob);
      std::string list;
      for (const auto& [name, logprob] : top)
        append_item(list, fmt::format("{}:{}", json_string(name), logprob_text(logprob)));
      append_item(scores.top, "{" + list + "}");
    }
  }
  text.offset += num_characters(shown);
}

// What stands before the first new token.
void CompletionReply::begin(int64_t choice_idx) {
  texts_.resize(choices_.size());
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  if (std::exchange(text.begun, true)) return;
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  const auto prompt_idx = static_cast<size_t>(choice.prompt_idx);
  if (!echo_) {
    text.offset = num_characters(prompt_texts_[prompt_idx]);
    return;
  }
  text.text = prompt_texts_[prompt_idx];
  if (!choice.prompt_logprobs.empty()) {
    for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i)
      score(text, choice.prompt_logprobs[i], i > 0);
  } else {
    text.offset = num_characters(text.text);
  }
  text.token_ids.clear();
}

std::string CompletionReply::choice_json(int64_t choice_idx, const std::string& text,
                                         const char* finish_reason) {
  Text& state = texts_[static_cast<size_t>(choice_idx)];
  std::string logprobs = "null";
  if (parameters().num_top_logprobs >= 0) {
    logprobs = fmt::format(
        R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})",
        state.scores.tokens, state.scores.logprobs, state.scores.top, state.scores.offsets);
  }
  std::string json = fmt::format(
      R"({{"index":{},"text":{},"logprobs":{},"finish_reason":{})", choice_idx, json_string(text),
      logprobs, finish_reason == nullptr ? "null" : fmt::format("\"{}\"", finish_reason));
  if (parameters().return_token_ids) json += fmt::format(R"(,"token_ids":[{}])", state.token_ids);
  return json + "}";
}

void CompletionReply::send_chunk(int64_t choice_idx, const char* finish_reason) {
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  std::string chunk =
      head_json() +
      fmt::format(R"(,"choices":[{}])", choice_json(choice_idx, text.text, finish_reason));
  text.text.clear();
  text.scores = {};
  text.token_ids.clear();
  if (parameters().include_usage) {
    chunk += R"(,"usage":null)";
  } else if (num_ended_ == static_cast<int64_t>(choices_.size())) {
    chunk += fmt::format(R"(,"usage":{},"x_fathom":{})", usage_json(), timings_json());
  }
  send_event(chunk + "}");
}

void CompletionReply::pieces(int64_t choice_idx, std::vector<Piece>& pieces,
                             const std::vector<GeneratedToken>& tokens) {
  begin(choice_idx);
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  for (const GeneratedToken& token : tokens) score(text, token, true);
  for (const Piece& piece : pieces) text.text += piece.text;
  if (streams() && (!text.text.empty() || !text.scores.tokens.empty()))
    send_chunk(choice_idx, nullptr);
}

void CompletionReply::end_choice(int64_t choice_idx) {
  begin(choice_idx);
  ++num_ended_;
  if (streams()) send_chunk(choice_idx, choices_[static_cast<size_t>(choice_idx)].finish_reason);
}

void CompletionReply::end_reply() {
  if (streams()) {
    if (parameters().include_usage) {
      send_event(fmt::format(R"({},"choices":[],"usage":{},"x_fathom":{}}})", head_json(),
                             usage_json(), timings_json()));
    }
    send_event("[DONE]");
    return reply().end();
  }
  std::string list;
  for (size_t i = 0; i < choices_.size(); ++i) {
    append_item(list, choice_json(static_cast<int64_t>(i), texts_[i].text,
                                  choices_[i].finish_reason));
  }
  send_json(fmt::format(R"({},"choices":[{}],"usage":{},"x_fathom":{}}})", head_json(), list,
                        usage_json(), timings_json()));
}

}  // namespace fathom::serve
