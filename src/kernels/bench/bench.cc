#include "kernels/bench/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <regex>
#include <set>

#include "core/error.h"
#include "kernels/bench/bench_case.h"
#include "kernels/limits.h"
#include "kernels/peak.h"

namespace fathom {
namespace bench {

TensorView Operands::zeros(DType dtype, Shape shape) {
  // Its pages come with the first write, in the call that does not count.
  memory_.emplace_back("bench", shape.num_elements() * dtype_bytes(dtype) + kTensorAlignBytes);
  return memory_.back().allocate(dtype, shape, "bench");
}

// One block of numbers, repeated: drawing gigabytes would take longer than the measurement.
TensorView Operands::make(DType dtype, Shape shape) {
  constexpr int64_t kBlock = 65521;  // no divisor of any row
  const TensorView v = zeros(dtype, shape);
  const int64_t count = v.num_elements(), drawn = std::min(count, kBlock);
  uint32_t state = static_cast<uint32_t>(memory_.size());
  for (int64_t i = 0; i < drawn; ++i) {
    state = state * 1664525u + 1013904223u;
    const float x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    if (dtype == DType::kF32) v.as<float>()[i] = x;
    if (dtype == DType::kBF16) v.as<bf16>()[i] = bf16(x);
  }
  auto* bytes = static_cast<std::byte*>(v.data);
  const int64_t element = dtype_bytes(dtype);
  for (int64_t i = drawn; i < count; i += drawn) {
    std::memcpy(bytes + i * element, bytes,
                static_cast<size_t>(std::min(drawn, count - i) * element));
  }
  return v;
}

TensorView Operands::distinct(int64_t num_rows, int64_t width, int64_t bound) {
  const TensorView v = zeros(DType::kI32, {num_rows, width});
  // A step without a common divisor with the bound visits every value.
  int64_t step = bound * 5 / 8 + 1;
  while (std::gcd(step, bound) != 1) ++step;
  for (int64_t i = 0; i < num_rows * width; ++i)
    v.as<int32_t>()[i] = static_cast<int32_t>((i % width * step + i / width) % bound);
  return v;
}

}  // namespace bench

namespace {

using bench::Call;
using bench::Case;
using bench::Operands;
using Clock = std::chrono::steady_clock;

constexpr double kBeyondCaches = 96e6;  // bytes that all copies of memory-bound operands exceed
constexpr double kMaxCopies = 64;
constexpr double kCaseSeconds = 0.7;  // no further round after this long

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

enum class LimitKind { kRead, kUpdate, kFp32, kBf16, kInt8 };

LimitKind limit_of(const Case& c) {
  if (c.writes_much) return LimitKind::kUpdate;
  if (c.bandwidth_bound) return LimitKind::kRead;
  return c.dtype == DType::kBF16 ? LimitKind::kBf16 : LimitKind::kFp32;
}

double measure_limit(BandwidthProbe& probe, Context& ctx, LimitKind kind) {
  constexpr double kSeconds = 0.01;
  switch (kind) {
    case LimitKind::kRead:
      return probe.measure(ctx, BandwidthProbe::Kind::kRead, kSeconds);
    case LimitKind::kUpdate:
      return probe.measure(ctx, BandwidthProbe::Kind::kUpdate, kSeconds);
    case LimitKind::kFp32:
      return measure_peak_flops(ctx, DType::kF32);
    case LimitKind::kBf16:
      return measure_peak_flops(ctx, DType::kBF16);
    case LimitKind::kInt8:
      return measure_peak_flops(ctx, DType::kU8);
  }
  FATHOM_CHECK(false, "limit {}", static_cast<int>(kind));
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options) {
    try {
      filter_.assign(options.filter);
    } catch (const std::regex_error& error) {
      fail(ErrorKind::kUsage, "--filter: '{}' is no regular expression ({})", options.filter,
           error.what());
    }
    std::vector<int> threads = options.threads;
    if (threads.empty()) threads = {1, cpu_info().num_cpus};
    const std::set<int> distinct(threads.begin(), threads.end());
    for (const int n : distinct) contexts_.push_back(std::make_unique<Context>(n));
  }

