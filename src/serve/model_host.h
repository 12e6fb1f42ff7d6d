// A model that is served: its engine on a thread of its own, its tokenizer, its names. What the
// engine says in one step goes on as one batch, so that a step wakes the server once. Where the steps
// of many sequences are so short that sending their tokens would take the processors that the next
// steps want, several go on together: sending has its share, and nobody sees a twentieth of a second.
// First tokens and ends do not wait.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "infer/engine.h"
#include "serve/chat_vocabulary.h"
#include "serve/meter.h"
#include "serve/output_constraint.h"

namespace fathom::serve {

// What the engine said about one request, as its own copy.
struct HostEvent {
  int64_t ticket = 0;
  std::vector<GeneratedToken> tokens;
  std::vector<GeneratedToken> prompt_logprobs;
  bool finished = false;
  bool is_urgent = false;  // the first of its ticket, or the last
  FinishReason reason = FinishReason::kStop;
  std::string error;
  RequestUsage usage;
};

struct ExpertLoads {
  std::vector<int64_t> layers;  // indices of the layers with experts
  int64_t num_experts = 0;
  std::vector<int64_t> counts;  // [layers, experts], rows since the start
};

class ModelHost {
 public:
  using EventSink = std::function<void(std::vector<HostEvent>)>;

  // `ctx` and `model` are the engine thread's from start() on.
  ModelHost(std::string name, std::unique_ptr<Context> ctx, std::unique_ptr<Model> model,
            ChatVocabulary chat, const EngineConfig& config, PriceCard price);
  ~ModelHost();

  // Before start(): a short request of its own, so that the first one of a client does not pay for what
  // only happens once. Nothing of it is counted.
  void warm_up();
  // `sink` is called by the engine's thread between steps; `sending_seconds` is the processor time
  // that whoever sends what it was given has used so far. trouble() is an engine that has made no
  // step for stall_seconds though there is work: longer than any step of a sane model.
  void start(EventSink sink, std::function<double()> sending_seconds, double stall_seconds = 60);
  // Ends the thread behind its step; requests that have not ended hear nothing more.
  void stop();

  // Any thread. The events carry `ticket`; `meter` (may be null) counts before the sink is called.
  // counts_prompt: false for further choices over the same prompt. Errors as Engine::submit.
  RequestId submit(Request request, int64_t ticket, MeterSlot* meter, bool counts_prompt);
  void cancel(RequestId id);

  const std::string& name() const { return name_; }
  const Tokenizer& tokenizer() const { return chat_.tokenizer; }
  const ChatVocabulary& chat() const { return chat_; }
  ConstraintVocabularies& vocabularies() { return vocabularies_; }  // the worker's
  const PriceCard& price() const { return price_; }
  const ModelConfig& config() const { return engine_.model().config(); }
  int64_t max_request_tokens() const { return engine_.max_request_tokens(); }
  int64_t max_sequences() const { return engine_.config().max_sequences; }
  EngineStats stats() const { return engine_.stats(); }
  ExpertLoads expert_loads() const;  // a few steps old
  // Empty: all is well. Else why the engine ended or how long it has been silent.
  std::string trouble() const;
  // Counters, and what each request in the engine has got so far; lines of text. Not whose they
  // are, but for the id of the key.
  std::string describe() const;

 private:
  void run();

  const std::string name_;
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<Model> model_;
  const ChatVocabulary chat_;
  ConstraintVocabularies vocabularies_;
  const PriceCard price_;
  Engine engine_;
  EventSink sink_;
  std::function<double()> sending_seconds_;
  double stall_seconds_ = 60;
  std::thread thread_;

  // A request that has not ended, as far as the server was told.
  struct OpenRequest {
    RequestId id = -1;
    std::string key_id;
    int64_t prompt_tokens = 0, output_tokens = 0;
    std::chrono::steady_clock::time_point submitted, last_event;
  };

  void add_event(HostEvent event);
  bool must_flush();
  void flush(bool everything);

  // Of the engine's thread.
  std::vector<HostEvent> pending_;
  std::unordered_map<int64_t, size_t> pending_by_ticket_;
  int64_t num_urgent_ = 0;  // of them
  std::unordered_set<int64_t> begun_tickets_;
  std::chrono::steady_clock::time_point last_flush_;
  double sent_at_last_flush_ = 0;  // sending_seconds_ then

  mutable std::mutex mutex_;
  std::condition_variable work_;
  bool has_work_ = false, stop_ = false;
  std::unordered_map<int64_t, OpenRequest> open_requests_;  // by ticket
  ExpertLoads loads_;
  std::string failure_;
};

}  // namespace fathom::serve
