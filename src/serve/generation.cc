#include "serve/generation.h"

#include <openssl/rand.h>

#include <cmath>

#include "core/error.h"
#include "model/model.h"

namespace fathom::serve {
namespace {

constexpr char kTooLate[] =
    "server busy: the first token would come later than this server promises";
constexpr int kRetryTooLate = 2;

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::string random_uuid() {
  std::array<unsigned char, 16> bytes{};
  FATHOM_CHECK_EQ(RAND_bytes(bytes.data(), static_cast<int>(bytes.size())), 1, "random bytes");
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

Generation::Generation(Core& core, GenerationInput input, std::shared_ptr<HttpReply> reply)
    : core_(core),
      input_(std::move(input)),
      created_unix_(std::chrono::duration_cast<std::chrono::seconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count()),
      id_(random_uuid()),
      reply_(std::move(reply)),
      arrived_(Clock::now()) {
  for (size_t p = 0; p < input_.prompts.size(); ++p) {
    for (int64_t i = 0; i < input_.parameters.n; ++i) {
      choices_.emplace_back(tokenizer(), input_.reader);
      choices_.back().prompt_idx = static_cast<int64_t>(p);
    }
  }
}

void Generation::start() {
  const auto self = shared_from_this();
  reply_->on_gone([self] { self->abandon(); });
  if (gone_) return;
  for (const auto& prompt : input_.prompts) prompt_tokens_ += static_cast<int64_t>(prompt.size());
  state_ = State::kWaiting;
  try {
    place_ = input_.served->admission->add(input_.key_id, static_cast<int64_t>(choices_.size()),
                                           prompt_tokens_, [self] { self->run(); });
  } catch (const ApiError& error) {
    state_ = State::kEnded;
    settle("busy");
    return fail(error);
  }
  keep_alive_later();
  const double longest_wait = input_.served->latency->longest_wait(prompt_tokens_);
  if (state_ != State::kWaiting || std::isinf(longest_wait)) return;
  core_.server().post_after(std::max(0.0, longest_wait), [weak = weak_from_this()] {
    const auto generation = weak.lock();
    if (generation == nullptr || generation->state_ != State::kWaiting || generation->gone_) return;
    generation->state_ = State::kEnded;
    generation->input_.served->admission->remove(generation->place_);
    generation->settle("busy");
    generation->fail(overloaded(kTooLate, kRetryTooLate));
  });
}

// The queue has let it through.
void Generation::run() {
  admitted_ = Clock::now();
  Admission& admission = *input_.served->admission;
  const auto num_sequences = static_cast<int64_t>(choices_.size());
  // An idle server does what it can: were it to refuse, it would never learn that it has become
  // faster.
  if (admission.num_running() > num_sequences &&
      seconds_between(arrived_, admitted_) > input_.served->latency->longest_wait(prompt_tokens_)) {
    state_ = State::kEnded;
    settle("busy");
    fail(overloaded(kTooLate, kRetryTooLate));
    return admission.finished(input_.key_id, num_sequences, 0);
  }
  state_ = State::kRunning;
  input_.served->metrics.queue_seconds.observe(seconds_between(arrived_, admitted_));
  const auto self = shared_from_this();
  const GenerationParameters& p = input_.parameters;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    Request request;
    request.prompt = input_.prompts[static_cast<size_t>(choice.prompt_idx)];
    request.max_tokens = input_.max_tokens;
    request.sampling = p.sampling;
    // Choices are different draws; the seed says which.
    request.sampling.seed += static_cast<uint64_t>(i) % static_cast<uint64_t>(p.n);
    request.sampling.num_token_ids = tokenizer().vocab_size();
    // Who scores a prompt asks for one token and drops it: it must be there, whatever it is.
    const bool only_scores = input_.prompt_logprobs && input_.max_tokens <= 1;
    if (!p.ignore_eos && !only_scores) {
      request.stop_tokens = input_.served->host->chat().end_tokens;
    }
    request.min_tokens = p.min_tokens;
    request.num_top_logprobs = p.num_top_logprobs;
    request.prompt_logprobs = input_.prompt_logprobs;
    request.report_experts = p.return_routes && !moe_layers(input_.served->host->config()).empty();
    request.deadline = EngineClock::now() + std::chrono::duration_cast<EngineClock::duration>(
                                                std::chrono::duration<double>(
                                                    core_.config().request_seconds));
    request.tenant = input_.key_id;
    if (!input_.constraints.empty()) request.constraint = input_.constraints[i];
    const int64_t ticket = core_.add_ticket(self, static_cast<int64_t>(i));
    const bool is_first_of_prompt = i % static_cast<size_t>(p.n) == 0;
    ++num_submitted_;
    try {
      choice.request = input_.served->host->submit(std::move(request), ticket, input_.meter.slot,
                                                   is_first_of_prompt);
    } catch (const Error& error) {
      // As if the engine had answered.
      std::vector<HostEvent> events(1);
      events[0] = {.ticket = ticket, .finished = true, .reason = FinishReason::kError,
                   .error = error.what()};
      core_.server().post([core = &core_, events = std::move(events)]() mutable {
        core->dispatch(std::move(events));
      });
    }
  }
}

void Generation::on_event(int64_t choice_idx, HostEvent& event) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  choice.usage = event.usage;
  if (!event.prompt_logprobs.empty()) choice.prompt_logprobs = std::move(event.prompt_logprobs);
  ModelMetrics& metrics = input_.served->metrics;
  std::vector<Piece> found;
  std::vector<GeneratedToken> used;
  if (!choice.stopped) {
    const Clock::time_point now = Clock::now();
    if (!event.tokens.empty()) {
      if (!has_first_token_) {
        has_first_token_ = true;
        first_token_ = now;
        metrics.first_token_seconds.observe(seconds_between(arrived_, now));
        input_.served->latency->saw_first_token(seconds_between(admitted_, now), prompt_tokens_);
      }
      if (choice.num_tokens > 0) {
        const auto count = static_cast<int64_t>(event.tokens.size());
        const double seconds = seconds_between(choice.last_token, now);
        metrics.inter_token_seconds.observe(seconds / static_cast<double>(count), count);
        saw_tokens(now, seconds, count);
      }
      choice.last_token = now;
    }
    for (GeneratedToken& token : event.tokens) {
      ++choice.num_tokens;
      used.push_back(std::move(token));
      if (choice.reader.push(used.back().id, found)) continue;
      choice.stopped = true;
      if (!event.finished) input_.served->host->cancel(choice.request);
      break;
    }
  }
  const bool silent = failed_ || gone_;
  if (event.finished && !choice.stopped) choice.reader.finish(found);
  const bool is_error =
      event.finished && !choice.stopped && event.reason == FinishReason::kError;
  if (!silent && !is_error && (!used.empty() || !found.empty() || !choice.prompt_logprobs.empty())) {
    if (!std::exchange(head_done_, true)) head();
    pieces(choice_idx, found, used);
  }
  if (event.finished) end_of_choice(choice_idx, event);
}

void Generation::end_of_choice(int64_t choice_idx, const HostEvent& event) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  choice.finished = true;
  ++num_finished_;
  const auto self = shared_from_this();
  if (!failed_ && !gone_) {
    if (choice.stopped || event.reason == FinishReason::kStop) {
      choice.finish_reason = choice.reader.num_tool_calls() > 0 ? "tool_calls" : "stop";
    } else if (event.reason == FinishReason::kLength) {
      choice.finish_reason = "length";
    } else if (event.reason == FinishReason::kError) {
      // Wrong requests were refused before; this is ours.
      fail(ApiError(500, "server_error", "the model could not go on: " + event.error));
    } else if (!has_first_token_) {
      fail(event.reason == FinishReason::kDeadline
               ? overloaded("the request's time ran out before the model came to it", 5)
               : overloaded("the server is ending", 5));
    } else {
      choice.finish_reason = "insufficient_system_resource";
    }
    if (!failed_) {
      if (!std::exchange(head_done_, true)) head();
      end_choice(choice_idx);
    }
  }
  if (num_finished_ == static_cast<int64_t>(choices_.size())) finish_all();
}

