// One step of the engine: which tokens go in, the call of the model, and what is chosen from its
// logits. What is drafted for the next step stands in engine_draft.cc.
#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "infer/engine_internal.h"

namespace fathom {
namespace {

// Logits of a whole prompt take V values a token: so many tokens at a time.
constexpr int64_t kScoredTokens = 64;

double seconds_since(EngineClock::time_point begin) {
  return std::chrono::duration<double>(EngineClock::now() - begin).count();
}

template <typename T>
bool contains(const std::vector<T>& values, const T& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

}  // namespace

// ---- Which tokens

void Engine::plan_entries() {
  entries_.clear();
  int64_t num_decoding = 0;
  for (const auto& sequence : running_)
    num_decoding += static_cast<int64_t>(sequence->tokens.size()) - sequence->num_cached == 1;
  step_depth_ = depth_.choose(num_decoding);
  // In order of rank, so that pages go to those who came first.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.running || sequence.finished) continue;
    if (static_cast<int64_t>(sequence.tokens.size()) - sequence.num_cached == 1)
      plan_decoding(sequence);
  }
  int64_t budget =
      num_decoding > 0 ? config_.prefill_tokens_beside_decoding : config_.prefill_tokens;
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.running || sequence.finished) continue;
    if (static_cast<int64_t>(sequence.tokens.size()) - sequence.num_cached > 1)
      budget -= plan_prefill(sequence, budget);
  }
  // Only a step with prompts needs the order, and the memory for it.
  if (std::any_of(entries_.begin(), entries_.end(), [](const Entry& e) { return e.expanded; })) {
    std::stable_partition(entries_.begin(), entries_.end(),
                          [](const Entry& entry) { return !entry.expanded; });
  }
  inputs_.clear();
  int64_t row = 0, logit = 0;
  for (Entry& entry : entries_) {
    entry.first_row = row;
    entry.first_logit = logit;
    row += static_cast<int64_t>(entry.tokens.size());
    logit += entry.num_logits;
    inputs_.push_back({.tokens = entry.tokens,
                       .pages = entry.sequence->page_data.data(),
                       .num_pages = static_cast<int64_t>(entry.sequence->page_data.size()),
                       .num_cached = entry.begin,
                       .num_logits = entry.num_logits,
                       .expanded = entry.expanded});
  }
}

// The last token, and what was drafted behind it as far as there is room.
void Engine::plan_decoding(Sequence& sequence) {
  const int64_t end = sequence.num_cached + 1;
  if (!ensure_pages(sequence, end, /*may_preempt=*/true)) {
    if (sequence.running) finish(sequence, FinishReason::kLength);  // the cache is full of it
    return;
  }
  const int64_t left = sequence.request.max_tokens - sequence.num_output();
  int64_t num_drafts = std::min({static_cast<int64_t>(sequence.drafts.size()), step_depth_,
                                 left - 1, max_request_tokens() - end});
  if (num_drafts > 0 && !ensure_pages(sequence, end + num_drafts, /*may_preempt=*/false))
    num_drafts =
        std::min(num_drafts, static_cast<int64_t>(sequence.pages.size()) * kCachePageTokens - end);
  sequence.drafts.resize(static_cast<size_t>(std::max<int64_t>(num_drafts, 0)));
  sequence.fed.assign(1, sequence.tokens.back());
  sequence.fed.insert(sequence.fed.end(), sequence.drafts.begin(), sequence.drafts.end());
  entries_.push_back({.sequence = &sequence,
                      .tokens = sequence.fed,
                      .begin = sequence.num_cached,
                      .num_logits = static_cast<int64_t>(sequence.fed.size()),
                      .decoding = true});
}

// A chunk of what is known and not cached: whole pages of the prompt expanded, then what is behind.
// Returns its tokens.
int64_t Engine::plan_prefill(Sequence& sequence, int64_t budget) {
  if (sequence.request.prompt_logprobs) budget = std::min(budget, kScoredTokens);
  const auto known = static_cast<int64_t>(sequence.tokens.size());
  int64_t end = std::min(known, sequence.num_cached + budget);
  if (!ensure_pages(sequence, end, /*may_preempt=*/true)) {
    if (sequence.running) finish(sequence, FinishReason::kLength);
    return 0;
  }
  const int64_t expanded_end = std::clamp(sequence.expanded_end, sequence.num_cached, end);
  const auto add = [&](int64_t begin, int64_t to, bool expanded) {
    if (begin == to) return;
    int64_t num_logits = to == known ? 1 : 0;
    if (sequence.request.prompt_logprobs && begin < sequence.prompt_tokens) num_logits = to - begin;
    entries_.push_back(
        {.sequence = &sequence,
         .tokens = std::span(sequence.tokens)
                       .subspan(static_cast<size_t>(begin), static_cast<size_t>(to - begin)),
         .begin = begin,
         .num_logits = num_logits,
         .expanded = expanded});
  };
  const int64_t tokens = end - sequence.num_cached;
  add(sequence.num_cached, expanded_end, true);
  add(expanded_end, end, false);
  return tokens;
}

