// Our matrix products beside those of oneDNN and OpenBLAS, in one process and in turns (ours,
// rival, ours, rival): a virtual machine changes its placement and its neighbours within seconds,
// so only the ratio of neighbouring runs means anything. For each round and contender the time of
// one call is taken over about 30 ms; the table gives medians, and the ratio's median, lowest and
// highest.
//
//   bench_rivals [--threads N] [--rounds N] [--filter REGEX] [--json]
//
// Rivals get what they need to be at their best: primitives made and weights packed beforehand,
// OpenBLAS' core type forced. Their threads spin for a while after a call, so everybody waits.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <regex>
#include <thread>

#include "core/json.h"
#include "core/random.h"
#include "kernels/kernels.h"
#include "kernels/limits.h"
#include "kernels/panel.h"
#include "kernels/peak.h"
#include "rival.h"

namespace fathom::rivals {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;
constexpr double kRunSeconds = 0.03;
constexpr Milliseconds kSpinOut{50};                   // longer than either library's threads spin
constexpr int64_t kBeyondCaches = int64_t{192} << 20;  // bytes of all copies of cold weights

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

// Tensors of one case; uniform in [-1, 1).
class Tensors {
 public:
  TensorView make(DType dtype, Shape shape) {
    memory_.emplace_back("bench", shape.num_elements() * dtype_bytes(dtype) + kTensorAlignBytes);
    const TensorView v = memory_.back().allocate(dtype, shape, "t");
    uint32_t state = static_cast<uint32_t>(memory_.size());
    for (int64_t i = 0; i < v.num_elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      const float x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      if (dtype == DType::kF32) v.as<float>()[i] = x;
      if (dtype == DType::kBF16) v.as<bf16>()[i] = bf16(x);
    }
    return v;
  }

  TensorView copy(const TensorView& x) {
    memory_.emplace_back("bench", x.num_bytes() + kTensorAlignBytes);
    const TensorView v = memory_.back().allocate(x.dtype, x.shape, "t");
    std::memcpy(v.data, x.data, static_cast<size_t>(x.num_bytes()));
    return v;
  }

