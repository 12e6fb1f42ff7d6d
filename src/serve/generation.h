// One request on its way through an engine: waits in the queue, runs as one or more sequences
// (choices), turns tokens into pieces of text, and settles what they cost. How the reply looks is
// its subclass's: chat_reply.h, completion_reply.h, messages_reply.h.
//
// Lives on the server's thread; made by the worker.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/api_error.h"
#include "serve/core.h"
#include "serve/output_reader.h"
#include "serve/requests.h"

namespace fathom::serve {

struct GenerationInput {
  Served* served = nullptr;
  std::string model;   // as the client called it
  std::string key_id;  // whose it is
  std::vector<std::vector<TokenId>> prompts;
  GenerationParameters parameters;
  int64_t max_tokens = 0;
  OutputReaderOptions reader;
  bool prompt_logprobs = false;
  std::vector<std::shared_ptr<TokenConstraint>> constraints;  // of each choice, or empty
  Meter meter;
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  Generation(Core& core, GenerationInput input, std::shared_ptr<HttpReply> reply);
  virtual ~Generation() = default;

  void start();
  void on_event(int64_t choice_idx, HostEvent& event);
  void cancel();

 protected:
  using Clock = std::chrono::steady_clock;

  struct Choice {
    explicit Choice(const Tokenizer& tokenizer, const OutputReaderOptions& options)
        : reader(tokenizer, options) {}
    OutputReader reader;
    RequestId request = -1;
    int64_t prompt_idx = 0;
    std::vector<GeneratedToken> prompt_logprobs;
    int64_t num_tokens = 0;
    RequestUsage usage;
    bool stopped = false;   // by a stop string; what still comes is dropped
    bool finished = false;  // the engine has let go of it
    const char* finish_reason = nullptr;
    Clock::time_point last_token;
  };

  // What the format does. Called in this order: head() once, then pieces() and end_choice() of each
  // choice, then end_reply() once. After fail() nothing is called.
  virtual void head() {}
  // What one step brought for one choice; either list may be empty.
  virtual void pieces(int64_t choice_idx, std::vector<Piece>& pieces,
                      const std::vector<GeneratedToken>& tokens) = 0;
  virtual void end_choice(int64_t choice_idx) = 0;
  virtual void end_reply() = 0;
  // An error when the stream has begun.
  virtual void stream_error(const ApiError& error);

  const Tokenizer& tokenizer() const { return input_.served->host->tokenizer(); }
  const GenerationParameters& parameters() const { return input_.parameters; }
  HttpReply& reply() { return *reply_; }
  void begin_stream();  // the head of the SSE stream, once
  bool streams() const { return input_.parameters.stream; }
  void send_event(std::string_view json);  // data: …
  void send_json(const std::string& json);  // of a reply that is not streamed

  TokenUse total_use() const;
  std::string usage_json() const;
  std::string timings_json() const;  // x_fathom

  Core& core_;
  GenerationInput input_;
  std::vector<Choice> choices_;
  int64_t created_unix_ = 0;
  std::string id_;  // unique, letters and dashes

 private:
  enum class State { kNew, kWaiting, kRunning, kEnded };
  void run();
  void fail(const ApiError& error);
  void end_of_choice(int64_t choice_idx, const HostEvent& event);
  void finish_all();
  void saw_tokens(Clock::time_point now, double seconds, int64_t tokens);
  void keep_alive_later();
  void abandon();
  void settle(const char* status);

  std::shared_ptr<HttpReply> reply_;
  State state_ = State::kNew;
  bool begun_ = false, failed_ = false, head_done_ = false, gone_ = false, settled_ = false;
  bool wrote_since_tick_ = false;
  int64_t prompt_tokens_ = 0;
  int64_t num_submitted_ = 0, num_finished_ = 0;
  Admission::Place place_;
  Clock::time_point arrived_, admitted_, first_token_;
  bool has_first_token_ = false;
};

// A random UUID (version 4).
std::string random_uuid();

}  // namespace fathom::serve
