// A conversation with a model: the template, the latent cache that grows with it, streaming text.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat/chat.h"
#include "data/tokenizer/tokenizer.h"
#include "infer/generate.h"

namespace fathom {

class ChatSession {
 public:
  // `model` must outlive the session. The vocabulary must have the role tags.
  ChatSession(Context& ctx, const Model& model, Tokenizer tokenizer, const GenerateOptions& options,
              std::string system = {});

  // The reply to `text`; on_text gets whole UTF-8 characters as they come and may end the reply by
  // returning false. A conversation that has outgrown the context is an Error that says so.
  std::string say(std::string_view text, const std::function<bool(std::string_view)>& on_text = {});
  void reset();
  // Each message stands alone: for models that were taught single questions.
  void forget_earlier_turns(bool forget) { forget_ = forget; }
  FinishReason last_finish() const { return last_finish_; }

 private:
  Context& ctx_;
  Tokenizer tokenizer_;
  GenerateOptions options_;
  std::string system_;
  std::vector<Message> messages_;
  Generator generator_;
  FinishReason last_finish_ = FinishReason::kStop;
  bool forget_ = false;
};

}  // namespace fathom