 private:
  std::deque<Arena> memory_;
};

struct Contender {
  std::string name;
  std::function<void(int copy)> run;
  std::vector<double> seconds;  // per round
};

struct Case {
  std::string name;
  DType dtype;
  double flops, weight_bytes;
  int copies = 1;
  bool bandwidth_bound = false;
  // Makes the operands and the contenders, ours first (the one that rivals are compared with); the
  // memory goes with the case.
  std::function<void(Case&, const std::vector<Rival>&)> prepare;
  std::vector<Contender> contenders;
  std::vector<double> limit;  // per round: bytes or operations per second
  TensorView output;
  Tensors tensors;
};

Case product_case(Context& ctx, DType dtype, int64_t m, int64_t n, int64_t k, bool cold) {
  const double weight_bytes = static_cast<double>(n * k * dtype_bytes(dtype));
  Case c;
  c.name = fmt::format("{} {}x{}x{}{}", dtype_name(dtype), m, n, k, cold ? " cold" : "");
  c.dtype = dtype;
  c.flops = 2.0 * static_cast<double>(m * n * k);
  c.weight_bytes = weight_bytes;
  c.copies = cold ? static_cast<int>(std::ceil(kBeyondCaches / weight_bytes)) : 1;
  c.bandwidth_bound = m < 32;
  c.prepare = [&ctx, dtype, m, n, k](Case& self, const std::vector<Rival>& rivals) {
    const TensorView a = self.tensors.make(dtype, {m, k});
    self.output = self.tensors.make(dtype, {m, n});
    const auto weights = std::make_shared<std::vector<TensorView>>();
    Product p{.dtype = dtype, .m = m, .n = n, .k = k, .a = a.data, .b = {}, .c = self.output.data};
    for (int i = 0; i < self.copies; ++i) {
      weights->push_back(self.tensors.make(dtype, {n, k}));
      p.b.push_back(weights->back().data);
    }
    const TensorView out = self.output;
    const auto ours = [&ctx, a, weights, out](int copy) {
      gemm(ctx, {GemmLayout::kNt, a, (*weights)[static_cast<size_t>(copy)], out, false});
    };
    // As weights lie for long use; rivals pack theirs, too.
    if (dtype == DType::kBF16 && has_loaded_panels(ctx.isa())) {
      const auto panels = std::make_shared<std::vector<TensorView>>();
      for (int i = 0; i < self.copies; ++i) {
        panels->push_back(self.tensors.copy((*weights)[static_cast<size_t>(i)]));
        to_panels(ctx, panels->back());
      }
      self.contenders.push_back({"fathom, panels",
                                 [&ctx, a, panels, out](int copy) {
                                   const TensorView& b = (*panels)[static_cast<size_t>(copy)];
                                   scaled_gemm(ctx, {.a = {a, {}, ScaleGrain::kNone},
                                                     .b = {b, {}, ScaleGrain::kPanel},
                                                     .c = out});
                                 },
                                 {}});
    }
    self.contenders.push_back({"fathom", ours, {}});
    for (const Rival& rival : rivals) {
      std::function<void(int)> run;
      if (rival.product) run = rival.product(p);
      if (run) self.contenders.push_back({rival.name, std::move(run), {}});
    }
  };
  return c;
}

// 64 experts of width 512 on hidden size 1536, top-8: the experts of a 1B-class model. Every token
// goes to eight different experts, drawn evenly; a single token takes the next eight each time.
Case experts_case(Context& ctx, int64_t tokens) {
  constexpr int64_t kExperts = 64, kActive = 8, kHidden = 1536, kWidth = 512;
  const auto x = std::make_shared<Experts>();
  x->num_experts = kExperts;
  x->hidden = kHidden;
  x->width = kWidth;
  const int copies = tokens == 1 ? kExperts / kActive : 1;
  const Random random(11, RandomPurpose::kTest);
  int64_t num_used = 0;  // of the experts, in one copy
  for (int copy = 0; copy < copies; ++copy) {
    std::vector<int64_t> rows(kExperts);
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<int64_t> ids(kExperts);
      for (size_t e = 0; e < ids.size(); ++e)
        ids[e] = (static_cast<int64_t>(e) + copy * kActive) % kExperts;
      for (int64_t i = 0; i < kActive; ++i) {
        const uint64_t draw = random.below(static_cast<uint64_t>(t * kActive + i),
                                           static_cast<uint64_t>(kExperts - i));
        if (tokens > 1) std::swap(ids[static_cast<size_t>(i)], ids[static_cast<size_t>(i) + draw]);
        ++rows[static_cast<size_t>(ids[static_cast<size_t>(i)])];
      }
    }
    std::vector<int64_t>& offsets = x->offsets.emplace_back(1, 0);
    for (const int64_t r : rows) offsets.push_back(offsets.back() + r);
    num_used = kExperts - std::count(rows.begin(), rows.end(), 0);
  }
  const int64_t U = tokens * kActive;
  Case c;
  c.name = fmt::format("experts bf16 {} tokens", tokens);
  c.dtype = DType::kBF16;
  c.flops = 2.0 * static_cast<double>(U * 3 * kHidden * kWidth);
  c.copies = copies;
  c.weight_bytes = static_cast<double>(num_used * 3 * kHidden * kWidth * 2);
  c.bandwidth_bound = tokens <= 128;
  c.prepare = [&ctx, x, U](Case& self, const std::vector<Rival>& rivals) {
    const DType bf = DType::kBF16;
    const TensorView x_UD = self.tensors.make(bf, {U, x->hidden}),
                     gate_up = self.tensors.make(bf, {x->num_experts, 2 * x->width, x->hidden}),
                     down = self.tensors.make(bf, {x->num_experts, x->hidden, x->width}),
                     gate_up_rows = self.tensors.make(bf, {U, 2 * x->width}),
                     h = self.tensors.make(bf, {U, x->width});
    self.output = self.tensors.make(bf, {U, x->hidden});
    x->x_UD = static_cast<const uint16_t*>(x_UD.data);
    x->gate_up_EXD = static_cast<const uint16_t*>(gate_up.data);
    x->down_EDF = static_cast<const uint16_t*>(down.data);
    x->y_UD = static_cast<uint16_t*>(self.output.data);
    const TensorView out = self.output;
    const auto ours = [=, &ctx](int copy) {
      const int64_t* offsets = x->offsets[static_cast<size_t>(copy)].data();
      grouped_gemm(ctx,
                   {GemmLayout::kNt, x_UD, gate_up, gate_up_rows, offsets, x->num_experts, false});
      swiglu_forward(ctx, {gate_up_rows, {}, h});
      grouped_gemm(ctx, {GemmLayout::kNt, h, down, out, offsets, x->num_experts, false});
    };
    if (has_loaded_panels(ctx.isa())) {
      const TensorView gate_up_panels = self.tensors.copy(gate_up),
                       down_panels = self.tensors.copy(down);
      for (const TensorView& w : {gate_up_panels, down_panels})
        to_panels(ctx, w.reshaped(Shape{w.dim(0) * w.dim(1), w.dim(2)}));
      self.contenders.push_back(
          {"fathom, panels",
           [=, &ctx](int copy) {
             const int64_t* offsets = x->offsets[static_cast<size_t>(copy)].data();
             const auto multiply = [&](const TensorView& a, const TensorView& b,
                                       const TensorView& c) {
               scaled_grouped_gemm(ctx, {.a = {a, {}, ScaleGrain::kNone},
                                         .b = {b, {}, ScaleGrain::kPanel},
                                         .c = c,
                                         .offsets = offsets,
                                         .num_experts = x->num_experts});
             };
             multiply(x_UD, gate_up_panels, gate_up_rows);
             swiglu_forward(ctx, {gate_up_rows, {}, h});
             multiply(h, down_panels, out);
           },
           {}});
    }
    self.contenders.push_back({"fathom", ours, {}});
    for (const Rival& rival : rivals) {
      if (!rival.experts) continue;
      self.contenders.push_back({rival.name + " loop", rival.experts(*x), {}});
    }
  };
  return c;
}

