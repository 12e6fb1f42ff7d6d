#include "infer/engine.h"

#include <algorithm>
#include <limits>
#include <new>

#include "core/error.h"
#include "core/integer.h"
#include "infer/engine_internal.h"
#include "model/config_json.h"

namespace fathom {
namespace {

constexpr int64_t kMaxAdmissionScan = 64;  // waiting requests looked at in a step
constexpr const char* kNoMemory =
    "out of memory: the system has none left for this request; fewer or shorter ones need less";

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(EngineClock::now().time_since_epoch())
      .count();
}

[[noreturn]] void refuse(const char* field, std::string found, std::string expected) {
  throw Error(ErrorKind::kUsage, fmt::format("{}: found {}, expected {}", field, found, expected));
}

// Speculation needs the MTP module; fp32 logits are what sampling works on.
bool can_speculate(const Model& model, const EngineConfig& config) {
  return config.max_draft > 0 && model.config().num_nextn_predict_layers > 0;
}

}  // namespace

const char* finish_name(FinishReason reason) {
  constexpr const char* kNames[] = {"stop", "length", "cancelled", "deadline", "error"};
  return kNames[static_cast<size_t>(reason)];
}

std::string model_fingerprint(const Context& ctx, const Model& model) {
  std::string text = fmt::format("{}|{}|{}", to_config_json(model.config()), model.policy().name,
                                 isa_name(ctx.isa()));
  constexpr int64_t kSampleBytes = 4096;
  for (int64_t i = 0; i < model.weights().size(); ++i) {
    const TensorView& view = model.weights().view(i);
    const auto* data = static_cast<const std::byte*>(view.data);
    const int64_t bytes = view.num_bytes(), count = std::min(bytes, kSampleBytes);
    for (const int64_t offset : {int64_t{0}, (bytes - count) / 2, bytes - count}) {
      text +=
          to_hex(hash_unit(data + offset, static_cast<size_t>(count), static_cast<uint64_t>(i)));
    }
  }
  return to_hex(hash_unit(text.data(), text.size(), 0));
}

Engine::Engine(const Model& model, const EngineConfig& config)
    : model_(model),
      config_(config),
      layout_(CacheLayout::of(model.config(), config.cache_dtype, can_speculate(model, config))),
      pool_(layout_.page_bytes(),
            std::max<int64_t>(1, div_up(config.cache_tokens, kCachePageTokens))),
      store_(config.prefix_folder.empty()
                 ? nullptr
                 : std::make_unique<PrefixStore>(local_file_system(), config.prefix_folder,
                                                 config.prefix_folder_bytes)),
      prefix_(pool_, store_.get()),
      depth_(can_speculate(model, config) ? config.max_draft : 0, config.adapt_draft),
      builder_(model.config().vocab_size),
      distribution_(model.config().vocab_size) {
  FATHOM_CHECK(model.policy().small == DType::kF32, "generation works on fp32 logits");
  FATHOM_CHECK(config.prefix_folder.empty() || !config.fingerprint.empty(),
               "a prefix cache on disk needs the model's fingerprint");
  expert_counts_.resize(moe_layers(model.config()).size() *
                        static_cast<size_t>(model.config().n_routed_experts));
  heartbeat_ns_ = now_ns();
}

Engine::~Engine() = default;

int64_t Engine::max_request_tokens() const {
  return std::min(model_.max_positions(), pool_.num_pages() * kCachePageTokens);
}

void Engine::flush_prefix_store() {
  if (store_ != nullptr) store_->flush();
}

// ---- From other threads

RequestId Engine::submit(Request request) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  if (prompt_tokens == 0) refuse("prompt", "no tokens", "at least one");
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= model_.config().vocab_size)
      refuse("prompt", fmt::format("token id {}", token),
             fmt::format("0 to {}", model_.config().vocab_size - 1));
  }
  if (request.max_tokens < (request.prompt_logprobs ? 0 : 1))
    refuse("max_tokens", fmt::format("{}", request.max_tokens), "at least 1");
  if (prompt_tokens > max_request_tokens() - (request.max_tokens > 0 ? 1 : 0)) {
    const bool by_cache = pool_.num_pages() * kCachePageTokens < model_.max_positions();
    refuse("prompt", fmt::format("{} tokens", prompt_tokens),
           fmt::format("fewer than the {} of {}", by_cache ? "cache" : "context",
                       max_request_tokens()));
  }
  validate(request.sampling);

  auto sequence = std::make_unique<Sequence>();
  sequence->prompt_tokens = prompt_tokens;
  sequence->tokens = request.prompt;
  sequence->expanded_end =
      config_.expanded_prefill ? (prompt_tokens - 1) / kCachePageTokens * kCachePageTokens : 0;
  sequence->unit_keys.push_back(PrefixCache::root(
      fmt::format("{}|{}", config_.fingerprint, dtype_name(config_.cache_dtype)), request.tenant));
  for (int64_t begin = 0; begin < sequence->expanded_end; begin += kCachePageTokens) {
    sequence->unit_keys.push_back(PrefixCache::child(
        sequence->unit_keys.back(),
        std::span(sequence->tokens).subspan(static_cast<size_t>(begin), kCachePageTokens)));
  }
  if (request.sampling.has_penalties()) {
    sequence->counts =
        TokenCounts(std::min(prompt_tokens + request.max_tokens, max_request_tokens()));
    sequence->counts.add_prompt(request.prompt);
  }
  sequence->usage.prompt_tokens = prompt_tokens;
  sequence->request = std::move(request);

  const std::lock_guard lock(mutex_);
  if (num_queued_ >= config_.max_queued)
    throw Error(ErrorKind::kUsage, fmt::format("the queue is full: {} requests wait", num_queued_));
  ++num_queued_;
  sequence->id = next_id_++;
  const RequestId id = sequence->id;
  inbox_.push_back(std::move(sequence));
  return id;
}