// What is seen of every reply decides how many more may run.
void Generation::saw_tokens(Clock::time_point now, double seconds, int64_t tokens) {
  Served& served = *input_.served;
  served.latency->saw_tokens(std::chrono::duration<double>(now.time_since_epoch()).count(), seconds,
                             tokens, served.admission->num_running());
  if (served.latency->max_running() != served.admission->max_running())
    served.admission->set_max_running(served.latency->max_running());
}

// The engine holds nothing of it any more.
void Generation::finish_all() {
  state_ = State::kEnded;
  ModelMetrics& metrics = input_.served->metrics;
  int64_t output = 0;
  const Clock::time_point now = Clock::now();
  for (const Choice& choice : choices_) {
    output += choice.num_tokens;
    const std::string_view reason = choice.finish_reason == nullptr ? "" : choice.finish_reason;
    ++(gone_                    ? metrics.num_cancelled
       : reason == "stop"       ? metrics.num_stop
       : reason == "length"     ? metrics.num_length
       : reason == "tool_calls" ? metrics.num_tool_calls
                                : metrics.num_error);
    if (choice.num_tokens > 1 && has_first_token_)
      metrics.token_seconds.observe(seconds_between(first_token_, choice.last_token) /
                                    static_cast<double>(choice.num_tokens - 1));
  }
  metrics.request_seconds.observe(seconds_between(arrived_, now));
  metrics.prompt_tokens.observe(static_cast<double>(prompt_tokens_));
  metrics.output_tokens.observe(static_cast<double>(output));
  // Tokens behind a stop string were computed in the same step and are given away.
  if (input_.meter.slot != nullptr) input_.meter.slot->output = output;
  if (!failed_ && !gone_) end_reply();
  settle(failed_ ? "error" : gone_ ? "cancelled" : choices_[0].finish_reason);
  input_.served->admission->finished(input_.key_id, static_cast<int64_t>(choices_.size()), output);
}

void Generation::settle(const char* status) {
  if (std::exchange(settled_, true)) return;
  core_.settle(input_.meter, status);
}

