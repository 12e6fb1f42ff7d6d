#include "serve/model_host.h"

#include <algorithm>
#include <iterator>

#include "core/error.h"
#include "core/integer.h"
#include "model/model.h"
#include "runtime/thread_stacks.h"

namespace fathom::serve {
namespace {

constexpr int64_t kLoadsEverySteps = 16;
// How much of a processor sending may take where steps are short: the pause behind a batch is so many
// times what the batch before took to send, up to kLongestPause. With 64 streams a batch takes 0.6 ms,
// so that a model with steps of 4 ms sends every sixth, and one with steps of 30 ms each.
constexpr double kSendingShare = 0.025;
constexpr std::chrono::milliseconds kLongestPause{50};
constexpr size_t kManyStreams = 16;
constexpr int64_t kWarmUpTokens = 96;  // more than a page of the cache, which attends otherwise

double seconds_since(std::chrono::steady_clock::time_point when) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - when).count();
}

}  // namespace

ModelHost::ModelHost(std::string name, std::unique_ptr<Context> ctx, std::unique_ptr<Model> model,
                     ChatVocabulary chat, const EngineConfig& config, PriceCard price)
    : name_(std::move(name)),
      ctx_(std::move(ctx)),
      model_(std::move(model)),
      chat_(std::move(chat)),
      vocabularies_(chat_.tokenizer),
      price_(price),
      engine_(*model_, config) {
  if (tokenizer().vocab_size() > model_->config().vocab_size)
    throw_bad_input({name_, "vocab_size", fmt::format("{}", model_->config().vocab_size),
                     fmt::format("at least the tokenizer's {}", tokenizer().vocab_size()),
                     "are model and tokenizer of one folder?"});
  loads_.layers = moe_layers(model_->config());
  loads_.num_experts = model_->config().n_routed_experts;
  loads_.counts.resize(loads_.layers.size() * static_cast<size_t>(loads_.num_experts));
}

ModelHost::~ModelHost() { stop(); }

// Weights that lie mapped on the disk are read (a prompt of many different tokens reaches most of the
// experts), scratch memory is made, both forms of attention and the drafting run once, and so does
// what constraints need to know of the vocabulary.
void ModelHost::warm_up() {
  EngineConfig config = engine_.config();
  config.cache_tokens = 2 * kWarmUpTokens;
  config.prefix_folder.clear();
  Engine engine(*model_, config);
  Request request{.max_tokens = 4, .use_prefix_cache = false};
  const int64_t num_tokens = std::min(kWarmUpTokens, engine.max_request_tokens() - request.max_tokens);
  constexpr int64_t kStride = 7919;  // a prime: ids from everywhere
  for (int64_t i = 0; i < num_tokens; ++i)
    request.prompt.push_back(narrow<int32_t>(i * kStride % model_->config().vocab_size));
  if (num_tokens > 0) {
    engine.submit(std::move(request));
    engine.run_until_idle(*ctx_);
  }
  if (const TokenId eos = tokenizer().special().eos; eos != kNoToken) vocabularies_.ending_with(eos);
}

void ModelHost::start(EventSink sink, std::function<double()> sending_seconds,
                      double stall_seconds) {
  stall_seconds_ = stall_seconds;
  sink_ = std::move(sink);
  sending_seconds_ = std::move(sending_seconds);
  thread_ = std::thread([this] { run(); });
}

void ModelHost::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

RequestId ModelHost::submit(Request request, int64_t ticket, MeterSlot* meter,
                            bool counts_prompt) {
  bool prompt_counted = !counts_prompt;
  request.on_event = [this, ticket, meter, prompt_counted](const RequestEvent& event) mutable {
    // Counted before anyone can see the tokens.
    if (meter != nullptr) {
      const bool computed = !event.tokens.empty() || !event.prompt_logprobs.empty() ||
                            event.reason == FinishReason::kLength ||
                            (event.finished && event.reason == FinishReason::kStop);
      if (!prompt_counted && computed) {
        meter->add_prompt(event.usage.cached_tokens,
                          event.usage.prompt_tokens - event.usage.cached_tokens);
        prompt_counted = true;
      }
      meter->add_output(static_cast<int64_t>(event.tokens.size()));
    }
    add_event({.ticket = ticket,
               .tokens = {event.tokens.begin(), event.tokens.end()},
               .prompt_logprobs = {event.prompt_logprobs.begin(), event.prompt_logprobs.end()},
               .finished = event.finished,
               .reason = event.reason,
               .error = event.error,
               .usage = event.usage});
    return true;
  };
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) throw Error(ErrorKind::kIo, "the engine has ended");
    const auto now = std::chrono::steady_clock::now();
    open_requests_[ticket] = {.key_id = request.tenant,
                              .prompt_tokens = static_cast<int64_t>(request.prompt.size()),
                              .submitted = now,
                              .last_event = now};
  }
  RequestId id = -1;
  try {
    id = engine_.submit(std::move(request));
  } catch (...) {
    const std::lock_guard lock(mutex_);
    open_requests_.erase(ticket);
    throw;
  }
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = open_requests_.find(ticket); it != open_requests_.end()) it->second.id = id;
    has_work_ = true;
  }
  work_.notify_one();
  return id;
}

void ModelHost::cancel(RequestId id) {
  engine_.cancel(id);
  {
    const std::lock_guard lock(mutex_);
    has_work_ = true;
  }
  work_.notify_one();
}

