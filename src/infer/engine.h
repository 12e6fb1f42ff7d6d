// The inference engine: many requests at once over one model. Token ids in, token ids out.
//
// A step takes what waits, gives every running sequence its next tokens in one call of the model
// (decoding ones a token and what was drafted for them, prompts a chunk), chooses tokens, and
// drafts the next. Sequences join and leave between steps.
//
// A reply is a function of the request and the model alone: not of what else runs, of how prompts
// were cut, of what the prefix cache held, of preemption, or of speculation. Three rules make it
// so:
//  * kernels give a row the same bits whatever the batch (kernels.h, forward_cached.h);
//  * which form of attention a token takes depends on its place in the request only: whole pages of
//    the prompt, but for the last token's, attend expanded, everything behind in latent space; only
//    such pages enter the prefix cache;
//  * a drafted token is kept if it is the one that plain decoding draws at that place
//    (TokenDistribution::draw), so speculation verifies and never chooses.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "infer/draft_depth.h"
#include "infer/page_pool.h"
#include "infer/prefix_cache.h"
#include "infer/prefix_store.h"
#include "infer/request.h"
#include "infer/token_distribution.h"
#include "model/forward_cached.h"
#include "model/step_bytes.h"

namespace fathom {

struct EngineConfig {
  int64_t cache_tokens = 16384;  // of all sequences and cached prompts together; whole pages
  DType cache_dtype = DType::kBF16;
  int64_t max_sequences = 256;                   // running at once
  int64_t max_queued = 1 << 20;                  // waiting; more are refused
  int64_t prefill_tokens = kPromptStepTokens;    // of prompts in a step
  int64_t prefill_tokens_beside_decoding = 256;  // so that those who decode need not wait long
  int64_t max_draft = 2;                         // tokens drafted at most; 0: no speculation
  bool adapt_draft = true;                       // false: max_draft tokens always
  bool expanded_prefill = true;                  // false: prompts attend in latent space too
  // The prefix cache on disk; empty: in memory only. The fingerprint ties it to the model.
  std::string prefix_folder;
  int64_t prefix_folder_bytes = int64_t{4} << 30;
  std::string fingerprint;
};

struct EngineStats {
  int64_t num_waiting = 0, num_running = 0;
  int64_t num_steps = 0;
  int64_t prompt_tokens = 0;  // computed
  int64_t cached_tokens = 0;  // taken from the prefix cache
  int64_t output_tokens = 0;
  int64_t num_preemptions = 0;
  std::array<int64_t, 5> num_finished{};  // by FinishReason
  int64_t max_cancel_steps =
      0;  // that ended between a cancel() and the end of its sequence, at most
  int64_t num_pages = 0, num_free_pages = 0, num_cached_units = 0;
  std::array<int64_t, DraftDepth::kMaxDepth> drafted{}, accepted{};  // by position
  // Means of what decoding steps took, 0 where nothing was measured: the main model over one token
  // and over two, and one pass of the MTP module for one sequence.
  double one_token_seconds = 0, two_token_seconds = 0, draft_seconds = 0;
  PrefixStore::Stats store;
  double heartbeat_seconds = 0;  // since the last step ended or the engine was seen idle
};

// What keeps cached prompts of one model apart from another's: configuration, precision, the
// kernels' level, and samples of every tensor's bytes.
std::string model_fingerprint(const Context& ctx, const Model& model);

class Engine {
 public:
  Engine(const Model& model, const EngineConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Any thread. A request that can never run (empty, ids out of range, longer than the context or
  // the cache, options out of range) is an Error(kUsage) here; so is a full queue (kBusy text).
  RequestId submit(Request request);
  // Any thread. The request ends within one step; unknown ids are ignored.
  void cancel(RequestId id);
  // Any thread; counters may be of different moments.
  EngineStats stats() const;
  int64_t max_request_tokens() const;  // prompt and output together

  // One thread. False: nothing to do.
  bool step(Context& ctx);
  void run_until_idle(Context& ctx) {
    while (step(ctx)) {
    }
  }

  // Rows of each expert since the start, [moe layers, E] in the order of moe_layers(). One thread.
  std::span<const int64_t> expert_counts() const { return expert_counts_; }
  const Model& model() const { return model_; }
  const EngineConfig& config() const { return config_; }
  // Waits until the prefix cache is on disk.
  void flush_prefix_store();
  void clear_prefix_cache() { prefix_.clear(); }

 private:
  struct Sequence;
  struct Entry;
  using SequencePtr = std::unique_ptr<Sequence>;

  // engine.cc: who runs
  void reserve_scratch(Context& ctx);
  void fail_step(const char* error);
  void take_inbox();
  void end_cancelled_and_late();
  void admit();
  bool waits_for_units(const Sequence& sequence) const;
  bool start(Sequence& sequence);
  bool ensure_pages(Sequence& sequence, int64_t num_tokens, bool may_preempt);
  void preempt(Sequence& sequence);
  void give_back_pages(Sequence& sequence);
  void offer_units(Sequence& sequence);
  // The reply ends here; complete() gives back what the sequence holds and tells the client.
  void end(Sequence& sequence, FinishReason reason, std::string error = {});
  void complete(Sequence& sequence);
  void finish(Sequence& sequence, FinishReason reason, std::string error = {}) {
    end(sequence, reason, std::move(error));
    complete(sequence);
  }
  void remove_finished();
  void publish_stats();
  bool speculates() const { return layout_.num_layers > model_.config().num_hidden_layers; }

  // engine_step.cc: what a step computes
  void plan_entries();
  void plan_decoding(Sequence& sequence);
  int64_t plan_prefill(Sequence& sequence, int64_t budget);
  void run_main(Context& ctx);
  void sample(Entry& entry);
  void sample_output(Sequence& sequence, std::span<const float> logits, int64_t row);
  std::vector<int32_t> experts_of_row(int64_t row) const;
  void report_prompt_logprobs(const Entry& entry);
  void emit(Sequence& sequence);
  std::span<const float> logits_row(int64_t row) const;

  // engine_draft.cc: what is drafted for the next step
  void draft(Context& ctx, bool only_decoding);
  void skip_drafting();
  int64_t gather_first_module();
  int64_t gather_module(int64_t m);
  void run_module(Context& ctx, int64_t m, int64_t num_rows, DType hidden_dtype);
  int64_t draft_by_the_last_module(Context& ctx, int64_t num_modules);
  void choose_draft(Sequence& sequence, std::span<const float> logits);
  void clear_module_rows(Sequence& sequence, int64_t m, int64_t end);
  int64_t num_draft_modules() const;
  int64_t draft_row_bytes() const;

  const Model& model_;
  EngineConfig config_;
  CacheLayout layout_;
  PagePool pool_;
  std::unique_ptr<PrefixStore> store_;
  PrefixCache prefix_;
  DraftDepth depth_;

  std::vector<SequencePtr> running_;        // by rank: priority, then arrival
  std::deque<SequencePtr> waiting_;         // by rank
  std::unordered_set<uint64_t> in_flight_;  // units that a running sequence is computing

  // Of the step in progress.
  std::vector<Entry> entries_;
  std::vector<SequenceInput> inputs_;
  std::vector<float> logits_;
  std::vector<std::byte> hidden_, next_hidden_;
  struct ModuleRows;
  std::vector<ModuleRows> module_rows_;
  std::vector<int32_t> module_tokens_;
  std::vector<uint64_t> mask_words_;
  DistributionBuilder builder_;
  TokenDistribution distribution_;
  int64_t step_depth_ = 0;
  std::vector<int64_t> expert_counts_;
  std::vector<int32_t> expert_choices_;  // [moe layers, rows of the step, A]; empty: nobody asked
  int64_t num_step_rows_ = 0;

  mutable std::mutex mutex_;  // of what other threads touch
  std::vector<SequencePtr> inbox_;
  struct Cancel {
    RequestId id;
    int64_t num_steps;  // that had ended when it came
  };
  std::vector<Cancel> cancelled_;
  RequestId next_id_ = 1;
  int64_t num_queued_ = 0;
  EngineStats stats_, published_;
  bool scratch_reserved_ = false;
  std::atomic<int64_t> heartbeat_ns_{0};
};

}  // namespace fathom
