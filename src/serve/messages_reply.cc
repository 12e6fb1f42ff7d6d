#include "serve/messages_reply.h"

namespace fathom::serve {
namespace {

std::string tool_use_json(const Piece& call, const std::string& input) {
  return fmt::format(R"({{"type":"tool_use","id":"toolu_{}","name":{},"input":{}}})",
                     random_uuid(), json_string(call.tool_name), input);
}

}  // namespace

std::string messages_error_body(const ApiError& error) {
  const int status = error.status();
  const char* type = status == 401   ? "authentication_error"
                     : status == 402 ? "billing_error"
                     : status == 403 ? "permission_error"
                     : status == 404 ? "not_found_error"
                     : status == 413 ? "request_too_large"
                     : status == 429 ? "rate_limit_error"
                     : status == 503 ? "overloaded_error"
                     : status >= 500 ? "api_error"
                                     : "invalid_request_error";
  return fmt::format(R"({{"type":"error","error":{{"type":"{}","message":{}}}}})", type,
                     json_string(error.what()));
}

void MessagesReply::named_event(const char* name, const std::string& fields) {
  begin_stream();
  reply().write(fmt::format("event: {0}\ndata: {{\"type\":\"{0}\"{1}{2}}}\n\n", name,
                            fields.empty() ? "" : ",", fields));
}

std::string MessagesReply::usage_fields() const {
  const TokenUse use = total_use();
  return fmt::format(
      R"("input_tokens":{},"cache_read_input_tokens":{},"cache_creation_input_tokens":0,"output_tokens":{})",
      use.miss, use.hit, use.output);
}

void MessagesReply::head() {
  if (!streams()) return;
  named_event("message_start",
              fmt::format(R"("message":{{"id":"msg_{}","type":"message","role":"assistant",)"
                          R"("model":{},"content":[],"stop_reason":null,"stop_sequence":null,)"
                          R"("usage":{{{}}}}})",
                          id_, json_string(input_.model), usage_fields()));
}

void MessagesReply::open_block(const std::string& start) {
  if (streams())
    named_event("content_block_start",
                fmt::format(R"("index":{},"content_block":{})", num_blocks_, start));
}

void MessagesReply::close_block() {
  if (open_ == Block::kNone) return;
  if (streams()) {
    named_event("content_block_stop", fmt::format(R"("index":{})", num_blocks_));
  } else {
    if (!blocks_.empty()) blocks_ += ',';
    blocks_ += open_ == Block::kText
                   ? fmt::format(R"({{"type":"text","text":{}}})", json_string(text_))
                   : fmt::format(R"({{"type":"thinking","thinking":{},"signature":""}})",
                                 json_string(text_));
  }
  text_.clear();
  open_ = Block::kNone;
  ++num_blocks_;
}

void MessagesReply::pieces(int64_t, std::vector<Piece>& pieces,
                           const std::vector<GeneratedToken>&) {
  for (const Piece& piece : pieces) {
    if (piece.kind == Piece::kToolCall) {
      close_block();
      if (!streams()) {
        if (!blocks_.empty()) blocks_ += ',';
        blocks_ += tool_use_json(piece, is_json_object(piece.text) ? piece.text : "{}");
        ++num_blocks_;
        continue;
      }
      open_ = Block::kTool;
      open_block(tool_use_json(piece, "{}"));
    }
    if (piece.kind == Piece::kToolCall || piece.kind == Piece::kToolArguments) {
      if (piece.text.empty()) continue;
      named_event("content_block_delta",
                  fmt::format(R"("index":{},"delta":{{"type":"input_json_delta","partial_json":{}}})",
                              num_blocks_, json_string(piece.text)));
      continue;
    }
    const Block kind = piece.kind == Piece::kThought ? Block::kThinking : Block::kText;
    if (open_ != kind) {
      close_block();
      open_ = kind;
      open_block(kind == Block::kText ? R"({"type":"text","text":""})"
                                      : R"({"type":"thinking","thinking":"","signature":""})");
    }
    if (streams()) {
      const char* name = kind == Block::kText ? "text" : "thinking";
      named_event("content_block_delta",
                  fmt::format(R"("index":{0},"delta":{{"type":"{1}_delta","{1}":{2}}})", num_blocks_,
                              name, json_string(piece.text)));
    } else {
      text_ += piece.text;
    }
  }
}

void MessagesReply::end_reply() {
  close_block();
  const Choice& choice = choices_[0];
  const std::string_view reason = choice.finish_reason;
  const char* stop_reason = choice.stopped           ? "stop_sequence"
                            : reason == "tool_calls" ? "tool_use"
                            : reason == "length"     ? "max_tokens"
                                                     : "end_turn";
  const std::string sequence =
      choice.stopped ? json_string(parameters().stop[static_cast<size_t>(choice.reader.stop_idx())])
                     : "null";
  if (streams()) {
    named_event("message_delta",
                fmt::format(R"("delta":{{"stop_reason":"{}","stop_sequence":{}}},"usage":{{{}}})",
                            stop_reason, sequence, usage_fields()));
    named_event("message_stop", "");
    return reply().end();
  }
  send_json(fmt::format(R"({{"id":"msg_{}","type":"message","role":"assistant","model":{},)"
                        R"("content":[{}],"stop_reason":"{}","stop_sequence":{},"usage":{{{}}},)"
                        R"("x_fathom":{}}})",
                        id_, json_string(input_.model), blocks_, stop_reason, sequence,
                        usage_fields(), timings_json()));
}

void MessagesReply::stream_error(const ApiError& error) {
  if (streams()) {
    reply().write(fmt::format("event: error\ndata: {}\n\n", messages_error_body(error)));
  } else {
    reply().write(messages_error_body(error));
  }
  reply().end();
}

}  // namespace fathom::serve
