#include "serve/chat_session.h"

namespace fathom {

ChatSession::ChatSession(Context& ctx, const Model& model, Tokenizer tokenizer,
                         const GenerateOptions& options, std::string system)
    : ctx_(ctx),
      tokenizer_(std::move(tokenizer)),
      options_(options),
      system_(std::move(system)),
      generator_(model, model.max_positions()) {
  // What ends a reply: its eos, or a role tag that the model should not write.
  for (TokenId id :
       {tokenizer_.special().eos, tokenizer_.special().user, tokenizer_.special().bos}) {
    if (id != kNoToken) options_.stop_tokens.push_back(id);
  }
  // Rows of the embedding without a token cannot be chosen.
  options_.sampling.num_token_ids = tokenizer_.vocab_size();
  reset();
}

void ChatSession::reset() {
  messages_.clear();
  if (!system_.empty()) messages_.push_back({Role::kSystem, system_});
}

std::string ChatSession::say(std::string_view text,
                             const std::function<bool(std::string_view)>& on_text) {
  if (forget_) reset();
  messages_.push_back({Role::kUser, std::string(text)});
  std::string reply;
  try {
    const RenderedChat chat = render_chat(messages_, tokenizer_, {.add_generation_prompt = true});
    StreamDecoder decoder(tokenizer_, {.skip_special = true});
    const auto emit = [&](std::string piece) {
      reply += piece;
      return piece.empty() || !on_text || on_text(piece);
    };
    const GenerateResult result = generator_.generate(
        ctx_, chat.tokens, options_, [&](int32_t token) { return emit(decoder.push(token)); });
    emit(decoder.finish());
    last_finish_ = result.finish_reason;
    // Each reply is another draw.
    ++options_.sampling.seed;
  } catch (...) {
    messages_.pop_back();
    throw;
  }
  messages_.push_back({Role::kAssistant, reply});
  return reply;
}

}  // namespace fathom