// ---- The call

std::span<const float> Engine::logits_row(int64_t row) const {
  const auto V = static_cast<size_t>(model_.config().vocab_size);
  return std::span(logits_).subspan(static_cast<size_t>(row) * V, V);
}

void Engine::run_main(Context& ctx) {
  const ModelConfig& config = model_.config();
  int64_t num_rows = 0, num_logits = 0;
  bool only_decoding = true, report_experts = false;
  for (const Entry& entry : entries_) {
    num_rows += static_cast<int64_t>(entry.tokens.size());
    num_logits += entry.num_logits;
    only_decoding = only_decoding && entry.decoding;
    report_experts = report_experts || entry.sequence->request.report_experts;
  }
  const bool draft_next = speculates() && (step_depth_ > 0 || !only_decoding);
  logits_.resize(std::max(logits_.size(), static_cast<size_t>(num_logits * config.vocab_size)));
  CachedOutputs outputs{.logits_LV = TensorView(logits_.data(), DType::kF32,
                                                Shape{num_logits, config.vocab_size}, "logits_LV"),
                        .expert_counts = expert_counts_.data()};
  if (draft_next) {
    const DType dtype = mtp_hidden_dtype(model_);
    hidden_.resize(std::max(
        hidden_.size(), static_cast<size_t>(num_rows * config.hidden_size * dtype_bytes(dtype))));
    outputs.hidden_TD =
        TensorView(hidden_.data(), dtype, Shape{num_rows, config.hidden_size}, "mtp_hidden_TD");
  }
  num_step_rows_ = num_rows;
  expert_choices_.clear();
  if (report_experts) {
    expert_choices_.resize(moe_layers(config).size() *
                           static_cast<size_t>(num_rows * config.num_experts_per_tok));
    outputs.expert_choices = expert_choices_.data();
  }
  const auto begin = EngineClock::now();
  forward_cached(ctx, model_, layout_, inputs_, outputs);
  if (only_decoding) depth_.record_main(num_rows, seconds_since(begin));

  // Sampling can preempt nobody, so the entries stay.
  for (Entry& entry : entries_) {
    try {
      sample(entry);
    } catch (const Error& error) {
      end(*entry.sequence, FinishReason::kError, error.what());
    }
  }
  if (draft_next) {
    draft(ctx, only_decoding);
  } else if (speculates()) {
    skip_drafting();
  }
  for (const Entry& entry : entries_) {
    Sequence& sequence = *entry.sequence;
    if (!sequence.completed && sequence.reason != FinishReason::kError) offer_units(sequence);
  }
  for (const Entry& entry : entries_) {
    if (entry.sequence->finished) {
      complete(*entry.sequence);
    } else {
      emit(*entry.sequence);
    }
  }
}

// ---- Choosing

// Takes the entry's tokens into the cache, and chooses what follows where logits say so.
void Engine::sample(Entry& entry) {
  Sequence& sequence = *entry.sequence;
  if (sequence.finished) return;
  if (!entry.decoding) {
    stats_.prompt_tokens += static_cast<int64_t>(entry.tokens.size());
    entry.num_kept = static_cast<int64_t>(entry.tokens.size());
    // The part behind may stand before the expanded one in the list.
    sequence.num_cached = std::max(sequence.num_cached, entry.begin + entry.num_kept);
    if (sequence.request.prompt_logprobs) report_prompt_logprobs(entry);
    const bool is_last =
        entry.begin + entry.num_kept == static_cast<int64_t>(sequence.tokens.size());
    if (!is_last) return;
    if (sequence.request.max_tokens == 0) return end(sequence, FinishReason::kLength);
    sample_output(sequence, logits_row(entry.first_logit + entry.num_logits - 1),
                  entry.first_row + entry.num_kept - 1);
    return;
  }
  // Each row is what follows the tokens before it, if the drafts among them were right.
  const auto num_rows = static_cast<int64_t>(entry.tokens.size());
  for (int64_t i = 0; i < num_rows && !sequence.finished; ++i) {
    entry.num_kept = i + 1;
    sequence.num_cached = entry.begin + i + 1;
    sample_output(sequence, logits_row(entry.first_logit + i), entry.first_row + i);
    if (i + 1 == num_rows) break;
    const bool accepted =
        !sequence.finished && sequence.tokens.back() == entry.tokens[static_cast<size_t>(i + 1)];
    ++sequence.usage.drafted_tokens;
    sequence.usage.accepted_tokens += accepted;
    if (!sequence.finished || accepted) depth_.record_outcome(i, accepted);
    if (!accepted) break;
  }
}

