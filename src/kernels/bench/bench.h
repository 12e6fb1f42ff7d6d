// The logic of `fathom bench`: the machine's limits, then every kernel on the shapes of real
// models, as GFLOP/s or GB/s and as a share of the limit measured next to it. What is bound by
// memory runs over several copies of its operands, so that it finds them outside the caches, as it
// does between the other kernels of a step.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/types.h"

namespace fathom {

// The sizes of a model that kernels see; tests/bench_test.cc holds them to configs/models.
struct BenchModel {
  const char* name;
  int64_t hidden, heads, q_lora, kv_lora, nope, rope, value;
  int64_t dense_width, expert_width, num_experts, num_active, n_group, topk_group, vocab;
  int64_t measured_experts;  // that a case holds, where all would not fit in memory
  int64_t row_tokens;        // of a training case: one row
  int64_t num_rows;
};
const std::vector<BenchModel>& bench_models();  // the demo's, a 1B-class one, 671B

struct BenchResult {
  std::string model;  // "demo", "1b", "671b"; "machine" for a limit
  std::string name;   // "gemm_nt q_b", "mla_attention_forward"
  std::string shape;  // "bf16 1024x3072x768"
  int threads = 0;
  std::string isa;               // of the implementation that ran
  bool bandwidth_bound = false;  // the rate is bytes per second, else operations per second
  double rate = 0;               // the median of the rounds
  double low = 0, high = 0;      // of the rounds
  double limit = 0;              // median of the same rounds; 0 where this machine has none
  double percent_of_limit() const { return limit > 0 ? 100 * rate / limit : 0; }
};

struct BenchOptions {
  std::string filter;        // a regular expression on "model name shape"; empty: all but
                             // what takes seconds a call
  std::vector<int> threads;  // counts to measure; empty: one and all
  int rounds = 3;            // thread counts take turns in each
  double seconds = 0.02;     // that a case runs at least, per round and thread count
  const std::atomic<bool>* stop = nullptr;  // set: ends after the current case
  std::function<void(const std::string& what, int64_t index, int64_t count)> progress;
};

struct BenchReport {
  std::vector<BenchResult> results;                    // limits before, kernels, limits after
  double round_trip_before = 0, round_trip_after = 0;  // seconds
  bool stopped = false;
};
// Throws Error(kUsage) for a filter that is no regular expression or that nothing matches.
BenchReport run_bench(const BenchOptions& options);

}  // namespace fathom
