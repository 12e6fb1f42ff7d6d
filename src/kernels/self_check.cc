#include "kernels/self_check.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>

#include "core/random.h"
#include "kernels/kernels.h"

namespace fathom {
namespace {

// The memory of one operation's operands, filled with draws in [-1, 1) or with NaN.
class Operands {
 public:
  explicit Operands(DType act) : act_(act) {}
  TensorView input(Context& ctx, Shape shape, const char* name) {
    return random(ctx, act_, shape, name);
  }
  TensorView input_f32(Context& ctx, Shape shape, const char* name) {
    return random(ctx, DType::kF32, shape, name);
  }
  TensorView output(Shape shape, const char* name) { return output(act_, shape, name); }
  TensorView output(DType dtype, Shape shape, const char* name) {
    blocks_.emplace_back(static_cast<size_t>(shape.num_elements() * dtype_bytes(dtype)),
                         std::byte{0xFF});  // NaN
    return {blocks_.back().data(), dtype, shape, name};
  }

 private:
  TensorView random(Context& ctx, DType dtype, Shape shape, const char* name) {
    const TensorView wide = output(DType::kF32, shape, name);
    const Random draws(blocks_.size(), RandomPurpose::kTest);
    float* values = wide.as<float>();
    for (int64_t i = 0; i < shape.num_elements(); ++i) {
      values[i] = static_cast<float>(2 * draws.uniform(static_cast<uint64_t>(i)) - 1);
    }
    if (dtype == DType::kF32) return wide;
    const TensorView narrow = output(dtype, shape, name);
    cast(ctx, wide, narrow);
    return narrow;
  }