// One token behind what is known, by the row of its logits, which is of row `row` of the step.
void Engine::sample_output(Sequence& sequence, std::span<const float> logits, int64_t row) {
  const Request& request = sequence.request;
  const int64_t index = sequence.num_output();
  TokenMask narrowed;
  const TokenMask* mask = nullptr;
  if (request.constraint != nullptr) mask = &request.constraint->allowed();
  if (index < request.min_tokens && !request.stop_tokens.empty()) {
    mask_words_.assign(static_cast<size_t>(TokenMask::num_words(model_.config().vocab_size)),
                       ~uint64_t{0});
    if (mask != nullptr) {
      std::fill(mask_words_.begin(), mask_words_.end(), 0);
      std::copy_n(mask->words().begin(), std::min(mask->words().size(), mask_words_.size()),
                  mask_words_.begin());
    }
    for (const int32_t stop : request.stop_tokens) {
      if (stop >= 0 && stop < model_.config().vocab_size)
        mask_words_[static_cast<size_t>(stop) / 64] &= ~(uint64_t{1} << (stop % 64));
    }
    narrowed = TokenMask(mask_words_);
    mask = &narrowed;
  }
  builder_.build(request.sampling,
                 {.logits = logits,
                  .counts = request.sampling.has_penalties() ? &sequence.counts : nullptr,
                  .allowed = mask},
                 distribution_);
  const int32_t token = distribution_.draw(Random(request.sampling.seed, RandomPurpose::kSampling),
                                           static_cast<uint64_t>(index));
  if (request.constraint != nullptr) request.constraint->advance(token);
  if (contains(request.stop_tokens, token)) return end(sequence, FinishReason::kStop);

  GeneratedToken generated{.id = token};
  if (request.num_top_logprobs >= 0) {
    generated.top.resize(static_cast<size_t>(request.num_top_logprobs));
    generated.logprob =
        compute_logprobs(logits, request.sampling.num_token_ids, token, generated.top);
  }
  if (request.report_experts) generated.experts = experts_of_row(row);
  sequence.tokens.push_back(token);
  sequence.fresh.push_back(std::move(generated));
  if (request.sampling.has_penalties()) sequence.counts.add_output(token);
  ++stats_.output_tokens;
  if (sequence.num_output() >= request.max_tokens ||
      static_cast<int64_t>(sequence.tokens.size()) >= max_request_tokens())
    end(sequence, FinishReason::kLength);
}

std::vector<int32_t> Engine::experts_of_row(int64_t row) const {
  const ModelConfig& config = model_.config();
  const int64_t A = config.num_experts_per_tok;
  std::vector<int32_t> experts;
  for (const int64_t layer : moe_layers(config)) {
    if (layer >= config.num_hidden_layers) break;  // an MTP module's
    const auto begin = expert_choices_.begin() +
                       (static_cast<int64_t>(experts.size()) / A * num_step_rows_ + row) * A;
    experts.insert(experts.end(), begin, begin + A);
  }
  return experts;
}

void Engine::report_prompt_logprobs(const Entry& entry) {
  Sequence& sequence = *entry.sequence;
  auto& scores = sequence.prompt_scores;
  if (scores.empty()) scores.resize(static_cast<size_t>(sequence.prompt_tokens));
  for (int64_t i = 0; i < entry.num_logits; ++i) {
    const int64_t next =
        entry.begin + static_cast<int64_t>(entry.tokens.size()) - entry.num_logits + i + 1;
    if (next >= sequence.prompt_tokens) break;
    GeneratedToken& score = scores[static_cast<size_t>(next)];
    score.id = sequence.tokens[static_cast<size_t>(next)];
    score.top.resize(static_cast<size_t>(std::max<int64_t>(sequence.request.num_top_logprobs, 0)));
    score.logprob = compute_logprobs(logits_row(entry.first_logit + i),
                                     sequence.request.sampling.num_token_ids, score.id, score.top);
  }
  scores[0].id = sequence.tokens[0];
}

void Engine::emit(Sequence& sequence) {
  const bool scored = sequence.request.prompt_logprobs && !sequence.prompt_scores.empty() &&
                      sequence.num_output() > 0;
  if (sequence.fresh.empty() && !scored) return;
  bool go_on = true;
  if (sequence.request.on_event) {
    go_on = sequence.request.on_event(
        {.id = sequence.id,
         .tokens = sequence.fresh,
         .prompt_logprobs = scored ? std::span<const GeneratedToken>(sequence.prompt_scores)
                                   : std::span<const GeneratedToken>(),
         .usage = sequence.usage});
  }
  sequence.fresh.clear();
  if (scored) sequence.prompt_scores.clear();
  if (!go_on) finish(sequence, FinishReason::kCancelled);
}

}  // namespace fathom