void Engine::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back({id, published_.num_steps});
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = published_;
  stats.num_waiting += static_cast<int64_t>(inbox_.size());
  if (store_ != nullptr) stats.store = store_->stats();
  stats.heartbeat_seconds = static_cast<double>(now_ns() - heartbeat_ns_.load()) * 1e-9;
  return stats;
}

void Engine::publish_stats() {
  stats_.num_waiting = static_cast<int64_t>(waiting_.size());
  stats_.num_running = static_cast<int64_t>(running_.size());
  stats_.num_pages = pool_.num_pages();
  stats_.num_free_pages = pool_.num_free();
  stats_.num_cached_units = prefix_.num_units();
  for (int64_t i = 0; i < DraftDepth::kMaxDepth; ++i) {
    stats_.drafted[static_cast<size_t>(i)] = depth_.num_drafted(i);
    stats_.accepted[static_cast<size_t>(i)] = depth_.num_accepted(i);
  }
  stats_.one_token_seconds = depth_.main_seconds(1);
  stats_.two_token_seconds = depth_.main_seconds(2);
  stats_.draft_seconds = depth_.draft_seconds(1);
  heartbeat_ns_ = now_ns();
  const std::lock_guard lock(mutex_);
  published_ = stats_;
}

// ---- Who runs

bool Engine::step(Context& ctx) {
  take_inbox();
  end_cancelled_and_late();
  remove_finished();
  admit();
  if (!running_.empty()) {
    ++stats_.num_steps;
    reserve_scratch(ctx);
    try {
      plan_entries();
      if (!entries_.empty()) run_main(ctx);
    } catch (const Error& error) {
      fail_step(error.what());
    } catch (const std::bad_alloc&) {
      fail_step(kNoMemory);
    }
    remove_finished();
  }
  publish_stats();
  return !running_.empty() || !waiting_.empty();
}

void Engine::reserve_scratch(Context& ctx) {
  if (scratch_reserved_) return;
  scratch_reserved_ = true;
  try {
    ctx.scratch().reserve(step_scratch_bytes(model_.config(), model_.policy(),
                                             {.num_tokens = config_.prefill_tokens,
                                              .context_tokens = max_request_tokens(),
                                              .scaled_weights = true}));
  } catch (const std::bad_alloc&) {  // it grows step by step
  }
}

// Whoever was in the call cannot go on; the engine can.
void Engine::fail_step(const char* error) {
  // Not even planned: the last one's memory makes room for the others.
  if (entries_.empty() && !running_.empty()) finish(*running_.back(), FinishReason::kError, error);
  for (const Entry& entry : entries_) {
    if (!entry.sequence->finished) finish(*entry.sequence, FinishReason::kError, error);
  }
}

void Engine::take_inbox() {
  std::vector<SequencePtr> arrived;
  std::vector<Cancel> cancelled;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
    cancelled.swap(cancelled_);
  }
  for (SequencePtr& sequence : arrived) {
    const auto place =
        std::upper_bound(waiting_.begin(), waiting_.end(), sequence,
                         [](const SequencePtr& a, const SequencePtr& b) { return a->before(*b); });
    waiting_.insert(place, std::move(sequence));
  }
  for (const auto& entry : cancelled) {
    const auto mark = [&](Sequence& sequence) {
      const auto& [id, num_steps] = entry;
      if (sequence.id != id || sequence.cancelled) return;
      sequence.cancelled = true;
      sequence.cancelled_at_step = num_steps;
    };
    for (auto& sequence : running_) mark(*sequence);
    for (auto& sequence : waiting_) mark(*sequence);
  }
}