// The client has gone: the engine is told, and tokens so far are paid for.
void Generation::abandon() {
  gone_ = true;
  if (state_ == State::kNew) return settle("cancelled");
  if (state_ == State::kWaiting) {
    state_ = State::kEnded;
    ++input_.served->metrics.num_cancelled;
    input_.served->admission->remove(place_);
    return settle("cancelled");
  }
  cancel();
}

void Generation::cancel() {
  if (state_ != State::kRunning) return;
  for (const Choice& choice : choices_) {
    if (!choice.finished && choice.request >= 0) input_.served->host->cancel(choice.request);
  }
}

void Generation::fail(const ApiError& error) {
  if (failed_ || gone_) return;
  failed_ = true;
  if (begun_) {
    stream_error(error);
  } else {
    ++core_.replies_by_status()[error.status()];
    reply_->send(error.response());
  }
  cancel();
}

void Generation::stream_error(const ApiError& error) {
  if (streams()) {
    send_event(error.body());
  } else {
    reply_->write(error.body());
  }
  reply_->end();
}

void Generation::keep_alive_later() {
  const auto self = weak_from_this();
  core_.server().post_after(core_.config().keep_alive_seconds, [self] {
    const auto generation = self.lock();
    if (generation == nullptr || generation->state_ == State::kEnded || generation->gone_ ||
        generation->failed_)
      return;
    if (!std::exchange(generation->wrote_since_tick_, false)) {
      generation->begin_stream();
      generation->reply_->write(generation->streams() ? ": keep-alive\n\n" : "\n");
    }
    generation->keep_alive_later();
  });
}

void Generation::begin_stream() {
  if (std::exchange(begun_, true)) return;
  ++core_.replies_by_status()[200];
  if (streams()) {
    reply_->begin(200, {{"Content-Type", "text/event-stream; charset=utf-8"},
                        {"Cache-Control", "no-cache"},
                        {"X-Accel-Buffering", "no"},
                        {"X-Request-Id", id_}});
  } else {
    reply_->begin(200, {{"Content-Type", "application/json"}, {"X-Request-Id", id_}});
  }
}

void Generation::send_event(std::string_view json) {
  begin_stream();
  wrote_since_tick_ = true;
  std::string event;
  event.reserve(json.size() + 8);
  event.append("data: ").append(json).append("\n\n");
  reply_->write(std::move(event));
}

void Generation::send_json(const std::string& json) {
  if (begun_) {  // empty lines have kept the connection alive
    reply_->write(json);
    return reply_->end();
  }
  begun_ = true;
  ++core_.replies_by_status()[200];
  HttpResponse response = HttpResponse::json(json);
  response.headers.emplace_back("X-Request-Id", id_);
  reply_->send(std::move(response));
}

TokenUse Generation::total_use() const {
  TokenUse use;
  for (size_t i = 0; i < choices_.size(); ++i) {
    use.output += choices_[i].num_tokens;
    if (i % static_cast<size_t>(input_.parameters.n) != 0) continue;
    use.hit += choices_[i].usage.cached_tokens;
    use.miss += choices_[i].usage.prompt_tokens - choices_[i].usage.cached_tokens;
  }
  return use;
}

std::string Generation::usage_json() const {
  const TokenUse use = total_use();
  int64_t thought = 0;
  for (const Choice& choice : choices_) thought += choice.reader.num_thought_tokens();
  return fmt::format(
      R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},)"
      R"("prompt_cache_hit_tokens":{},"prompt_cache_miss_tokens":{},)"
      R"("prompt_tokens_details":{{"cached_tokens":{}}},)"
      R"("completion_tokens_details":{{"reasoning_tokens":{}}}}})",
      use.hit + use.miss, use.output, use.hit + use.miss + use.output, use.hit, use.miss, use.hit,
      thought);
}

std::string Generation::timings_json() const {
  const Clock::time_point now = Clock::now();
  RequestUsage sum;
  Clock::time_point last = first_token_;
  int64_t tokens = 0;
  for (const Choice& choice : choices_) {
    sum.drafted_tokens += choice.usage.drafted_tokens;
    sum.accepted_tokens += choice.usage.accepted_tokens;
    tokens += choice.num_tokens;
    if (choice.num_tokens > 0) last = std::max(last, choice.last_token);
  }
  const double decoding = has_first_token_ ? seconds_between(first_token_, last) : 0;
  const double rate =
      decoding > 0
          ? static_cast<double>(tokens - static_cast<int64_t>(choices_.size())) / decoding
          : 0;
  return fmt::format(
      R"({{"queue_ms":{:.1f},"first_token_ms":{:.1f},"total_ms":{:.1f},"tokens_per_second":{:.2f},)"
      R"("drafted_tokens":{},"accepted_tokens":{},"cost_micro":{}}})",
      1e3 * seconds_between(arrived_, admitted_),
      has_first_token_ ? 1e3 * seconds_between(arrived_, first_token_) : 0,
      1e3 * seconds_between(arrived_, now), std::max(0.0, rate), sum.drafted_tokens,
      sum.accepted_tokens, charge_pico(total_use(), input_.meter.price) / kPicoPerMicro);
}

}  // namespace fathom::serve
