// How fast the engine is: tokens per second of prompts and of decoding (what llama-bench calls pp
// and tg), and the waiting times of requests that arrive by chance.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "infer/engine.h"

namespace fathom {

struct EngineBenchOptions {
  int64_t prompt_tokens = 512;  // 0: no prompt test
  int64_t gen_tokens = 128;     // 0: no decoding test
  int64_t depth = 0;            // tokens before those that are decoded
  int64_t parallel = 1;         // sequences at once, with different tokens
  int64_t repetitions = 3;
  bool warm_up = true;
  uint64_t seed = 0;
  int64_t max_draft = 0;
  bool adapt_draft = true;
  // Decode behind these instead of random tokens, one after the other; depth is not used then. For
  // run_serving_bench: what its requests ask, in turns, instead of prompt_tokens random ones.
  std::vector<std::vector<int32_t>> prompts;
  DType cache_dtype = DType::kBF16;
  const std::atomic<bool>* stop = nullptr;
};

struct EngineBenchResult {
  std::string test;  // pp512, tg128, tg128 @ d4096; x parallel
  int64_t tokens = 0;
  std::vector<double> tokens_per_second;  // by repetition
  double median() const;
  RequestUsage usage;  // of the last repetition, summed
  EngineStats stats;   // behind the last repetition
};

// Runs the tests; no end token, greedy choice, no prefix cache.
std::vector<EngineBenchResult> run_engine_bench(Context& ctx, const Model& model,
                                                const EngineBenchOptions& options);

// Requests of prompt_tokens and gen_tokens that arrive at `rate` a second (exponential gaps; 0: all
// at once). With warm_up all of them have run for a few tokens before, untimed.
struct ServingBenchOptions {
  int64_t num_requests = 64;
  double rate = 0;
  EngineBenchOptions shape;
  int64_t cache_tokens = 0;  // 0: what all of them need
};
struct ServingBenchResult {
  double seconds = 0, output_tokens_per_second = 0, total_tokens_per_second = 0;
  // Percentiles 50, 90, 99.
  std::vector<double> first_token_seconds, seconds_per_token;
  int64_t num_preemptions = 0;
};
ServingBenchResult run_serving_bench(Context& ctx, const Model& model,
                                     const ServingBenchOptions& options);

}  // namespace fathom
