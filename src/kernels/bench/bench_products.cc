// Matrix products and attention of a layer. The names say which weight; sizes are m x n x k.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "core/integer.h"
#include "core/random.h"
#include "kernels/bench/bench_case.h"
#include "kernels/kernels.h"
#include "kernels/panel.h"
#include "kernels/scaled.h"

namespace fathom::bench {
namespace {

constexpr int64_t kMemoryBoundRows =
    32;  // fewer rows than this read weights faster than they use them

double elements(int64_t a, int64_t b, int64_t c = 1) { return static_cast<double>(a * b * c); }

void add_gemm(const BenchModel& model, std::vector<Case>& cases, const char* weight,
              GemmLayout layout, DType dtype, int64_t m, int64_t n, int64_t k) {
  static constexpr const char* kNames[] = {"gemm_nt", "gemm_nn", "gemm_tn"};
  const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
  const DType c_dtype = tn ? DType::kF32 : dtype;
  cases.push_back({.model = model.name,
                   .name = fmt::format("{} {}", kNames[static_cast<int>(layout)], weight),
                   .shape = fmt::format("{} {}x{}x{}", dtype_name(dtype), m, n, k),
                   .dtype = dtype,
                   .flops = 2 * elements(m, n, k),
                   .bytes = (elements(m, k) + elements(n, k)) * dtype_bytes(dtype) +
                            elements(m, n) * dtype_bytes(c_dtype),
                   .bandwidth_bound = !tn && m < kMemoryBoundRows,
                   .prepare = [=](Operands& operands) -> Call {
                     const TensorView a = operands.make(dtype, tn ? Shape{k, m} : Shape{m, k}),
                                      b = operands.make(dtype, nt ? Shape{n, k} : Shape{k, n}),
                                      c = operands.zeros(c_dtype, {m, n});
                     return [=](Context& ctx) { gemm(ctx, {layout, a, b, c, tn}); };
                   }});
}

// Weights [n, k] as a product of inference reads them: bf16 activations with DeepSeek's FP8 blocks,
// as they lie and in panels, and with panels of bf16, codes of i8 with panels of 8 or 4 bits.
void add_scaled(const BenchModel& model, std::vector<Case>& cases, const char* weight, DType codes,
                bool panels, int64_t m, int64_t n, int64_t k) {
  if (panels && !panels_fit(n, k)) return;
  const bool loaded = codes == DType::kBF16 || codes == DType::kE4M3;
  if (panels && loaded && !has_loaded_panels(choose_isa_level())) return;
  const int64_t weight_bytes =
      codes == DType::kE4M3 ? n * k + scale_shape(ScaleGrain::kBlock, n, k).num_elements() * 4
                            : panel_bytes(codes, n, k);
  cases.push_back(
      {.model = model.name,
       .name = fmt::format("scaled_gemm_nt {}", weight),
       .shape = fmt::format("{}{} {}x{}x{}", dtype_name(codes),
                            panels && codes == DType::kE4M3 ? " panels" : "", m, n, k),
       .flops = 2 * elements(m, n, k),
       .bytes = static_cast<double>(weight_bytes) + elements(m, k + n) * 2,
       .bandwidth_bound = m < kMemoryBoundRows / 2,
       .prepare = [=](Operands& operands) -> Call {
         Context ctx(0);
         ScaledView a{operands.make(DType::kBF16, {m, k}), {}, ScaleGrain::kNone}, b;
         const TensorView x = operands.make(DType::kBF16, {n, k}),
                          c = operands.zeros(DType::kBF16, {m, n});
         if (codes == DType::kBF16) {
           to_panels(ctx, x);
           b = {x, {}, ScaleGrain::kPanel};
         } else if (!loaded) {
           // Any bytes are codes; scales of 1.
           b = {x, operands.zeros(DType::kBF16, panel_scale_shape(codes, n, k)),
                ScaleGrain::kPanel};
           b.codes = TensorView(x.data, codes, panel_code_shape(codes, n, k), "codes");
           std::fill_n(b.scales.as<bf16>(), b.scales.num_elements(), bf16(1.0f));
           ScaledView row{operands.zeros(DType::kI8, {m, k}),
                          operands.zeros(DType::kF32, scale_shape(ScaleGrain::kRow, m, k)),
                          ScaleGrain::kRow};
           quantize(ctx, {.x = a, .y = row});
           a = row;
         } else {
           b = {operands.zeros(codes, {n, k}),
                operands.zeros(DType::kF32, scale_shape(ScaleGrain::kBlock, n, k)),
                ScaleGrain::kBlock};
           quantize(ctx, {.x = {x, {}, ScaleGrain::kNone}, .y = b});
           if (panels) {
             to_panels(ctx, b.codes);
             b.grain = ScaleGrain::kBlockPanel;
           }
         }
         return [=](Context& run_ctx) { scaled_gemm(run_ctx, {.a = a, .b = b, .c = c}); };
       }});
}

// `tokens` tokens that each go to `num_active` experts, drawn evenly: rows per expert are ragged.
std::vector<int64_t> ragged_offsets(int64_t tokens, int64_t num_active, int64_t num_experts) {
  std::vector<int64_t> ends(static_cast<size_t>(num_experts));
  const Random random(3, RandomPurpose::kTest);
  for (int64_t u = 0; u < tokens * num_active; ++u) {
    ++ends[random.below(static_cast<uint64_t>(u), static_cast<uint64_t>(num_experts))];
  }
  ends.insert(ends.begin(), 0);
  for (size_t e = 1; e < ends.size(); ++e) ends[e] += ends[e - 1];
  return ends;
}

void add_grouped(const BenchModel& model, std::vector<Case>& cases, const char* weight,
                 GemmLayout layout, int64_t tokens, int64_t n, int64_t k) {
  static constexpr const char* kNames[] = {"grouped_gemm_nt", "grouped_gemm_nn", "grouped_gemm_tn"};
  const int64_t E = model.measured_experts, active = std::min(model.num_active, E);
  const std::vector<int64_t> offsets = ragged_offsets(tokens, active, E);
  const int64_t U = offsets.back();
  int64_t num_used = 0;
  for (size_t e = 1; e < offsets.size(); ++e) num_used += offsets[e] > offsets[e - 1];
  const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
  const DType bf = DType::kBF16;
  // Of a weight gradient, n x k is the weight; the rows are summed over.
  cases.push_back(
      {.model = model.name,
       .name = fmt::format("{} {}", kNames[static_cast<int>(layout)], weight),
       .shape = fmt::format("bf16 {} rows of {} experts, {}x{}", U, E, n, k),
       .flops = 2 * elements(U, n, k),
       .bytes = elements(U, n + k) * 2 + elements(num_used, n, k) * (tn ? 4 : 2),
       .bandwidth_bound = !tn && U < kMemoryBoundRows * E,
       .prepare = [=](Operands& operands) -> Call {
         std::vector<int64_t>& starts = operands.vector<int64_t>();
         starts = offsets;
         const int64_t* first = starts.data();
         const TensorView a = operands.make(bf, {U, tn ? n : k});
         const TensorView b = tn ? operands.make(bf, {U, k})
                                 : operands.make(bf, nt ? Shape{E, n, k} : Shape{E, k, n});
         const TensorView c =
             tn ? operands.zeros(DType::kF32, {E, n, k}) : operands.zeros(bf, {U, n});
         return [=](Context& ctx) { grouped_gemm(ctx, {layout, a, b, c, first, E, tn}); };
       }});
}

void add_attention(const BenchModel& model, std::vector<Case>& cases, int64_t rows, int64_t S,
                   int64_t heads) {
  const int64_t K = model.nope + model.rope, X = model.nope + model.value, P = model.value,
                R = model.rope, T = rows * S;
  const double pairs = elements(rows, heads) * elements(S, S + 1) / 2;
  const std::string shape =
      fmt::format("bf16 {} rows of {}, {} heads of {}+{}", rows, S, heads, K, P);
  const double scale = 0.1;
  struct Tensors {
    TensorView q, kv, kpe, o, lse;
  };
  const auto make = [=](Operands& operands) -> Tensors {
    return {operands.make(DType::kBF16, {T, heads, K}), operands.make(DType::kBF16, {T, heads, X}),
            operands.make(DType::kBF16, {T, R}), operands.zeros(DType::kBF16, {T, heads, P}),
            operands.zeros(DType::kF32, {T, heads})};
  };
  const double operand_bytes = elements(T, heads, K + X + P) * 2;
  cases.push_back(
      {.model = model.name,
       .name = "mla_attention_forward",
       .shape = shape,
       .flops = 2 * pairs * static_cast<double>(K + P),
       .bytes = operand_bytes,
       .prepare = [=](Operands& operands) -> Call {
         const Tensors t = make(operands);
         return [=](Context& ctx) {
           mla_attention_forward(ctx, {t.q, t.kv, t.kpe, t.o, t.lse, rows, nullptr, scale});
         };
       }});
  cases.push_back(
      {.model = model.name,
       .name = "mla_attention_backward",
       .shape = shape,
       .flops = 2 * pairs * static_cast<double>(3 * K + 2 * P),
       .bytes = 3 * operand_bytes,
       .prepare = [=](Operands& operands) -> Call {
         const Tensors t = make(operands);
         const TensorView grad_o = operands.make(DType::kBF16, {T, heads, P}),
                          dq = operands.zeros(DType::kBF16, {T, heads, K}),
                          dkv = operands.zeros(DType::kBF16, {T, heads, X}),
                          dkpe = operands.zeros(DType::kBF16, {T, R});
         Context ctx(0);  // o and lse of a real forward pass
         mla_attention_forward(ctx, {t.q, t.kv, t.kpe, t.o, t.lse, rows, nullptr, scale});
         return [=](Context& run_ctx) {
           mla_attention_backward(run_ctx, {t.q, t.kv, t.kpe, t.o, t.lse, grad_o, dq, dkv, dkpe,
                                            rows, nullptr, scale});
         };
       }});
}

void add_decode(const BenchModel& model, std::vector<Case>& cases, int64_t B, int64_t L) {
  const int64_t H = model.heads, C = model.kv_lora, R = model.rope;
  const double flops = 2 * elements(B, L, H) * static_cast<double>(2 * C + R);
  const double bytes = elements(B, L, C + R) * 2;
  cases.push_back(
      {.model = model.name,
       .name = "mla_decode",
       .shape = fmt::format("bf16 {} sequences of {}, {} heads on {}+{}", B, L, H, C, R),
       .flops = flops,
       .bytes = bytes,
       // Ten operations a byte is what a processor of today can do per byte it reads.
       .bandwidth_bound = flops < 10 * bytes,
       .prepare = [=](Operands& operands) -> Call {
         const TensorView q = operands.make(DType::kBF16, {B, H, C}),
                          qpe = operands.make(DType::kBF16, {B, H, R}),
                          out = operands.zeros(DType::kBF16, {B, H, C});
         struct Paged {
           std::vector<std::byte*> pages;
           std::vector<CacheRows> caches;
           std::vector<int64_t> num_keys;
         };
         auto paged = std::make_shared<Paged>();
         const int64_t num_pages = div_up(L, kCachePageTokens);
         for (int64_t i = 0; i < B * num_pages; ++i) {
           const TensorView page = operands.make(DType::kBF16, {kCachePageTokens, C + R});
           paged->pages.push_back(static_cast<std::byte*>(page.data));
         }
         for (int64_t b = 0; b < B; ++b) {
           paged->caches.push_back({.pages = paged->pages.data() + b * num_pages,
                                    .num_pages = num_pages,
                                    .row_bytes = latent_row_bytes(DType::kBF16, C, R)});
         }
         paged->num_keys.assign(static_cast<size_t>(B), L);
         return [=](Context& ctx) {
           mla_decode(ctx, {q, qpe, paged->caches.data(), paged->num_keys.data(), out, 0.1});
         };
       }});
}

}  // namespace

void add_product_cases(const BenchModel& m, std::vector<Case>& cases) {
  const DType bf = DType::kBF16;
  const int64_t T = m.row_tokens * m.num_rows, K = m.nope + m.rope;
  const auto forward = [&](const char* weight, int64_t rows, int64_t n, int64_t k) {
    add_gemm(m, cases, weight, GemmLayout::kNt, bf, rows, n, k);
  };
  forward("q_a", T, m.q_lora, m.hidden);
  forward("q_b", T, m.heads * K, m.q_lora);
  forward("kv_a", T, m.kv_lora + m.rope, m.hidden);
  forward("kv_b", T, m.heads * (m.nope + m.value), m.kv_lora);
  forward("o", T, m.hidden, m.heads * m.value);
  forward("dense gate_up", T, 2 * m.dense_width, m.hidden);
  // A slice of a large vocabulary: gigabytes of weights would measure the same.
  forward("head", std::min<int64_t>(T, 256), std::min<int64_t>(m.vocab, 16384), m.hidden);
  add_gemm(m, cases, "router", GemmLayout::kNt, DType::kF32, T, m.num_experts, m.hidden);
  add_gemm(m, cases, "o", GemmLayout::kNn, bf, T, m.heads * m.value, m.hidden);
  add_gemm(m, cases, "o", GemmLayout::kTn, bf, m.hidden, m.heads * m.value, T);
  add_gemm(m, cases, "o", GemmLayout::kNt, DType::kF32, T, m.hidden, m.heads * m.value);
  for (const int64_t rows : {1, 8}) forward("o", rows, m.hidden, m.heads * m.value);
  for (const auto& [codes, panels] : {std::pair{DType::kE4M3, false}, std::pair{DType::kE4M3, true},
                                      std::pair{DType::kBF16, true}, std::pair{DType::kI8, true},
                                      std::pair{DType::kI4x2, true}}) {
    for (const int64_t rows : {int64_t{1}, int64_t{4}, int64_t{8}, int64_t{16}, T})
      add_scaled(m, cases, "o", codes, panels, rows, m.hidden, m.heads * m.value);
  }
  const int64_t gate_up = 2 * m.expert_width;
  add_grouped(m, cases, "gate_up", GemmLayout::kNt, T, gate_up, m.hidden);
  add_grouped(m, cases, "down", GemmLayout::kNt, T, m.hidden, m.expert_width);
  add_grouped(m, cases, "gate_up", GemmLayout::kNn, T, m.hidden, gate_up);
  add_grouped(m, cases, "gate_up", GemmLayout::kTn, T, gate_up, m.hidden);
  add_grouped(m, cases, "gate_up", GemmLayout::kNt, 1, gate_up, m.hidden);
}

void add_attention_cases(const BenchModel& m, std::vector<Case>& cases) {
  add_attention(m, cases, m.num_rows, m.row_tokens, std::min<int64_t>(m.heads, 16));
  // Long rows need few heads to take a while.
  if (m.heads > 4) {
    add_attention(m, cases, 1, 4096, 2);
    const size_t first = cases.size();
    add_attention(m, cases, 1, 32768, 2);
    for (size_t i = first; i < cases.size(); ++i) cases[i].slow = true;
  }
  add_decode(m, cases, 1, 512);
  add_decode(m, cases, 4, 4096);
}

}  // namespace fathom::bench