void Engine::end_cancelled_and_late() {
  const EngineClock::time_point now = EngineClock::now();
  const auto check = [&](Sequence& sequence) {
    if (sequence.cancelled) {
      finish(sequence, FinishReason::kCancelled);
    } else if (now >= sequence.request.deadline) {
      finish(sequence, FinishReason::kDeadline);
    }
  };
  for (auto& sequence : running_) check(*sequence);
  for (auto& sequence : waiting_) check(*sequence);
}

// Another is computing pages that this one needs too: they can be shared in a moment.
bool Engine::waits_for_units(const Sequence& sequence) const {
  if (in_flight_.empty() || !sequence.request.use_prefix_cache || sequence.request.prompt_logprobs)
    return false;
  return std::any_of(sequence.unit_keys.begin() + 1, sequence.unit_keys.end(),
                     [&](const UnitKey& key) { return in_flight_.contains(key.low); });
}

void Engine::admit() {
  int64_t looked_at = 0;
  for (auto it = waiting_.begin(); it != waiting_.end() && looked_at < kMaxAdmissionScan;
       ++looked_at) {
    if (static_cast<int64_t>(running_.size()) >= config_.max_sequences) return;
    Sequence& sequence = **it;
    if (waits_for_units(sequence)) {
      ++it;
      continue;
    }
    bool started = false;
    try {
      started = start(sequence);
    } catch (const std::bad_alloc&) {
      finish(sequence, FinishReason::kError, kNoMemory);
      ++it;
      continue;
    }
    if (!started) {
      // Nobody overtakes; but who is more important takes the place of who is less.
      if (running_.empty() || running_.back()->request.priority >= sequence.request.priority)
        return;
      preempt(*running_.back());
      SequencePtr last = std::move(running_.back());
      running_.pop_back();
      const auto place = std::upper_bound(
          it, waiting_.end(), last,
          [](const SequencePtr& a, const SequencePtr& b) { return a->before(*b); });
      const auto index = it - waiting_.begin();
      waiting_.insert(place, std::move(last));
      it = waiting_.begin() + index;
      continue;
    }
    const auto place =
        std::upper_bound(running_.begin(), running_.end(), *it,
                         [](const SequencePtr& a, const SequencePtr& b) { return a->before(*b); });
    running_.insert(place, std::move(*it));
    it = waiting_.erase(it);
  }
}

// Takes the pages that its known tokens need, cached ones first.
bool Engine::start(Sequence& sequence) {
  const bool may_share = sequence.request.use_prefix_cache && !sequence.request.prompt_logprobs;
  const int64_t num_units = may_share ? sequence.expanded_end / kCachePageTokens : 0;
  int64_t unit = 0;
  for (; unit < num_units; ++unit) {
    const auto u = static_cast<size_t>(unit);
    const int64_t page =
        prefix_.find(sequence.unit_keys[u + 1], sequence.unit_keys[u],
                     std::span(sequence.tokens).subspan(u * kCachePageTokens, kCachePageTokens));
    if (page < 0) break;
    sequence.pages.push_back(page);
    sequence.page_data.push_back(pool_.data(page));
  }
  const int64_t known = static_cast<int64_t>(sequence.tokens.size());
  const int64_t needed = div_up(known + 1, kCachePageTokens) - unit;
  // Those who run grow too: leave them a page each, unless nobody runs.
  const int64_t spare = static_cast<int64_t>(running_.size());
  if (pool_.num_free() < needed + spare &&
      pool_.num_free() + prefix_.num_evictable() < needed + spare &&
      !(running_.empty() &&
        pool_.num_free() + prefix_.num_evictable() >= std::min(needed, pool_.num_pages() - unit))) {
    give_back_pages(sequence);
    return false;
  }
  sequence.num_cached = unit * kCachePageTokens;
  sequence.module_done.fill(sequence.num_cached);
  sequence.num_offered = unit;
  // A decoding step allocates nothing: what grows with the reply has its size from here on.
  const int64_t most_tokens = std::min(
      max_request_tokens(),
      sequence.prompt_tokens + std::min(sequence.request.max_tokens, max_request_tokens()));
  sequence.tokens.reserve(static_cast<size_t>(most_tokens));
  sequence.pages.reserve(static_cast<size_t>(div_up(most_tokens, kCachePageTokens)));
  sequence.page_data.reserve(sequence.pages.capacity());
  sequence.drafts.reserve(DraftDepth::kMaxDepth);
  sequence.fed.reserve(DraftDepth::kMaxDepth + 1);
  sequence.fresh.reserve(DraftDepth::kMaxDepth + 1);
  for (int64_t m = 1; speculates() && m < num_draft_modules(); ++m)
    sequence.carried[static_cast<size_t>(m)].reserve(static_cast<size_t>(draft_row_bytes()));
  sequence.running = true;
  if (!sequence.started) sequence.usage.cached_tokens = sequence.num_cached;
  sequence.started = true;
  stats_.cached_tokens += sequence.num_cached;
  if (may_share) {
    for (int64_t u = unit; u < num_units; ++u)
      in_flight_.insert(sequence.unit_keys[static_cast<size_t>(u + 1)].low);
  }
  return true;
}

