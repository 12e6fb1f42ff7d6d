// The reply of /v1/messages, in Anthropic's form: content in blocks, events by name.
#pragma once

#include <string>
#include <vector>

#include "serve/generation.h"

namespace fathom::serve {

class MessagesReply final : public Generation {
 public:
  using Generation::Generation;

 private:
  enum class Block { kNone, kThinking, kText, kTool };  // the last of streams only
  void head() override;
  void pieces(int64_t choice_idx, std::vector<Piece>& pieces,
              const std::vector<GeneratedToken>& tokens) override;
  void end_choice(int64_t) override {}
  void end_reply() override;
  void stream_error(const ApiError& error) override;

  void named_event(const char* name, const std::string& fields);
  void open_block(const std::string& start);
  void close_block();
  std::string usage_fields() const;

  std::string blocks_;  // of a whole reply, comma between; the last text or thought is in text_
  std::string text_;
  Block open_ = Block::kNone;
  int64_t num_blocks_ = 0;
};

// api_messages.cc: arguments of a call as models write them need not be JSON.
bool is_json_object(const std::string& text);
// {"type":"error","error":{…}}
std::string messages_error_body(const ApiError& error);

}  // namespace fathom::serve
