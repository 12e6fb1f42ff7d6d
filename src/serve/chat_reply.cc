#include "serve/chat_reply.h"

#include <algorithm>

#include "data/tokenizer/unicode.h"
#include "model/config.h"

namespace fathom::serve {
namespace {

// JSON has no infinity; a token that cannot be has this log-probability, as in OpenAI's replies.
double finite(double logprob) { return std::max(logprob, -9999.0); }

std::string token_json(const Tokenizer& tokenizer, TokenId id, double logprob) {
  const std::string_view bytes = tokenizer.token_bytes(id);
  std::string list;
  for (const char c : bytes) {
    if (!list.empty()) list += ',';
    list += fmt::format("{}", static_cast<unsigned char>(c));
  }
  return fmt::format(R"("token":{},"logprob":{:.6f},"bytes":[{}])", json_string(bytes),
                     finite(logprob), list);
}

}  // namespace

std::string logprob_entry(const Tokenizer& tokenizer, const GeneratedToken& token) {
  std::string top;
  for (const TokenLogprob& other : token.top) {
    if (other.id < 0 || !tokenizer.is_valid(other.id)) continue;
    append_item(top, "{" + token_json(tokenizer, other.id, other.logprob) + "}");
  }
  return fmt::format(R"({{{},"top_logprobs":[{}]}})",
                     token_json(tokenizer, token.id, token.logprob), top);
}

// {"text": …, "layers": [[experts of layer 0], …]}, none for a dense layer.
std::string route_entry(const Tokenizer& tokenizer, const ModelConfig& config,
                        const GeneratedToken& token) {
  std::string layers;
  auto expert = token.experts.begin();
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::string experts;
    for (int64_t a = 0; config.is_moe_layer(layer) && a < config.num_experts_per_tok; ++a)
      append_item(experts, fmt::format("{}", *expert++));
    append_item(layers, "[" + experts + "]");
  }
  return fmt::format(R"({{"text":{},"layers":[{}]}})",
                     json_string(utf8_with_replacement(tokenizer.token_bytes(token.id))), layers);
}

std::string ChatReply::head_json(const char* object) const {
  return fmt::format(
      R"({{"id":"{}","object":"{}","created":{},"model":{},"system_fingerprint":"fp_fathom")", id_,
      object, created_unix_, json_string(input_.model));
}

std::string ChatReply::logprobs_json(const std::string& entries) const {
  if (parameters().num_top_logprobs < 0) return "null";
  return fmt::format(R"({{"content":[{}]}})", entries);
}

void ChatReply::send_chunk(int64_t choice_idx, const std::string& delta,
                           const char* finish_reason) {
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  std::string chunk = head_json("chat.completion.chunk");
  chunk += fmt::format(R"(,"choices":[{{"index":{},"delta":{},"logprobs":{},"finish_reason":{})",
                       choice_idx, delta,
                       text.logprobs.empty() ? "null" : logprobs_json(text.logprobs),
                       finish_reason == nullptr ? "null" : fmt::format("\"{}\"", finish_reason));
  if (parameters().return_token_ids) chunk += fmt::format(R"(,"token_ids":[{}])", text.token_ids);
  if (parameters().return_routes) chunk += fmt::format(R"(,"token_routes":[{}])", text.routes);
  text.logprobs.clear();
  text.token_ids.clear();
  text.routes.clear();
  chunk += "}]";
  // DeepSeek's own default puts the usage into the last chunk; OpenAI's into one of its own.
  if (parameters().include_usage) {
    chunk += R"(,"usage":null)";
  } else if (num_ended_ == static_cast<int64_t>(choices_.size())) {
    chunk += fmt::format(R"(,"usage":{},"x_fathom":{})", usage_json(), timings_json());
  }
  send_event(chunk + "}");
}