// Pages for the first num_tokens tokens. Takes them from cached prompts nobody uses, then (if it
// may) from the sequences that rank last, itself included. False: it got none; it may have been
// preempted.
bool Engine::ensure_pages(Sequence& sequence, int64_t num_tokens, bool may_preempt) {
  while (static_cast<int64_t>(sequence.pages.size()) * kCachePageTokens < num_tokens) {
    int64_t page = pool_.allocate();
    if (page < 0 && prefix_.evict_one()) page = pool_.allocate();
    if (page < 0) {
      if (!may_preempt) return false;
      Sequence* victim = nullptr;
      for (auto& other : running_) {
        if (!other->finished && other->running && !other->pages.empty()) victim = other.get();
      }
      if (victim == nullptr || (victim == &sequence && running_.size() == 1)) return false;
      preempt(*victim);
      if (victim == &sequence) return false;
      continue;
    }
    sequence.pages.push_back(page);
    sequence.page_data.push_back(pool_.data(page));
  }
  return true;
}

// Its tokens stay; what the cache held of them is computed again when there is room.
void Engine::preempt(Sequence& sequence) {
  give_back_pages(sequence);
  sequence.running = false;
  ++sequence.usage.num_preemptions;
  ++stats_.num_preemptions;
  std::erase_if(entries_, [&](const Entry& entry) { return entry.sequence == &sequence; });
}

void Engine::give_back_pages(Sequence& sequence) {
  for (const int64_t page : sequence.pages) pool_.release(page);
  sequence.pages.clear();
  sequence.page_data.clear();
  sequence.drafts.clear();
  sequence.num_cached = 0;
  sequence.num_offered = 0;
  for (size_t u = 1; u < sequence.unit_keys.size() && sequence.running; ++u)
    in_flight_.erase(sequence.unit_keys[u].low);
}

// Pages of the prompt that are computed go to the prefix cache.
void Engine::offer_units(Sequence& sequence) {
  if (!sequence.request.use_prefix_cache) return;
  const int64_t ready = std::min(sequence.num_cached, sequence.expanded_end) / kCachePageTokens;
  for (; sequence.num_offered < ready; ++sequence.num_offered) {
    const auto u = static_cast<size_t>(sequence.num_offered);
    prefix_.insert(sequence.unit_keys[u + 1], sequence.unit_keys[u],
                   std::span(sequence.tokens).subspan(u * kCachePageTokens, kCachePageTokens),
                   sequence.pages[u]);
    in_flight_.erase(sequence.unit_keys[u + 1].low);
  }
}

void Engine::end(Sequence& sequence, FinishReason reason, std::string error) {
  if (sequence.finished) return;
  sequence.finished = true;
  sequence.reason = reason;
  sequence.error = std::move(error);
}

void Engine::complete(Sequence& sequence) {
  if (sequence.completed) return;
  sequence.completed = true;
  sequence.usage.output_tokens = sequence.num_output();
  ++stats_.num_finished[static_cast<size_t>(sequence.reason)];
  give_back_pages(sequence);
  if (sequence.cancelled && sequence.reason == FinishReason::kCancelled) {
    stats_.max_cancel_steps =
        std::max(stats_.max_cancel_steps, stats_.num_steps - sequence.cancelled_at_step);
  }
  if (!sequence.request.on_event) return;
  sequence.request.on_event({.id = sequence.id,
                             .tokens = sequence.fresh,
                             .prompt_logprobs = sequence.prompt_scores,
                             .finished = true,
                             .reason = sequence.reason,
                             .error = sequence.error,
                             .usage = sequence.usage});
}

void Engine::remove_finished() {
  const size_t before = running_.size() + waiting_.size();
  for (SequencePtr& sequence : running_) {
    if (sequence->finished || sequence->running) continue;
    // Preempted: back to where its rank is.
    const auto place =
        std::upper_bound(waiting_.begin(), waiting_.end(), sequence,
                         [](const SequencePtr& a, const SequencePtr& b) { return a->before(*b); });
    waiting_.insert(place, std::move(sequence));
  }
  std::erase_if(running_, [](const SequencePtr& s) { return s == nullptr || s->finished; });
  std::erase_if(waiting_, [](const SequencePtr& s) { return s->finished; });
  const size_t ended = before - running_.size() - waiting_.size();
  if (ended == 0) return;
  const std::lock_guard lock(mutex_);
  num_queued_ -= static_cast<int64_t>(ended);
}

}  // namespace fathom
