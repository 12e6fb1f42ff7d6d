// Every entry of every table of the bandwidth-bound kernels against the reference, on edge shapes,
// strided operands and every mixture of types; the same bits for one and two threads; and the chosen
// entry is the one that the forced level should run.
#include <algorithm>
#include <functional>

#include "kernels/cpu/row_kernels.h"
#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

constexpr double kUnit = 0x1p-24;  // of fp32, in which both sides compute

bool runs_here(IsaLevel level) {
  const std::vector<IsaLevel> levels = supported_isa_levels();
  return std::find(levels.begin(), levels.end(), level) != levels.end();
}

std::vector<const cpu::RowKernels*> row_kernels_here() {
  std::vector<const cpu::RowKernels*> all;
  if (runs_here(IsaLevel::kAvx2)) all.push_back(&cpu::kRowsAvx2);
  if (runs_here(IsaLevel::kAvx512)) all.push_back(&cpu::kRowsAvx512);
  return all;
}

// Two roundings of one value to `dtype` after it was computed in two ways.
double output_rounding(const TestTensor& t, double value) { return 2.01 * unit_roundoff(t.view().dtype) * std::fabs(value); }

// A Case is copyable operands with params() and outputs(). tolerance(reference result, output, element)
// bounds |fast - reference|.
template <typename Params, typename Case>
void expect_entries_match(const Case& start, const std::function<double(const Case&, size_t, int64_t)>& tolerance) {
  Case want = start;
  Context reference(1, IsaLevel::kReference);
  const auto entries = kernel_entries<Params>();
  ASSERT_EQ(select_kernel(reference, want.params()).name, std::string("ref"));
  entries.back().run(reference, want.params());
  for (const KernelEntry<Params>& entry : entries.first(entries.size() - 1)) {
    if (!runs_here(entry.isa)) continue;
    SCOPED_TRACE(entry.name);
    Case one = start, two = start;
    Context one_thread(1, entry.isa), two_threads(2, entry.isa);
    ASSERT_TRUE(entry.supports(one.params()));
    ASSERT_EQ(&select_kernel(one_thread, one.params()), &entry) << "the forced level runs another entry";
    entry.run(one_thread, one.params());
    entry.run(two_threads, two.params());
    for (size_t i = 0; i < want.outputs().size(); ++i) {
      const TestTensor &w = *want.outputs()[i], &got = *one.outputs()[i];
      std::vector<double> bound;
      for (int64_t e = 0; e < w.size(); ++e) bound.push_back(tolerance(want, i, e));
      ASSERT_TRUE(near_all(got, w.values(), bound));
      ASSERT_EQ(got.bytes(), two.outputs()[i]->bytes()) << "two threads give other bits";
    }
  }
}

template <typename Params, typename Case>
void expect_same_bits(const Case& start) {
  expect_entries_match<Params, Case>(start, [](const Case&, size_t, int64_t) { return 0.0; });
}

struct Size {
  int64_t rows, width;
};
const std::vector<Size> kSizes = {{0, 5}, {1, 1}, {3, 7}, {2, 8}, {5, 16}, {4, 33}, {1, 130}, {150, 200}};
constexpr DType kNarrow[] = {DType::kF32, DType::kBF16};

struct RmsForwardCase {
  TestTensor x, w, y, rstd;
  RmsNormForward params() const { return {.x_TD = x, .w_D = w, .eps = 1e-5, .y_TD = y, .rstd_T = rstd}; }
  std::vector<const TestTensor*> outputs() const { return {&y, &rstd}; }
};

TEST(FastRmsNorm, ForwardMatchesReference) {
  for (const Size& s : kSizes) {
    for (const DType x : kNarrow) {
      for (const DType y : kNarrow) {
        RmsForwardCase c{TestTensor(x, {s.rows, s.width}, "x", 3), TestTensor(DType::kF32, {s.width}, "w"),
                         TestTensor(y, {s.rows, s.width}, "y", 5), TestTensor(DType::kF32, {s.rows}, "rstd")};
        c.x.normal(1);
        c.w.normal(2, 0.5, 1.0);
        // The sum of squares may differ by n roundings, halved by the root; a few more follow.
        expect_entries_match<RmsNormForward, RmsForwardCase>(c, [&](const auto& want, size_t i, int64_t e) {
          const TestTensor& out = *want.outputs()[i];
          return static_cast<double>(s.width + 8) * kUnit * std::fabs(out[e]) + output_rounding(out, out[e]);
        });
      }
    }
  }
}