  BenchReport run() {
    std::vector<Case> cases;
    for (const BenchModel& model : bench_models()) {
      bench::add_product_cases(model, cases);
      bench::add_attention_cases(model, cases);
      bench::add_row_cases(model, cases);
    }
    std::erase_if(cases, [&](const Case& c) {
      return !wanted(c.model, c.name, c.shape) || (c.slow && options_.filter.empty());
    });
    if (cases.empty() && !any_limit_wanted()) {
      fail(ErrorKind::kUsage, "--filter: nothing matches '{}'", options_.filter);
    }
    const int64_t count = static_cast<int64_t>(cases.size()) + 2;
    progress("limits of the machine", 0, count);
    report_.round_trip_before = measure_round_trip();
    add_limits("before");
    for (int64_t i = 0; i < static_cast<int64_t>(cases.size()) && !stopped(); ++i) {
      const Case& c = cases[static_cast<size_t>(i)];
      progress(fmt::format("{} {} {}", c.model, c.name, c.shape), i + 1, count);
      run_case(c);
    }
    if (!stopped()) {
      progress("limits of the machine", count - 1, count);
      report_.round_trip_after = measure_round_trip();
      add_limits("after");
    }
    report_.stopped = stopped();
    return std::move(report_);
  }

 private:
  bool stopped() const {
    return options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed);
  }
  void progress(const std::string& what, int64_t index, int64_t count) const {
    if (options_.progress) options_.progress(what, index, count);
  }
  bool wanted(const std::string& model, const std::string& name, const std::string& shape) const {
    return std::regex_search(fmt::format("{} {} {}", model, name, shape), filter_);
  }

  struct Limit {
    const char *name, *shape;
    LimitKind kind;
  };
  static constexpr Limit kLimits[] = {{"read_bandwidth", "256 MiB", LimitKind::kRead},
                                      {"update_bandwidth", "256 MiB", LimitKind::kUpdate},
                                      {"peak_fp32", "registers", LimitKind::kFp32},
                                      {"peak_bf16", "registers", LimitKind::kBf16},
                                      {"peak_int8", "registers", LimitKind::kInt8}};
  bool any_limit_wanted() const {
    return std::any_of(std::begin(kLimits), std::end(kLimits), [&](const Limit& limit) {
      return wanted("machine", limit.name, limit.shape);
    });
  }
  void add_limits(const char* when) {
    for (const auto& ctx : contexts_) {
      for (const Limit& limit : kLimits) {
        const std::string shape = fmt::format("{}, {}", limit.shape, when);
        if (!wanted("machine", limit.name, shape)) continue;
        const bool bandwidth = limit.kind == LimitKind::kRead || limit.kind == LimitKind::kUpdate;
        const double rate = measure_limit(probe_, *ctx, limit.kind);
        if (rate == 0) continue;  // no such instruction here
        report_.results.push_back({.model = "machine",
                                   .name = limit.name,
                                   .shape = shape,
                                   .threads = ctx->threads().num_threads(),
                                   .isa = std::string(isa_name(ctx->isa())),
                                   .bandwidth_bound = bandwidth,
                                   .rate = rate,
                                   .low = rate,
                                   .high = rate,
                                   .limit = rate});
      }
    }
  }

  // Calls over all copies in turn for about options_.seconds; seconds of one.
  double time_calls(Context& ctx, const std::vector<Call>& calls) const {
    size_t next = 0;
    int64_t num_calls = 0;
    const auto begin = Clock::now();
    do {
      calls[next](ctx);
      next = (next + 1) % calls.size();
      ++num_calls;
    } while (seconds_since(begin) < options_.seconds);
    return seconds_since(begin) / static_cast<double>(num_calls);
  }