ExpertLoads ModelHost::expert_loads() const {
  const std::lock_guard lock(mutex_);
  return loads_;
}

std::string ModelHost::trouble() const {
  // An idle engine has made no step for long either: silence counts from when there was work.
  double waited = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return failure_;
    for (const auto& [ticket, request] : open_requests_)
      waited = std::max(waited, seconds_since(request.submitted));
  }
  const double silent = std::min(waited, engine_.stats().heartbeat_seconds);
  return silent > stall_seconds_ ? fmt::format("no step for {:.0f} s", silent) : "";
}

std::string ModelHost::describe() const {
  const EngineStats s = engine_.stats();
  std::string text = fmt::format(
      "model {}: {} steps, the last {:.1f} s ago; {} running, {} waiting; {} of {} pages free, {} "
      "cached units; "
      "{} prompt tokens, {} cached, {} generated; {} preemptions\n",
      name_, s.num_steps, s.heartbeat_seconds, s.num_running, s.num_waiting, s.num_free_pages,
      s.num_pages, s.num_cached_units, s.prompt_tokens, s.cached_tokens, s.output_tokens,
      s.num_preemptions);
  const std::lock_guard lock(mutex_);
  for (const auto& [ticket, request] : open_requests_) {
    text += fmt::format(
        "  request {} of {}: prompt of {} tokens, {} generated, here for {:.1f} s, nothing new for "
        "{:.1f} s\n",
        request.id, request.key_id, request.prompt_tokens, request.output_tokens,
        seconds_since(request.submitted), seconds_since(request.last_event));
  }
  return text;
}

// Behind what is pending of the same request, as if one step had said both.
void ModelHost::add_event(HostEvent event) {
  event.is_urgent = event.finished || begun_tickets_.insert(event.ticket).second;
  if (event.finished) begun_tickets_.erase(event.ticket);
  const auto [at, is_new] = pending_by_ticket_.try_emplace(event.ticket, pending_.size());
  if (is_new) {
    num_urgent_ += event.is_urgent ? 1 : 0;
    return pending_.push_back(std::move(event));
  }
  HostEvent& earlier = pending_[at->second];
  num_urgent_ += event.is_urgent && !earlier.is_urgent ? 1 : 0;
  event.is_urgent = event.is_urgent || earlier.is_urgent;
  std::move(event.tokens.begin(), event.tokens.end(), std::back_inserter(earlier.tokens));
  event.tokens = std::move(earlier.tokens);
  if (event.prompt_logprobs.empty()) event.prompt_logprobs = std::move(earlier.prompt_logprobs);
  earlier = std::move(event);
}

bool ModelHost::must_flush() {
  if (pending_.size() < kManyStreams) return true;
  const auto since = std::chrono::steady_clock::now() - last_flush_;
  if (since >= kLongestPause) return true;
  const double sending = sending_seconds_() - sent_at_last_flush_;
  return std::chrono::duration<double>(since).count() >= sending / kSendingShare;
}

void ModelHost::flush(bool everything) {
  if (pending_.empty() || (!everything && num_urgent_ == 0)) return;
  std::vector<HostEvent> batch = std::exchange(pending_, {});
  pending_by_ticket_.clear();
  if (everything) {
    last_flush_ = std::chrono::steady_clock::now();
    sent_at_last_flush_ = sending_seconds_();
  } else {
    const auto rest = std::stable_partition(batch.begin(), batch.end(),
                                            [](const HostEvent& event) { return event.is_urgent; });
    pending_.assign(std::make_move_iterator(rest), std::make_move_iterator(batch.end()));
    batch.erase(rest, batch.end());
    for (size_t i = 0; i < pending_.size(); ++i) pending_by_ticket_.emplace(pending_[i].ticket, i);
  }
  num_urgent_ = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto now = std::chrono::steady_clock::now();
    for (const HostEvent& event : batch) {
      const auto it = open_requests_.find(event.ticket);
      if (it == open_requests_.end()) continue;
      it->second.output_tokens += static_cast<int64_t>(event.tokens.size());
      it->second.last_event = now;
      if (event.finished) open_requests_.erase(it);
    }
  }
  sink_(std::move(batch));
}

void ModelHost::run() {
  name_thread("engine");
  try {
    for (int64_t num_steps = 0;; ++num_steps) {
      const bool more = engine_.step(*ctx_);
      flush(!more || must_flush());
      if (num_steps % kLoadsEverySteps == 0 || !more) {
        const auto counts = engine_.expert_counts();
        const std::lock_guard lock(mutex_);
        loads_.counts.assign(counts.begin(), counts.end());
      }
      std::unique_lock lock(mutex_);
      if (stop_) break;
      if (!more) work_.wait(lock, [this] { return has_work_ || stop_; });
      has_work_ = false;
      if (stop_) break;
    }
    engine_.flush_prefix_store();
  } catch (const std::exception& error) {
    // A bug. Whoever waits is told; /health says so too, and the service manager restarts us.
    flush(true);
    std::vector<HostEvent> last;
    {
      const std::lock_guard lock(mutex_);
      failure_ = error.what();
      for (const auto& [ticket, request] : open_requests_) {
        last.push_back({.ticket = ticket,
                        .finished = true,
                        .reason = FinishReason::kError,
                        .error = "the engine has failed"});
      }
      open_requests_.clear();
    }
    sink_(std::move(last));
  }
}

}  // namespace fathom::serve