struct RmsBackwardCase {
  TestTensor x, w, rstd, dy, dx, dw;
  bool accumulate;
  RmsNormBackward params() const {
    return {.x_TD = x, .w_D = w, .rstd_T = rstd, .dy_TD = dy, .dx_TD = dx, .accumulate_dx = accumulate, .dw_D = dw};
  }
  std::vector<const TestTensor*> outputs() const { return {&dx, &dw}; }
};

TEST(FastRmsNorm, BackwardMatchesReference) {
  for (const Size& s : kSizes) {
    for (const int types : {0, 1, 2, 3, 4, 5, 6, 7}) {
      const bool accumulate = (types + s.width) % 2 == 0;
      RmsBackwardCase c{TestTensor(kNarrow[types & 1], {s.rows, s.width}, "x", 3),
                        TestTensor(DType::kF32, {s.width}, "w"),
                        TestTensor(DType::kF32, {s.rows}, "rstd"),
                        TestTensor(kNarrow[types >> 1 & 1], {s.rows, s.width}, "dy", 1),
                        TestTensor(kNarrow[types >> 2], {s.rows, s.width}, "dx", 2),
                        TestTensor(DType::kF32, {s.width}, "dw"),
                        accumulate};
      c.x.normal(1);
      c.w.normal(2, 0.5, 1.0);
      c.rstd.normal(3, 0.1, 1.0);
      c.dy.normal(4);
      if (accumulate) c.dx.normal(5);
      c.dw.normal(6);
      // Everything that is added up, in absolute value.
      std::vector<double> dx_size(static_cast<size_t>(s.rows * s.width)), dw_size(static_cast<size_t>(s.width));
      for (int64_t d = 0; d < s.width; ++d) dw_size[static_cast<size_t>(d)] = std::fabs(c.dw[d]);
      for (int64_t t = 0; t < s.rows; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < s.width; ++d) dot += std::fabs(c.dy[t * s.width + d] * c.w[d] * c.x[t * s.width + d] * c.rstd[t]);
        for (int64_t d = 0; d < s.width; ++d) {
          const int64_t at = t * s.width + d;
          const double normed = std::fabs(c.x[at] * c.rstd[t]);
          dw_size[static_cast<size_t>(d)] += std::fabs(c.dy[at]) * normed;
          dx_size[static_cast<size_t>(at)] = c.rstd[t] * (std::fabs(c.dy[at] * c.w[d]) + normed * dot / static_cast<double>(s.width)) +
                                             (accumulate ? std::fabs(c.dx[at]) : 0);
        }
      }
      expect_entries_match<RmsNormBackward, RmsBackwardCase>(c, [&](const auto& want, size_t i, int64_t e) {
        if (i == 1) return static_cast<double>(s.rows + 8) * kUnit * dw_size[static_cast<size_t>(e)];
        return static_cast<double>(s.width + 12) * kUnit * dx_size[static_cast<size_t>(e)] + output_rounding(want.dx, want.dx[e]);
      });
    }
  }
}

struct RopeCase {
  TestTensor x, table;
  std::vector<int32_t> positions;
  bool inverse;
  RopeParams params() const {
    return {.x_THR = x, .cos_sin_SR = table, .positions_T = positions.data(), .inverse = inverse};
  }
  std::vector<const TestTensor*> outputs() const { return {&x}; }
};

TEST(FastRope, GivesTheBitsOfTheReference) {
  for (const DType dtype : kNarrow) {
    for (const auto& [tokens, heads, width] : std::vector<std::array<int64_t, 3>>{{0, 2, 4}, {1, 1, 2}, {5, 3, 6}, {70, 4, 64}, {3, 2, 26}}) {
      for (const bool inverse : {false, true}) {
        RopeCase c{TestTensor(dtype, {tokens, heads, width}, "x", 7), TestTensor(DType::kF32, {9, width}, "table", 1), {}, inverse};
        c.x.normal(1);
        c.table.normal(2);
        for (int64_t t = 0; t < tokens; ++t) c.positions.push_back(static_cast<int32_t>(t * 5 % 9));
        expect_same_bits<RopeParams>(c);
      }
    }
  }
}

