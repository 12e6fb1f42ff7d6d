// Speed of the compute-bound kernels on the shapes of a small V3 and of the 671B one, as a share of
// the multiply-add peak of the same threads measured in the same run. Rounds go over all cases, so
// that a neighbour's noise spreads over all of them; the table gives medians.
//
//   bench_kernels [--only TEXT] [--rounds N] [--json] [--cpu-time]
//
// --cpu-time measures one thread by its processor time: for a machine that others use meanwhile.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <deque>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/kernels.h"
#include "kernels/peak.h"

namespace fathom {
namespace {

double now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds_of(clockid_t clock, const std::function<void()>& f) {
  const double begin = now(clock);
  f();
  return now(clock) - begin;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

struct Case {
  std::string name;
  DType dtype;
  double flops;
  double bytes;  // that must be read and written at least
  std::function<void(Context&)> run;
  std::vector<std::vector<double>> seconds;  // per thread count, per round
};

// Tensors live until the program ends.
class Tensors {
 public:
  TensorView make(DType dtype, Shape shape, bool zero = false) {
    memory_.emplace_back("bench", shape.num_elements() * dtype_bytes(dtype) + kTensorAlignBytes);
    const TensorView v = memory_.back().allocate(dtype, shape, "t");
    uint32_t state = 12345;
    for (int64_t i = 0; !zero && i < v.num_elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      const float x = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      if (dtype == DType::kF32) v.as<float>()[i] = x;
      if (dtype == DType::kBF16) v.as<bf16>()[i] = bf16(x);
    }
    return v;
  }

 private:
  std::deque<Arena> memory_;
};

std::vector<Case> gemm_cases(Tensors& tensors) {
  std::vector<Case> cases;
  const auto add = [&](DType dtype, GemmLayout layout, int64_t m, int64_t n, int64_t k) {
    const char* names[] = {"nt", "nn", "tn"};
    const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
    const TensorView a = tensors.make(dtype, tn ? Shape{k, m} : Shape{m, k});
    const TensorView b = tensors.make(dtype, nt ? Shape{n, k} : Shape{k, n});
    const TensorView c = tensors.make(tn ? DType::kF32 : dtype, {m, n}, true);
    cases.push_back({fmt::format("gemm_{} {} m{} n{} k{}", names[static_cast<int>(layout)],
                                 dtype_name(dtype), m, n, k),
                     dtype,
                     2.0 * static_cast<double>(m * n * k),
                     static_cast<double>(a.num_bytes() + b.num_bytes() + c.num_bytes()),
                     [=](Context& ctx) {
                       gemm(ctx, {layout, a, b, c, tn});
                     },
                     {}});
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    add(dtype, GemmLayout::kNt, 4096, 1024, 512);
    add(dtype, GemmLayout::kNn, 4096, 512, 1024);
    add(dtype, GemmLayout::kTn, 512, 1024, 4096);
    add(dtype, GemmLayout::kNt, 2048, 256, 256);
    add(dtype, GemmLayout::kNt, 1024, 4096, 256);
    add(dtype, GemmLayout::kNt, 4096, 32, 512);
    add(dtype, GemmLayout::kNt, 512, 2048, 7168);
    add(dtype, GemmLayout::kNt, 1, 2048, 7168);
    add(dtype, GemmLayout::kNt, 16, 2048, 7168);
    add(dtype, GemmLayout::kNt, 1, 1024, 512);
  }
  return cases;
}

// Ragged rows per expert, and the same rows as one dense product for comparison.
std::vector<Case> grouped_cases(Tensors& tensors) {
  std::vector<Case> cases;
  static std::deque<std::vector<int64_t>> partitions;
  const auto add = [&](GemmLayout layout, int64_t num_experts, int64_t rows, int64_t n, int64_t k) {
    const char* names[] = {"nt", "nn", "tn"};
    std::vector<int64_t>& offsets = partitions.emplace_back();
    offsets.push_back(0);
    const Random random(3, RandomPurpose::kTest);
    for (int64_t e = 1; e < num_experts; ++e) {
      offsets.push_back(static_cast<int64_t>(
          random.below(static_cast<uint64_t>(e), static_cast<uint64_t>(rows))));
    }
    offsets.push_back(rows);
    std::sort(offsets.begin(), offsets.end());
    const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
    const TensorView a = tensors.make(DType::kBF16, {rows, k});
    const TensorView b =
        tn ? tensors.make(DType::kBF16, {rows, n})
           : tensors.make(DType::kBF16, nt ? Shape{num_experts, n, k} : Shape{num_experts, k, n});
    const TensorView c = tn ? tensors.make(DType::kF32, {num_experts, k, n}, true)
                            : tensors.make(DType::kBF16, {rows, n}, true);
    const int64_t* starts = offsets.data();
    cases.push_back({fmt::format("grouped_{} bf16 E{} U{} n{} k{}", names[static_cast<int>(layout)],
                                 num_experts, rows, n, k),
                     DType::kBF16,
                     2.0 * static_cast<double>(rows * n * k),
                     static_cast<double>(a.num_bytes() + b.num_bytes() + c.num_bytes()),
                     [=](Context& ctx) {
                       grouped_gemm(ctx, {layout, a, b, c, starts, num_experts, tn});
                     },
                     {}});
  };
  add(GemmLayout::kNt, 16, 8192, 512, 256);
  add(GemmLayout::kNn, 16, 8192, 256, 512);
  add(GemmLayout::kTn, 16, 8192, 512, 256);
  add(GemmLayout::kNt, 32, 8192, 1024, 512);
  add(GemmLayout::kNn, 32, 8192, 512, 1024);
  add(GemmLayout::kTn, 32, 8192, 1024, 512);
  add(GemmLayout::kNt, 32, 64, 1024, 512);
  return cases;
}

std::vector<Case> attention_cases(Tensors& tensors) {
  std::vector<Case> cases;
  const auto add = [&](DType dtype, int64_t rows, int64_t S, int64_t H, int64_t N, int64_t R,
                       int64_t P) {
    const int64_t T = rows * S;
    const TensorView q = tensors.make(dtype, {T, H, N + R}),
                     kv = tensors.make(dtype, {T, H, N + P});
    const TensorView kpe = tensors.make(dtype, {T, R}), o = tensors.make(dtype, {T, H, P}, true);
    const TensorView lse = tensors.make(DType::kF32, {T, H}, true),
                     grad_o = tensors.make(dtype, {T, H, P});
    const TensorView dq = tensors.make(dtype, {T, H, N + R}, true),
                     dkv = tensors.make(dtype, {T, H, N + P}, true);
    const TensorView dkpe = tensors.make(dtype, {T, R}, true);
    const double pairs = static_cast<double>(rows * H) * static_cast<double>(S * (S + 1)) / 2;
    const double scale = 0.1;
    const std::string shape =
        fmt::format("{} B{} S{} H{} N{} R{} P{}", dtype_name(dtype), rows, S, H, N, R, P);
    const double operands = static_cast<double>(q.num_bytes() + kv.num_bytes() + o.num_bytes());
    const auto forward = [=](Context& ctx) {
      mla_attention_forward(ctx, {q, kv, kpe, o, lse, rows, nullptr, scale});
    };
    cases.push_back({"attention_forward " + shape,
                     dtype,
                     2 * pairs * static_cast<double>(N + R + P),
                     operands,
                     forward,
                     {}});
    Context once(1);
    forward(once);  // o and lse for the backward pass
    cases.push_back({"attention_backward " + shape,
                     dtype,
                     2 * pairs * static_cast<double>(3 * (N + R) + 2 * P),
                     3 * operands,
                     [=](Context& ctx) {
                       mla_attention_backward(
                           ctx, {q, kv, kpe, o, lse, grad_o, dq, dkv, dkpe, rows, nullptr, scale});
                     },
                     {}});
  };
  add(DType::kBF16, 16, 128, 8, 32, 16, 32);
  add(DType::kBF16, 8, 256, 8, 32, 16, 32);
  add(DType::kBF16, 4, 512, 8, 64, 32, 64);
  add(DType::kBF16, 1, 2048, 4, 128, 64, 128);
  add(DType::kF32, 8, 256, 8, 32, 16, 32);
  return cases;
}

std::vector<Case> decode_cases(Tensors& tensors) {
  std::vector<Case> cases;
  static std::deque<std::vector<TensorView>> caches;
  static std::deque<std::vector<int64_t>> lengths;
  const auto add = [&](int64_t B, int64_t L, int64_t H, int64_t C, int64_t R) {
    const DType dtype = DType::kBF16;
    const TensorView q = tensors.make(dtype, {B, H, C}), qpe = tensors.make(dtype, {B, H, R});
    const TensorView out = tensors.make(dtype, {B, H, C}, true);
    std::vector<TensorView>& views = caches.emplace_back();
    for (int64_t b = 0; b < B; ++b) views.push_back(tensors.make(dtype, {L, C + R}));
    const int64_t* num_keys = lengths.emplace_back(static_cast<size_t>(B), L).data();
    const TensorView* cache = views.data();
    cases.push_back({fmt::format("mla_decode bf16 B{} L{} H{} C{} R{}", B, L, H, C, R),
                     dtype,
                     2.0 * static_cast<double>(B * L * H * (2 * C + R)),
                     static_cast<double>(B * L * (C + R) * 2),
                     [=](Context& ctx) {
                       mla_decode(ctx, {q, qpe, cache, num_keys, out, 0.1});
                     },
                     {}});
  };
  add(1, 512, 8, 64, 16);
  add(16, 512, 8, 128, 32);
  add(1, 16384, 16, 512, 64);
  add(4, 4096, 128, 512, 64);
  return cases;
}

// Bytes read per second by all threads from a block that no cache holds.
double read_bandwidth(Context& ctx, clockid_t clock, const TensorView& block) {
  const int64_t chunk = 1 << 20, count = block.num_elements() / chunk;
  std::vector<int64_t> sums(static_cast<size_t>(count));
  const int64_t* data = block.as<int64_t>();
  const double seconds = seconds_of(clock, [&] {
    ctx.threads().parallel_for(count, [&](int64_t i, int) {
      int64_t lane[8] = {};
      for (int64_t j = i * chunk; j < (i + 1) * chunk; j += 8) {
        for (int64_t l = 0; l < 8; ++l) lane[l] += data[j + l];
      }
      sums[static_cast<size_t>(i)] = std::accumulate(lane, lane + 8, int64_t{0});
    });
  });
  volatile int64_t keep = sums[0];
  (void)keep;
  return static_cast<double>(block.num_bytes()) / seconds;
}

int run(int argc, char** argv) {
  std::string only;
  int rounds = 5;
  bool json = false;
  clockid_t clock = CLOCK_MONOTONIC;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) json = true;
    if (std::strcmp(argv[i], "--cpu-time") == 0) clock = CLOCK_THREAD_CPUTIME_ID;
    if (i + 1 < argc && std::strcmp(argv[i], "--only") == 0) only = argv[++i];
    if (i + 1 < argc && std::strcmp(argv[i], "--rounds") == 0)
      rounds = std::max(1, std::stoi(argv[++i]));
  }
  Tensors tensors;
  std::vector<Case> cases;
  for (auto make : {gemm_cases, grouped_cases, attention_cases, decode_cases}) {
    for (Case& c : make(tensors)) {
      if (c.name.find(only) != std::string::npos) cases.push_back(std::move(c));
    }
  }
  std::deque<Context> contexts;
  contexts.emplace_back(1);
  if (clock == CLOCK_MONOTONIC && cpu_info().num_cpus > 1)
    contexts.emplace_back(cpu_info().num_cpus);
  const size_t num_contexts = contexts.size();
  std::vector<std::vector<double>> peak_bf16(num_contexts), peak_f32(num_contexts),
      bandwidth(num_contexts);
  const TensorView block = tensors.make(DType::kI64, {int64_t{1} << 25}, true);