void ChatReply::pieces(int64_t choice_idx, std::vector<Piece>& pieces,
                       const std::vector<GeneratedToken>& tokens) {
  texts_.resize(choices_.size());
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  if (!text.begun && streams()) {
    text.begun = true;
    send_chunk(choice_idx, R"({"role":"assistant","content":""})", nullptr);
  }
  for (const GeneratedToken& token : tokens) {
    if (parameters().num_top_logprobs >= 0)
      append_item(text.logprobs, logprob_entry(tokenizer(), token));
    if (parameters().return_token_ids) append_item(text.token_ids, fmt::format("{}", token.id));
    if (!token.experts.empty())
      append_item(text.routes,
                  route_entry(tokenizer(), input_.served->host->config(), token));
  }
  // Neighbours of one kind become one chunk.
  for (size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces[i];
    if (piece.kind != Piece::kToolCall && i + 1 < pieces.size() &&
        pieces[i + 1].kind == piece.kind) {
      pieces[i + 1].text.insert(0, piece.text);
      continue;
    }
    if (piece.kind == Piece::kToolCall) {
      const std::string body = fmt::format(
          R"("id":"call_{}_{}","type":"function","function":{{"name":{},"arguments":{}}})",
          text.num_calls, random_uuid(), json_string(piece.tool_name), json_string(piece.text));
      append_item(text.tool_calls, "{" + body + "}");
      if (streams())
        send_chunk(choice_idx,
                   fmt::format(R"({{"tool_calls":[{{"index":{},{}}}]}})", text.num_calls, body),
                   nullptr);
      ++text.num_calls;
    } else if (piece.kind == Piece::kToolArguments) {
      // Only streams have them.
      send_chunk(choice_idx,
                 fmt::format(R"({{"tool_calls":[{{"index":{},"function":{{"arguments":{}}}}}]}})",
                             text.num_calls - 1, json_string(piece.text)),
                 nullptr);
    } else if (!streams()) {
      (piece.kind == Piece::kThought ? text.thought : text.content) += piece.text;
    } else if (piece.kind == Piece::kThought) {
      send_chunk(choice_idx,
                 fmt::format(R"({{"reasoning_content":{},"content":null}})",
                             json_string(piece.text)),
                 nullptr);
    } else {
      send_chunk(choice_idx, fmt::format(R"({{"content":{}}})", json_string(piece.text)), nullptr);
    }
  }
}

void ChatReply::end_choice(int64_t choice_idx) {
  texts_.resize(choices_.size());
  ++num_ended_;
  if (!streams()) return;
  Text& text = texts_[static_cast<size_t>(choice_idx)];
  if (!text.begun) {
    --num_ended_;
    text.begun = true;
    send_chunk(choice_idx, R"({"role":"assistant","content":""})", nullptr);
    ++num_ended_;
  }
  send_chunk(choice_idx, R"({"content":""})",
             choices_[static_cast<size_t>(choice_idx)].finish_reason);
}

void ChatReply::end_reply() {
  if (streams()) {
    if (parameters().include_usage) {
      send_event(fmt::format(R"({},"choices":[],"usage":{},"x_fathom":{}}})",
                             head_json("chat.completion.chunk"), usage_json(), timings_json()));
    }
    send_event("[DONE]");
    return reply().end();
  }
  std::string list;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Text& text = texts_[i];
    std::string message = fmt::format(
        R"("role":"assistant","content":{})",
        text.content.empty() && text.num_calls > 0 ? "null" : json_string(text.content));
    if (input_.reader.begins_in_thought || !text.thought.empty())
      message += fmt::format(R"(,"reasoning_content":{})", json_string(text.thought));
    if (text.num_calls > 0) message += fmt::format(R"(,"tool_calls":[{}])", text.tool_calls);
    std::string choice = fmt::format(
        R"({{"index":{},"message":{{{}}},"logprobs":{},"finish_reason":"{}")", i, message,
        logprobs_json(text.logprobs), choices_[i].finish_reason);
    if (parameters().return_token_ids)
      choice += fmt::format(R"(,"token_ids":[{}])", text.token_ids);
    if (parameters().return_routes)
      choice += fmt::format(R"(,"token_routes":[{}])", text.routes);
    append_item(list, choice + "}");
  }
  send_json(fmt::format(R"({},"choices":[{}],"usage":{},"x_fathom":{}}})",
                        head_json("chat.completion"), list, usage_json(), timings_json()));
}

}  // namespace fathom::serve