struct SwigluForwardCase {
  TestTensor gate_up, scale, h;
  bool scaled;
  SwigluForward params() const {
    return {.gate_up_TX = gate_up, .row_scale_T = scaled ? scale.view() : TensorView(), .h_TF = h};
  }
  std::vector<const TestTensor*> outputs() const { return {&h}; }
};

struct SwigluBackwardCase {
  TestTensor gate_up, scale, dh, dgate_up, dscale;
  bool scaled, in_place;
  SwigluBackward params() const {
    return {.gate_up_TX = in_place ? dgate_up : gate_up, .row_scale_T = scaled ? scale.view() : TensorView(), .dh_TF = dh,
            .dgate_up_TX = dgate_up, .drow_scale_T = scaled ? dscale.view() : TensorView()};
  }
  std::vector<const TestTensor*> outputs() const {
    return scaled ? std::vector<const TestTensor*>{&dgate_up, &dscale} : std::vector<const TestTensor*>{&dgate_up};
  }
};

TEST(FastSwiglu, MatchesReferenceBothWays) {
  for (const Size& s : kSizes) {
    for (const DType dtype : kNarrow) {
      for (const bool scaled : {false, true}) {
        TestTensor gate_up(dtype, {s.rows, 2 * s.width}, "gate_up", 3), scale(DType::kF32, {s.rows}, "scale");
        gate_up.normal(1, 4.0);
        if (gate_up.size() > 4) {
          gate_up.set(0, 120);
          gate_up.set(1, -120);
          gate_up.set(2, -88);
        }
        scale.normal(2);
        expect_entries_match<SwigluForward, SwigluForwardCase>(
            {gate_up, scale, TestTensor(dtype, {s.rows, s.width}, "h", 1), scaled},
            // The sigmoid is good to 4 roundings on either side, three products follow; 2^-126: below it a
            // sigmoid of -88 or less loses bits to underflow.
            [](const auto& want, size_t, int64_t e) {
              return 14 * kUnit * std::fabs(want.h[e]) + output_rounding(want.h, want.h[e]) + 0x1p-120;
            });
        for (const bool in_place : {false, true}) {
          SwigluBackwardCase c{gate_up, scale, TestTensor(dtype, {s.rows, s.width}, "dh", 2),
                               TestTensor(dtype, {s.rows, 2 * s.width}, "dgate_up", 3),
                               TestTensor(DType::kF32, {s.rows}, "dscale"), scaled, in_place};
          c.dh.normal(3);
          if (in_place) c.dgate_up = gate_up;
          expect_entries_match<SwigluBackward, SwigluBackwardCase>(c, [&](const auto& want, size_t i, int64_t e) {
            const auto silu_size = [&](int64_t t, int64_t f) { return std::fabs(gate_up[t * 2 * s.width + f]) / (1 + std::exp(-gate_up[t * 2 * s.width + f])); };
            if (i == 1) {
              double size = 0;
              for (int64_t f = 0; f < s.width; ++f) {
                size += std::fabs(c.dh[e * s.width + f] * gate_up[e * 2 * s.width + s.width + f]) * silu_size(e, f);
              }
              return static_cast<double>(s.width + 16) * kUnit * size + 0x1p-110;
            }
            const int64_t t = e / (2 * s.width), f = e % (2 * s.width) % s.width;
            const double gate = gate_up[t * 2 * s.width + f], sigmoid = 1 / (1 + std::exp(-gate));
            const double up = std::fabs(gate_up[t * 2 * s.width + s.width + f]);
            // d silu is a difference: its terms count in absolute value.
            const double factor = e % (2 * s.width) < s.width ? up * sigmoid * (1 + std::fabs(gate)) : silu_size(t, f);
            const double size = std::fabs(c.dh[t * s.width + f] * (scaled ? scale[t] : 1)) * factor;
            return 20 * kUnit * size + output_rounding(want.dgate_up, want.dgate_up[e]) + 0x1p-110;
          });
        }
      }
    }
  }
}