  DType act_;
  std::vector<std::vector<std::byte>> blocks_;  // of vectors: moving one leaves its bytes in place
};

// One operation: makes its operands (the same every time), runs, and returns the output.
struct Operation {
  std::string name;
  DType act;
  double allowed_f32;  // bound on the fp32 arithmetic alone
  double magnitude;  // of the outputs: a bf16 output may round the other way, an ulp is 2^-8 of it
  std::function<TensorView(Context&, Operands&)> run;
};

constexpr double kUlp32 = 0x1.0p-23;
constexpr double kUlpBf16 = 0x1.0p-8;

// A sum of k products of numbers below 1, in two orders: each is off by at most k roundings of a
// partial sum below k.
double sum_bound(int64_t k) {
  return 2.0 * static_cast<double>(k) * static_cast<double>(k) * kUlp32;
}

std::vector<Operation> operations() {
  std::vector<Operation> all;
  constexpr int64_t m = 37, n = 50, k = 67, d = 72;
  for (const DType act : {DType::kF32, DType::kBF16}) {
    all.push_back({"gemm nt", act, sum_bound(k), 20, [](Context& ctx, Operands& o) {
                     const TensorView c = o.output({m, n}, "c");
                     gemm(ctx, {.layout = GemmLayout::kNt,
                                .a = o.input(ctx, {m, k}, "a"),
                                .b = o.input(ctx, {n, k}, "b"),
                                .c = c});
                     return c;
                   }});
    all.push_back({"gemm nn", act, sum_bound(k), 20, [](Context& ctx, Operands& o) {
                     const TensorView c = o.output({m, n}, "c");
                     gemm(ctx, {.layout = GemmLayout::kNn,
                                .a = o.input(ctx, {m, k}, "a"),
                                .b = o.input(ctx, {k, n}, "b"),
                                .c = c});
                     return c;
                   }});
    all.push_back({"gemm tn", act, sum_bound(k), 20, [](Context& ctx, Operands& o) {
                     const TensorView c = o.output({m, n}, "c");
                     gemm(ctx, {.layout = GemmLayout::kTn,
                                .a = o.input(ctx, {k, m}, "a"),
                                .b = o.input(ctx, {k, n}, "b"),
                                .c = c});
                     return c;
                   }});
    all.push_back({"grouped gemm nt", act, sum_bound(k), 20, [](Context& ctx, Operands& o) {
                     static constexpr int64_t kOffsets[] = {0, 5, 5, m};  // one expert has no rows
                     const TensorView c = o.output({m, n}, "c");
                     grouped_gemm(ctx, {.layout = GemmLayout::kNt,
                                        .a = o.input(ctx, {m, k}, "a"),
                                        .b = o.input(ctx, {3, n, k}, "b"),
                                        .c = c,
                                        .offsets = kOffsets,
                                        .num_experts = 3});
                     return c;
                   }});
    // The mean of d squares below 1, its root and a quotient: a few roundings on outputs below
    // sqrt(d).
    all.push_back(
        {"rms norm", act, sum_bound(d) / d + 8 * 10 * kUlp32, 9, [](Context& ctx, Operands& o) {
           const TensorView y = o.output({m, d}, "y");
           rms_norm_forward(
               ctx,
               {.x_TD = o.input(ctx, {m, d}, "x"), .w_D = o.input_f32(ctx, {d}, "w"), .y_TD = y});
           return y;
         }});
    // exp within a few ulp, then products of numbers below 1.
    all.push_back(
        {"swiglu", act, 32 * kUlp32, 1, [](Context& ctx, Operands& o) {
           const TensorView h = o.output({m, d}, "h");
           swiglu_forward(ctx, {.gate_up_TX = o.input(ctx, {m, 2 * d}, "gate_up"), .h_TF = h});
           return h;
         }});
    // Scores are sums of 24 products, which the softmax passes on at most twofold; the output
    // averages values below 1.
    all.push_back(
        {"attention", act, 2 * sum_bound(24) + sum_bound(m) / m, 1, [](Context& ctx, Operands& o) {
           const TensorView out = o.output({m, 2, 16}, "o");
           mla_attention_forward(ctx, {.q_THK = o.input(ctx, {m, 2, 24}, "q"),
                                       .kv_THX = o.input(ctx, {m, 2, 32}, "kv"),
                                       .kpe_TR = o.input(ctx, {m, 8}, "kpe"),
                                       .o_THP = out,
                                       .scale = 0.2});
           return out;
         }});
  }
  return all;
}

std::vector<double> values_of(Context& ctx, const TensorView& view) {
  std::vector<float> wide(static_cast<size_t>(view.num_elements()));
  cast(ctx, view, {wide.data(), DType::kF32, view.shape, "values"});
  return {wide.begin(), wide.end()};
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

std::vector<SelfTestResult> run_kernel_self_test(int num_threads) {
  std::vector<SelfTestResult> results;
  Context reference(1, IsaLevel::kReference);
  for (const Operation& operation : operations()) {
    Operands expected_operands(operation.act);
    const std::vector<double> expected =
        values_of(reference, operation.run(reference, expected_operands));
    const bool bf16 = operation.act == DType::kBF16;
    for (const IsaLevel isa : supported_isa_levels()) {
      if (isa == IsaLevel::kReference) continue;
      Context ctx(num_threads, isa);
      Operands operands(operation.act);
      const std::vector<double> found = values_of(reference, operation.run(ctx, operands));
      SelfTestResult result{
          .operation = operation.name + (bf16 ? " bf16" : " fp32"),
          .isa = isa,
          .error = 0,
          .allowed = operation.allowed_f32 + (bf16 ? 2 * operation.magnitude * kUlpBf16 : 0)};
      for (size_t i = 0; i < expected.size(); ++i) {
        const double difference = std::abs(found[i] - expected[i]);
        result.error = std::isfinite(difference) ? std::max(result.error, difference)
                                                 : std::numeric_limits<double>::infinity();
        if (!std::isfinite(result.error)) break;
      }
      results.push_back(result);
    }
  }
  return results;
}

double measure_gemm_gflops(Context& ctx, DType dtype, double seconds) {
  constexpr int64_t m = 512, n = 512, k = 512;
  Operands operands(dtype);
  const GemmParams p{.layout = GemmLayout::kNt,
                     .a = operands.input(ctx, {m, k}, "a"),
                     .b = operands.input(ctx, {n, k}, "b"),
                     .c = operands.output({m, n}, "c")};
  gemm(ctx, p);  // warms caches and clocks, and grows the scratch memory
  int64_t calls = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (seconds_since(begin) < seconds) {
    gemm(ctx, p);
    ++calls;
  }
  return 2e-9 * static_cast<double>(m * n * k * calls) / seconds_since(begin);
}

}  // namespace fathom