std::deque<Case> all_cases(Context& ctx) {
  std::deque<Case> cases;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    cases.push_back(product_case(ctx, dtype, 512, 2048, 2048, false));
    cases.push_back(product_case(ctx, dtype, 4096, 512, 512, false));
    cases.push_back(product_case(ctx, dtype, 2048, 1536, 7168, false));
    for (const int64_t m : {64, 8, 1})
      cases.push_back(product_case(ctx, dtype, m, 2048, 7168, true));
  }
  for (const int64_t tokens : {1, 16, 32, 128, 512, 2048}) {
    cases.push_back(experts_case(ctx, tokens));
  }
  return cases;
}

// Every contender computes the same thing: within the rounding of the inputs' format of the first.
void check_outputs(Case& c) {
  const auto values = [&] {
    std::vector<float> v(static_cast<size_t>(c.output.num_elements()));
    for (size_t i = 0; i < v.size(); ++i) {
      v[i] = c.dtype == DType::kF32 ? c.output.as<float>()[i]
                                    : static_cast<float>(c.output.as<bf16>()[i]);
    }
    return v;
  };
  c.contenders[0].run(0);
  const std::vector<float> ours = values();
  float largest = 0;
  for (const float v : ours) largest = std::max(largest, std::fabs(v));
  // A few roundings of the format, relative to the largest element: sums of thousands of terms of
  // either sign, and the hidden rows of experts are rounded twice.
  const float allowed = largest * (c.dtype == DType::kF32 ? 1e-4f : 4 * 0x1p-8f);
  for (size_t i = 1; i < c.contenders.size(); ++i) {
    std::memset(c.output.data, 0xff, static_cast<size_t>(c.output.num_bytes()));
    c.contenders[i].run(0);
    const std::vector<float> theirs = values();
    for (size_t j = 0; j < ours.size(); ++j) {
      FATHOM_CHECK(std::fabs(ours[j] - theirs[j]) <= allowed, "{}: {} differs at {}: {} and {}",
                   c.name, c.contenders[i].name, j, ours[j], theirs[j]);
    }
  }
}

// Seconds of one call, over about kRunSeconds, after one that is not counted.
double time_calls(const Case& c, const Contender& contender) {
  int copy = 0;
  const auto call = [&] {
    contender.run(copy);
    copy = (copy + 1) % c.copies;
  };
  call();
  const auto begin = Clock::now();
  int64_t calls = 0;
  do {
    call();
    ++calls;
  } while (seconds_since(begin) < kRunSeconds || calls < 2);
  return seconds_since(begin) / static_cast<double>(calls);
}