struct CrossEntropyCase {
  TestTensor logits, dlogits, loss;
  std::vector<int32_t> labels;
  bool in_place;
  CrossEntropyParams params() const {
    return {.logits_TV = in_place ? dlogits : logits, .labels_T = labels.data(), .grad_scale = 0.25, .dlogits_TV = dlogits, .loss_T = loss};
  }
  std::vector<const TestTensor*> outputs() const { return {&loss, &dlogits}; }
};

TEST(FastCrossEntropy, MatchesReference) {
  for (const Size& s : kSizes) {
    for (const int mode : {0, 1, 2}) {  // fp32, bf16, in place
      CrossEntropyCase c{TestTensor(DType::kF32, {s.rows, s.width}, "logits", 3),
                         TestTensor(mode == 1 ? DType::kBF16 : DType::kF32, {s.rows, s.width}, "dlogits", 3),
                         TestTensor(DType::kF32, {s.rows}, "loss"), {}, mode == 2};
      c.logits.normal(1, 5.0);
      if (mode == 2) c.dlogits = c.logits;
      for (int64_t t = 0; t < s.rows; ++t) c.labels.push_back(t % 3 == 1 ? -1 : static_cast<int32_t>(t * 7 % s.width));
      expect_entries_match<CrossEntropyParams, CrossEntropyCase>(c, [&](const auto& want, size_t i, int64_t e) {
        const double sum_error = static_cast<double>(s.width + 8) * kUnit;  // relative, of the sum of exps
        if (i == 0) return sum_error + 4 * kUnit * (std::fabs(want.loss[e]) + 60);
        return 2 * sum_error * 0.25 + output_rounding(want.dlogits, want.dlogits[e]);
      });
    }
  }
}

struct RouterCase {
  TestTensor logits, bias, scores, idx, weight;
  RouterForward options;
  RouterForward params() const {
    RouterForward p = options;
    p.logits_TE = logits;
    if (p.scoring == ScoringFunc::kSigmoid) p.bias_E = bias;
    p.scores_TE = scores;
    p.idx_TA = idx;
    p.weight_TA = weight;
    return p;
  }
  std::vector<const TestTensor*> outputs() const { return {&scores, &weight, &idx}; }
};

RouterCase router_case(int64_t tokens, int64_t experts, const RouterForward& options) {
  RouterCase c{TestTensor(DType::kF32, {tokens, experts}, "logits", 1), TestTensor(DType::kF32, {experts}, "bias"),
               TestTensor(DType::kF32, {tokens, experts}, "scores", 2), TestTensor(DType::kI32, {tokens, options.num_experts_per_tok}, "idx", 1),
               TestTensor(DType::kF32, {tokens, options.num_experts_per_tok}, "weight", 1), options};
  c.logits.normal(1);
  c.bias.normal(2, 0.2, -1.5);
  return c;
}

const std::vector<std::pair<int64_t, RouterForward>> kRouters = {
    {256, {.n_group = 8, .topk_group = 4, .num_experts_per_tok = 8, .routed_scaling_factor = 2.5}},
    {160, {.scoring = ScoringFunc::kSoftmax, .group_score = GroupScore::kMax, .n_group = 8, .topk_group = 3,
           .num_experts_per_tok = 6, .norm_topk_prob = false, .routed_scaling_factor = 16}},
    {12, {.n_group = 4, .topk_group = 2, .num_experts_per_tok = 3, .routed_scaling_factor = 2.5}},
    {9, {.num_experts_per_tok = 9, .norm_topk_prob = false}},
    {1, {.num_experts_per_tok = 1}},
};

// Equal scores are equal bits on both sides only up to rounding, so the choice may differ where two
// biased scores are that near; with these inputs none are, and the indices are compared exactly.
TEST(FastRouter, MatchesReference) {
  for (const auto& [experts, options] : kRouters) {
    for (const int64_t tokens : {0, 1, 600}) {
      expect_entries_match<RouterForward, RouterCase>(router_case(tokens, experts, options), [&](const RouterCase& want, size_t i, int64_t e) {
        return i == 2 ? 0.0 : static_cast<double>(2 * experts + 16) * kUnit * std::fabs((*want.outputs()[i])[e]);
      });
    }
  }
}