  void run_case(const Case& c) {
    const int copies =
        c.bandwidth_bound
            ? static_cast<int>(std::clamp(std::ceil(kBeyondCaches / c.bytes), 1.0, kMaxCopies))
            : 1;
    Operands operands;
    std::vector<Call> calls;
    for (int i = 0; i < copies; ++i) calls.push_back(c.prepare(operands));
    const double work = c.bandwidth_bound ? c.bytes : c.flops;
    std::vector<std::vector<double>> rates(contexts_.size()), limits(contexts_.size());
    std::vector<std::string> isa(contexts_.size());
    const auto begin = Clock::now();
    for (int round = 0; round < options_.rounds; ++round) {
      if (round > 0 && (stopped() || seconds_since(begin) > kCaseSeconds)) break;
      for (size_t t = 0; t < contexts_.size(); ++t) {
        Context& ctx = *contexts_[t];
        std::vector<KernelRun> log;
        if (round == 0) ctx.kernel_log = &log;
        if (round == 0 && !c.slow) {  // grows scratch memory, touches every page
          for (const Call& call : calls) call(ctx);
          ctx.kernel_log = nullptr;
        }
        limits[t].push_back(measure_limit(probe_, ctx, limit_of(c)));
        rates[t].push_back(work / time_calls(ctx, calls));
        ctx.kernel_log = nullptr;
        if (!log.empty()) isa[t] = isa_name(log.back().isa);
      }
    }
    for (size_t t = 0; t < contexts_.size(); ++t) {
      const auto [low, high] = std::minmax_element(rates[t].begin(), rates[t].end());
      report_.results.push_back({.model = c.model,
                                 .name = c.name,
                                 .shape = c.shape,
                                 .threads = contexts_[t]->threads().num_threads(),
                                 .isa = isa[t],
                                 .bandwidth_bound = c.bandwidth_bound,
                                 .rate = median(rates[t]),
                                 .low = *low,
                                 .high = *high,
                                 .limit = median(limits[t])});
    }
  }
  const BenchOptions& options_;
  std::regex filter_;
  std::vector<std::unique_ptr<Context>> contexts_;
  BandwidthProbe probe_;
  BenchReport report_;
};

}  // namespace

const std::vector<BenchModel>& bench_models() {
  static const std::vector<BenchModel> models = {
      {.name = "demo",
       .hidden = 192,
       .heads = 4,
       .q_lora = 96,
       .kv_lora = 64,
       .nope = 32,
       .rope = 16,
       .value = 32,
       .dense_width = 512,
       .expert_width = 128,
       .num_experts = 16,
       .num_active = 3,
       .n_group = 4,
       .topk_group = 2,
       .vocab = 2048,
       .measured_experts = 16,
       .row_tokens = 256,
       .num_rows = 8},
      {.name = "1b",
       .hidden = 1536,
       .heads = 16,
       .q_lora = 768,
       .kv_lora = 512,
       .nope = 128,
       .rope = 64,
       .value = 128,
       .dense_width = 4096,
       .expert_width = 512,
       .num_experts = 64,
       .num_active = 8,
       .n_group = 8,
       .topk_group = 4,
       .vocab = 32768,
       .measured_experts = 64,
       .row_tokens = 1024,
       .num_rows = 1},
      {.name = "671b",
       .hidden = 7168,
       .heads = 128,
       .q_lora = 1536,
       .kv_lora = 512,
       .nope = 128,
       .rope = 64,
       .value = 128,
       .dense_width = 18432,
       .expert_width = 2048,
       .num_experts = 256,
       .num_active = 8,
       .n_group = 8,
       .topk_group = 4,
       .vocab = 129280,
       .measured_experts = 16,
       .row_tokens = 128,
       .num_rows = 1},
  };
  return models;
}

BenchReport run_bench(const BenchOptions& options) { return Bench(options).run(); }

}  // namespace fathom