  for (int round = 0; round < rounds; ++round) {
    for (size_t t = 0; t < num_contexts; ++t) {
      peak_bf16[t].push_back(measure_peak_flops(contexts[t], DType::kBF16));
      peak_f32[t].push_back(measure_peak_flops(contexts[t], DType::kF32));
      bandwidth[t].push_back(read_bandwidth(contexts[t], clock, block));
      for (Case& c : cases) {
        c.seconds.resize(num_contexts);
        if (round == 0) c.run(contexts[t]);
        const double once = seconds_of(clock, [&] { c.run(contexts[t]); });
        const int repeats = static_cast<int>(std::clamp(0.02 / once, 1.0, 1000.0));
        c.seconds[t].push_back(seconds_of(clock,
                                          [&] {
                                            for (int i = 0; i < repeats; ++i) c.run(contexts[t]);
                                          }) /
                               repeats);
      }
    }
  }

  if (json) {
    for (const Case& c : cases) {
      for (size_t t = 0; t < num_contexts; ++t) {
        const double s = median(c.seconds[t]),
                     peak = median((c.dtype == DType::kBF16 ? peak_bf16 : peak_f32)[t]);
        fmt::print(
            "{{\"kernel\": \"{}\", \"threads\": {}, \"seconds\": {:.3e}, \"gflops\": {:.1f}, "
            "\"of_peak\": {:.3f}, "
            "\"gbytes_per_second\": {:.2f}, \"of_bandwidth\": {:.3f}}}\n",
            c.name, contexts[t].threads().num_threads(), s, c.flops / s * 1e-9, c.flops / s / peak,
            c.bytes / s * 1e-9, c.bytes / s / median(bandwidth[t]));
      }
    }
    return 0;
  }
  fmt::print("{}, {} of {}, medians of {} rounds\n", cpu_info().model_name,
             isa_name(contexts[0].isa()), isa_name(supported_isa_levels().back()), rounds);
  for (size_t t = 0; t < num_contexts; ++t) {
    fmt::print("{} threads: bf16 peak {:.1f} GFLOP/s, fp32 peak {:.1f} GFLOP/s, read {:.1f} GB/s\n",
               contexts[t].threads().num_threads(), median(peak_bf16[t]) * 1e-9,
               median(peak_f32[t]) * 1e-9, median(bandwidth[t]) * 1e-9);
  }
  fmt::print("{:58}", "kernel");
  for (Context& ctx : contexts)
    fmt::print(" | {:>2} thr GFLOP/s  peak    GB/s  read", ctx.threads().num_threads());
  fmt::print("\n");
  for (const Case& c : cases) {
    fmt::print("{:58}", c.name);
    for (size_t t = 0; t < num_contexts; ++t) {
      const double s = median(c.seconds[t]),
                   peak = median((c.dtype == DType::kBF16 ? peak_bf16 : peak_f32)[t]);
      fmt::print(" | {:14.1f} {:4.0f}% {:7.2f} {:4.0f}%", c.flops / s * 1e-9,
                 100 * c.flops / s / peak, c.bytes / s * 1e-9,
                 100 * c.bytes / s / median(bandwidth[t]));
    }
    fmt::print("\n");
  }
  return 0;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  try {
    return fathom::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_kernels: {}\n", error.what());
    return 1;
  }
}