TEST(FastRouter, TiesAndNansGoToTheLowestIndex) {
  for (const auto& [experts, options] : kRouters) {
    for (const double logit : {0.3, std::nan("")}) {
      RouterCase c = router_case(3, experts, options);
      c.logits.fill(logit);
      c.bias.fill(-2);
      for (const KernelEntry<RouterForward>& entry : kernel_entries<RouterForward>()) {
        if (!runs_here(entry.isa)) continue;
        Context ctx(1, entry.isa);
        entry.run(ctx, c.params());
        for (int64_t i = 0; i < c.idx.size(); ++i) {
          ASSERT_EQ(c.idx[i], static_cast<double>(i % options.num_experts_per_tok)) << entry.name;
        }
      }
    }
  }
}

// A few NaNs among the scores: all levels must still agree on everything.
TEST(FastRouter, RoutesAroundSingleNansLikeTheReference) {
  RouterCase c = router_case(40, 256, kRouters[0].second);
  for (int64_t t = 0; t < 40; ++t) {
    for (int64_t i = 0; i < t * 6; ++i) c.logits.set(t * 256 + (i * 37 + t) % 256, std::nan(""));
  }
  Context reference(1, IsaLevel::kReference);
  RouterCase want = c;
  router_forward(reference, want.params());
  for (const KernelEntry<RouterForward>& entry : kernel_entries<RouterForward>()) {
    if (!runs_here(entry.isa)) continue;
    Context ctx(1, entry.isa);
    RouterCase got = c;
    entry.run(ctx, got.params());
    EXPECT_EQ(got.idx.bytes(), want.idx.bytes()) << entry.name;
  }
}

struct RouterBackwardCase {
  TestTensor scores, idx, weight, dweight, dscores, dlogits;
  RouterForward options;
  bool with_dscores;
  RouterBackward params() const {
    return {.scores_TE = scores, .idx_TA = idx, .weight_TA = weight, .scoring = options.scoring,
            .norm_topk_prob = options.norm_topk_prob, .routed_scaling_factor = options.routed_scaling_factor,
            .dweight_TA = dweight, .dscores_TE = with_dscores ? dscores.view() : TensorView(), .dlogits_TE = dlogits};
  }
  std::vector<const TestTensor*> outputs() const { return {&dlogits}; }
};

TEST(FastRouter, BackwardMatchesReference) {
  Context reference(1, IsaLevel::kReference);
  for (const auto& [experts, options] : kRouters) {
    for (const bool with_dscores : {false, true}) {
      const int64_t tokens = 70, top_k = options.num_experts_per_tok;
      RouterCase f = router_case(tokens, experts, options);
      router_forward(reference, f.params());
      RouterBackwardCase c{f.scores, f.idx, f.weight, TestTensor(DType::kF32, {tokens, top_k}, "dweight"),
                           TestTensor(DType::kF32, {tokens, experts}, "dscores", 1), TestTensor(DType::kF32, {tokens, experts}, "dlogits", 2),
                           options, with_dscores};
      c.dweight.normal(3);
      c.dscores.normal(4);
      expect_entries_match<RouterBackward, RouterBackwardCase>(c, [&](const auto&, size_t, int64_t e) {
        // s (ds - s . ds): bounded by s times the largest |ds| plus their mean under s.
        const int64_t t = e / experts;
        double ds = with_dscores ? 5 : 0, sum = 0;
        for (int64_t a = 0; a < top_k; ++a) sum += f.scores[t * experts + static_cast<int64_t>(f.idx[t * top_k + a])];
        ds += 5 * options.routed_scaling_factor * static_cast<double>(top_k + 1) / (options.norm_topk_prob ? sum : 1);
        return static_cast<double>(experts + 12) * kUnit * f.scores[e] * 2 * ds;
      });
    }
  }
}

struct BalanceCase {
  TestTensor scores, idx, dscores, result;  // result: fp64, one element
  BalanceLossParams options;
  BalanceLossCall params() const {
    BalanceLossCall call{options, static_cast<double*>(result.view().data)};
    call.p.scores_TE = scores;
    call.p.idx_TA = idx;
    call.p.dscores_TE = dscores;
    return call;
  }
  std::vector<const TestTensor*> outputs() const { return {&dscores, &result}; }
};