// Limits are taken in every round too: the median of the same rounds is what a share refers to.
void run_case(Context& ctx, BandwidthProbe& probe, Case& c, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    c.limit.push_back(c.bandwidth_bound ? probe.measure(ctx, BandwidthProbe::Kind::kRead, 0.03)
                                        : measure_peak_flops(ctx, c.dtype));
    for (Contender& contender : c.contenders) {
      std::this_thread::sleep_for(kSpinOut);
      contender.seconds.push_back(time_calls(c, contender));
    }
  }
}

void print_machine(const char* when, const MachineLimits& limits) {
  fmt::print(
      stderr,
      "{}: {} threads, bf16 {:.1f} GFLOP/s, fp32 {:.1f} GFLOP/s, read {:.1f} GB/s, round trip "
      "between processors {:.2f} us\n",
      when, limits.threads, limits.bf16_flops * 1e-9, limits.fp32_flops * 1e-9,
      limits.read_bytes * 1e-9, measure_round_trip() * 1e6);
}

void print_case(const Case& c, int threads, bool json) {
  const Contender& ours = c.contenders[0];
  for (const Contender& contender : c.contenders) {
    const double s = median(contender.seconds);
    const double share = (c.bandwidth_bound ? c.weight_bytes : c.flops) / s / median(c.limit);
    std::vector<double> ratios;  // > 1: we are faster
    for (size_t i = 0; i < ours.seconds.size(); ++i)
      ratios.push_back(contender.seconds[i] / ours.seconds[i]);
    const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
    if (json) {
      const Json line{{"name", c.name},
                      {"contender", contender.name},
                      {"threads", threads},
                      {"gflops", c.flops / s * 1e-9},
                      {"weight_gbps", c.weight_bytes / s * 1e-9},
                      {"percent_of_limit", 100 * share},
                      {"ratio", median(ratios)},
                      {"ratio_low", *low},
                      {"ratio_high", *high}};
      fmt::print("{}\n", line.dump());
    } else {
      fmt::print(
          "| {:24} | {:24} | {:8.1f} | {:6.2f} | {:3.0f} % {:4} | {:5.2f} ({:.2f} to {:.2f}) |\n",
          c.name, contender.name, c.flops / s * 1e-9, c.weight_bytes / s * 1e-9, 100 * share,
          c.bandwidth_bound ? "read" : "peak", median(ratios), *low, *high);
    }
  }
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  int threads = 0, rounds = 5;
  std::string filter;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (has_value && std::strcmp(argv[i], "--threads") == 0) {
      threads = std::stoi(argv[++i]);
    } else if (has_value && std::strcmp(argv[i], "--rounds") == 0) {
      rounds = std::max(1, std::stoi(argv[++i]));
    } else if (has_value && std::strcmp(argv[i], "--filter") == 0) {
      filter = argv[++i];
    } else {
      fmt::print(stderr, "usage: {} [--threads N] [--rounds N] [--filter REGEX] [--json]\n",
                 argv[0]);
      return 2;
    }
  }
  Context ctx(threads);
  threads = ctx.threads().num_threads();
  std::vector<Rival> rivals;
#ifdef FATHOM_ONEDNN
  rivals.push_back(onednn(threads));
#endif
#ifdef FATHOM_OPENBLAS
  rivals.push_back(openblas(threads));
#endif
  print_machine("before", measure_limits(ctx));
  if (!json) {
    fmt::print(
        "| product | with | GFLOP/s | weights GB/s | of the limit | time / ours (low to high) |\n"
        "| --- | --- | ---: | ---: | ---: | --- |\n");
  }
  BandwidthProbe probe;
  const std::regex wanted(filter);
  for (Case& c : all_cases(ctx)) {
    if (!std::regex_search(c.name, wanted)) continue;
    Case one = std::move(c);  // its memory is handed back after its turn
    one.prepare(one, rivals);
    check_outputs(one);
    run_case(ctx, probe, one, rounds);
    print_case(one, threads, json);
  }
  print_machine("after", measure_limits(ctx));
  return 0;
}

}  // namespace
}  // namespace fathom::rivals

int main(int argc, char** argv) {
  // Read by OpenBLAS while it is loaded, so it has to stand before the program starts.
  if (std::getenv("OPENBLAS_CORETYPE") == nullptr) {
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 1);
    execv("/proc/self/exe", argv);
  }
  try {
    return fathom::rivals::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_rivals: {}\n", error.what());
    return 1;
  }
}
