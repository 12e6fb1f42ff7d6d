// The reply of /chat/completions: one object, or a stream of chunks.
#pragma once

#include <string>
#include <vector>

#include "serve/generation.h"

namespace fathom::serve {

class ChatReply final : public Generation {
 public:
  using Generation::Generation;

 private:
  struct Text {
    std::string content, thought;
    std::string tool_calls;  // JSON objects, comma between
    std::string logprobs;    // likewise; of a stream: not yet sent
    std::string token_ids, routes;  // likewise
    int64_t num_calls = 0;
    bool begun = false;
  };
  void pieces(int64_t choice_idx, std::vector<Piece>& pieces,
              const std::vector<GeneratedToken>& tokens) override;
  void end_choice(int64_t choice_idx) override;
  void end_reply() override;

  void send_chunk(int64_t choice_idx, const std::string& delta, const char* finish_reason);
  std::string head_json(const char* object) const;
  std::string logprobs_json(const std::string& entries) const;

  std::vector<Text> texts_;
  int64_t num_ended_ = 0;
};

// {"token","logprob","bytes","top_logprobs"} of OpenAI.
std::string logprob_entry(const Tokenizer& tokenizer, const GeneratedToken& token);

}  // namespace fathom::serve