TEST(FastBalanceLoss, MatchesReference) {
  for (const auto& [tokens, experts, top_k, span] : std::vector<std::array<int64_t, 4>>{{0, 4, 2, 0}, {1, 1, 1, 1}, {6, 5, 2, 3}, {400, 64, 6, 200}, {300, 33, 4, 300}}) {
    for (const bool from_routing : {false, true}) {
      BalanceCase c{TestTensor(DType::kF32, {tokens, experts}, "scores", 1), TestTensor(DType::kI32, {tokens, top_k}, "idx"),
                    TestTensor(DType::kF32, {tokens, experts}, "dscores", 2), TestTensor(DType::kF64, {1}, "result"),
                    {.from_routing = from_routing, .span_tokens = span, .weight = 0.5}};
      const Random random(5, RandomPurpose::kTest);
      for (int64_t i = 0; i < c.scores.size(); ++i) c.scores.set(i, 0.1 + 0.8 * random.uniform(static_cast<uint64_t>(i)));
      for (int64_t i = 0; i < c.idx.size(); ++i) c.idx.set(i, static_cast<double>((i * 7 + i / top_k) % experts));
      c.dscores.normal(6, 0.01);
      expect_entries_match<BalanceLossCall, BalanceCase>(c, [&](const auto& want, size_t i, int64_t e) {
        const double roundings = static_cast<double>(experts + span + 16) * kUnit;
        if (i == 1) return roundings * std::fabs(want.result[0]);
        // f <= E, scores >= 0.1: each of the two terms of the gradient is below weight E / (span z).
        return roundings * 2 * 0.5 * static_cast<double>(experts) / (0.1 * static_cast<double>(experts * span)) + 2 * kUnit * std::fabs(want.dscores[e]);
      });
    }
  }
}

struct GatherCase {
  TestTensor x, token, y;
  GatherRowsParams params() const { return {x, token, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct CombineCase {
  TestTensor x, position, y;
  bool accumulate;
  CombineRowsParams params() const { return {x, position, y, accumulate}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct EmbeddingForwardCase {
  TestTensor table, y;
  std::vector<int32_t> ids;
  EmbeddingForwardParams params() const { return {table, ids.data(), y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct EmbeddingBackwardCase {
  TestTensor dy, dtable;
  std::vector<int32_t> ids;
  EmbeddingBackwardParams params() const { return {dy, ids.data(), dtable}; }
  std::vector<const TestTensor*> outputs() const { return {&dtable}; }
};

TEST(FastTokens, GiveTheBitsOfTheReference) {
  for (const Size& s : kSizes) {
    const int64_t num_sources = s.rows + 3, top_k = 3;
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < s.rows; ++t) ids.push_back(static_cast<int32_t>(t * t % num_sources));
    for (const DType from : kNarrow) {
      GatherCase gather{TestTensor(from, {num_sources, s.width}, "x", 1), TestTensor(DType::kI32, {s.rows}, "token"), TestTensor(from, {s.rows, s.width}, "y", 2)};
      gather.x.normal(1);
      for (int64_t t = 0; t < s.rows; ++t) gather.token.set(t, ids[static_cast<size_t>(t)]);
      expect_same_bits<GatherRowsParams>(gather);

      EmbeddingBackwardCase backward{TestTensor(from, {s.rows, s.width}, "dy", 1), TestTensor(DType::kF32, {num_sources, s.width}, "dtable", 2), ids};
      backward.dy.normal(2);
      backward.dtable.normal(3);
      expect_same_bits<EmbeddingBackwardParams>(backward);

      for (const DType to : kNarrow) {
        if (dtype_bytes(from) > dtype_bytes(to)) continue;
        EmbeddingForwardCase forward{TestTensor(from, {num_sources, s.width}, "table", 1), TestTensor(to, {s.rows, s.width}, "y", 2), ids};
        forward.table.normal(4);
        expect_same_bits<EmbeddingForwardParams>(forward);
        for (const bool accumulate : {false, true}) {
          CombineCase combine{TestTensor(from, {num_sources, s.width}, "x", 1), TestTensor(DType::kI32, {s.rows, top_k}, "position", 1),
                              TestTensor(to, {s.rows, s.width}, "y", 2), accumulate};
          combine.x.normal(5);
          for (int64_t i = 0; i < combine.position.size(); ++i) combine.position.set(i, static_cast<double>(i * 5 % num_sources));
          if (accumulate) combine.y.normal(6);
          expect_same_bits<CombineRowsParams>(combine);
        }
      }
    }
  }
}

struct CastCase {
  TestTensor x, y;
  CastParams params() const { return {x, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct AddCase {
  TestTensor x, y;
  AddParams params() const { return {x, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct ScaleCase {
  TestTensor x;
  ScaleParams params() const { return {x, 1.0 / 3}; }
  std::vector<const TestTensor*> outputs() const { return {&x}; }
};

TEST(FastElementwise, GivesTheBitsOfTheReference) {
  for (const Shape& shape : std::vector<Shape>{{0}, {1}, {7}, {16}, {40000}, {3, 5}, {2, 3, 33}, {5, 0, 2}, {130, 200}}) {
    for (const int64_t padding : {0, 3}) {
      for (const DType from : kNarrow) {
        TestTensor x(from, shape, "x", padding);
        x.normal(1);
        for (const DType to : kNarrow) {
          expect_same_bits<CastParams>(CastCase{x, TestTensor(to, shape, "y", padding)});
          if (dtype_bytes(from) > dtype_bytes(to)) continue;
          AddCase sum{x, TestTensor(to, shape, "y", 2 * padding)};
          sum.y.normal(2);
          expect_same_bits<AddParams>(sum);
        }
        if (from == DType::kF32) expect_same_bits<ScaleParams>(ScaleCase{x});
      }
    }
  }
}

struct SquaresCase {
  TestTensor x, result;
  SumOfSquaresParams params() const { return {x, static_cast<double*>(result.view().data)}; }
  std::vector<const TestTensor*> outputs() const { return {&result}; }
};

TEST(FastElementwise, SumOfSquaresMatchesReference) {
  for (const Shape& shape : std::vector<Shape>{{0}, {1}, {33}, {100000}, {70, 5, 33}}) {
    for (const DType dtype : kNarrow) {
      SquaresCase c{TestTensor(dtype, shape, "x", shape.num_dims == 3 ? 2 : 0), TestTensor(DType::kF64, {1}, "result")};
      c.x.normal(1);
      expect_entries_match<SumOfSquaresParams, SquaresCase>(c, [&](const auto& want, size_t, int64_t) {
        return static_cast<double>(c.x.size()) * 0x1p-53 * want.result[0];
      });
    }
  }
}

struct AdamwCase {
  TestTensor master, grad, m, v, weights;
  int weights_mode;  // 0 none, 1 separate, 2 the master itself
  AdamwParams params() const {
    return {.master = master, .grad = grad, .m = m, .v = v,
            .weights = weights_mode == 0 ? TensorView() : weights_mode == 1 ? weights.view() : master.view(),
            .lr = 3e-4, .grad_scale = 0.37, .step = 3};
  }
  std::vector<const TestTensor*> outputs() const {
    if (weights_mode == 1) return {&master, &m, &v, &weights};
    return {&master, &m, &v};
  }
};

TEST(FastAdamw, GivesTheBitsOfTheReference) {
  for (const int64_t count : {0, 1, 15, 16, 17, 50001}) {
    for (const DType moments : kNarrow) {
      for (const DType weights : kNarrow) {
        for (const int mode : {0, 1, 2}) {
          AdamwCase c{TestTensor(DType::kF32, {count}, "master"), TestTensor(DType::kF32, {count}, "grad"), TestTensor(moments, {count}, "m"),
                      TestTensor(moments, {count}, "v"), TestTensor(weights, {count}, "weights"), mode};
          c.master.normal(1);
          c.grad.normal(2);
          c.m.normal(3, 0.1);
          c.v.normal(4, 0.01);
          for (int64_t i = 0; i < count; ++i) c.v.set(i, std::fabs(c.v[i]));
          expect_same_bits<AdamwParams>(c);
        }
      }
    }
  }
}

// exp over every binade of both signs, and exact at the ends. Over all floats the worst error is 1.013
// units in the last place, at 0x1.da72c4p+5.
TEST(RowExp, IsWithin102HundredthsOfAUnitInTheLastPlace) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    std::vector<float> x, y;
    for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 2999) {
      const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (std::fabs(value) <= 110) x.push_back(value);
    }
    x.push_back(0x1.da72c4p+5f);
    y.resize(x.size());
    rows->exp(x.data(), y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      if (want >= 0x1.ffffffp127) {
        ASSERT_TRUE(std::isinf(y[i])) << x[i];
        continue;
      }
      int exponent = 0;
      std::frexp(want, &exponent);
      const double unit = std::ldexp(1.0, std::max(exponent - 24, -149));
      worst = std::max(worst, std::fabs(y[i] - want) / unit);
    }
    RecordProperty("worst_error_in_units", std::to_string(worst));
    EXPECT_LT(worst, 1.02);
    const float special_in[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 89.0f, -105.0f, 1e30f, -1e30f};
    float special[9];
    rows->exp(special_in, special, 9);
    const float want[] = {1, 1, INFINITY, 0, NAN, INFINITY, 0, INFINITY, 0};
    for (int i = 0; i < 9; ++i) EXPECT_TRUE(special[i] == want[i] || (i == 4 && std::isnan(special[i]))) << special_in[i];
  }
}

// Conversion to bf16: every upper half with the lower halves that decide the rounding.
TEST(RowCast, RoundsEveryKindOfNumberLikeTheScalarType) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    std::vector<float> x;
    for (uint32_t high = 0; high < 0x10000; ++high) {
      for (const uint32_t low : {0x0u, 0x1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) x.push_back(std::bit_cast<float>(high << 16 | low));
    }
    std::vector<uint16_t> y(x.size());
    rows->cast[0][1](x.data(), y.data(), static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], bf16(x[i]).bits) << std::bit_cast<uint32_t>(x[i]);
    std::vector<float> back(y.size());
    rows->cast[1][0](y.data(), back.data(), static_cast<int64_t>(y.size()));
    for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), static_cast<uint32_t>(y[i]) << 16);
  }
}

TEST(RowArgmax, IsTheLowestOfTheLargestAndPassesOverNan) {
  for (const cpu::RowKernels* rows : row_kernels_here()) {
    for (const int64_t n : {1, 7, 8, 9, 16, 17, 40}) {
      for (int64_t at = 0; at < n; ++at) {
        std::vector<float> x(static_cast<size_t>(n) + 8, 99.0f);  // beyond the end: larger than all
        for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = i < at ? -3.0f : i == at ? -1.0f : i % 3 == 0 ? NAN : -1.0f;
        EXPECT_EQ(rows->argmax(x.data(), n), at) << n;
      }
      const std::vector<float> none(static_cast<size_t>(n), -INFINITY), nans(static_cast<size_t>(n), NAN);
      EXPECT_EQ(rows->argmax(none.data(), n), -1);
      EXPECT_EQ(rows->argmax(nans.data(), n), -1);
    }
  }
}

TEST(Dispatch, Fp64RunsTheReferenceAtEveryLevel) {
  for (const IsaLevel level : supported_isa_levels()) {
    Context ctx(1, level);
    TestTensor x(DType::kF64, {2, 4}, "x"), y(DType::kF32, {2, 4}, "y"), w(DType::kF64, {4}, "w");
    EXPECT_STREQ(select_kernel(ctx, RmsNormForward{.x_TD = x, .w_D = w, .y_TD = x}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{x, y}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{y, x}).name, "ref");
    EXPECT_STREQ(select_kernel(ctx, CastParams{y, y}).name, level == IsaLevel::kReference ? "ref" : level == IsaLevel::kAvx2 ? "avx2" : "avx512");
  }
}

// Negative control of the walk itself: a wrong kernel must not pass.
TEST(Dispatch, TheComparisonSeesAKernelThatSkipsTheLastElement) {
  TestTensor want(DType::kF32, {33}, "y"), got(DType::kF32, {33}, "y");
  want.normal(1);
  for (int64_t i = 0; i < 32; ++i) got.set(i, want[i]);
  EXPECT_FALSE(near_all(got, want.values(), 1e30));
  got.set(32, want[32]);
  EXPECT_TRUE(near_all(got, want.values(), 0.0));
}

}  // namespace
}  // namespace fathom
