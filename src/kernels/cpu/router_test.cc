#include "kernels/cpu/entry_walk.h"

namespace fathom {
namespace {

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
  RouterCase c{TestTensor(DType::kF32, {tokens, experts}, "logits", 1),
               TestTensor(DType::kF32, {experts}, "bias"),
               TestTensor(DType::kF32, {tokens, experts}, "scores", 2),
               TestTensor(DType::kI32, {tokens, options.num_experts_per_tok}, "idx", 1),
               TestTensor(DType::kF32, {tokens, options.num_experts_per_tok}, "weight", 1),
               options};
  c.logits.normal(1);
  c.bias.normal(2, 0.2, -1.5);
  return c;
}

const std::vector<std::pair<int64_t, RouterForward>> kRouters = {
    {256, {.n_group = 8, .topk_group = 4, .num_experts_per_tok = 8, .routed_scaling_factor = 2.5}},
    {160,
     {.scoring = ScoringFunc::kSoftmax,
      .group_score = GroupScore::kMax,
      .n_group = 8,
      .topk_group = 3,
      .num_experts_per_tok = 6,
      .norm_topk_prob = false,
      .routed_scaling_factor = 16}},
    {12, {.n_group = 4, .topk_group = 2, .num_experts_per_tok = 3, .routed_scaling_factor = 2.5}},
    {9, {.num_experts_per_tok = 9, .norm_topk_prob = false}},
    {1, {.num_experts_per_tok = 1}},
};

// Equal scores are equal bits on both sides only up to rounding, so the choice may differ where two
// biased scores are that near; with these inputs none are, and the indices are compared exactly.
TEST(FastRouter, MatchesReference) {
  for (const auto& [experts, options] : kRouters) {
    for (const int64_t tokens : {0, 1, 600}) {
      expect_entries_match<RouterForward, RouterCase>(
          router_case(tokens, experts, options), [&](const RouterCase& want, size_t i, int64_t e) {
            return i == 2 ? 0.0
                          : static_cast<double>(2 * experts + 16) * kUnit *
                                std::fabs((*want.outputs()[i])[e]);
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
    return {.scores_TE = scores,
            .idx_TA = idx,
            .weight_TA = weight,
            .scoring = options.scoring,
            .norm_topk_prob = options.norm_topk_prob,
            .routed_scaling_factor = options.routed_scaling_factor,
            .dweight_TA = dweight,
            .dscores_TE = with_dscores ? dscores.view() : TensorView(),
            .dlogits_TE = dlogits};
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
      RouterBackwardCase c{f.scores,
                           f.idx,
                           f.weight,
                           TestTensor(DType::kF32, {tokens, top_k}, "dweight"),
                           TestTensor(DType::kF32, {tokens, experts}, "dscores", 1),
                           TestTensor(DType::kF32, {tokens, experts}, "dlogits", 2),
                           options,
                           with_dscores};
      c.dweight.normal(3);
      c.dscores.normal(4);
      expect_entries_match<RouterBackward, RouterBackwardCase>(
          c, [&](const auto&, size_t, int64_t e) {
            // s (ds - s . ds): bounded by s times the largest |ds| plus their mean under s.
            const int64_t t = e / experts;
            double ds = with_dscores ? 5 : 0, sum = 0;
            for (int64_t a = 0; a < top_k; ++a)
              sum += f.scores[t * experts + static_cast<int64_t>(f.idx[t * top_k + a])];
            ds += 5 * options.routed_scaling_factor * static_cast<double>(top_k + 1) /
                  (options.norm_topk_prob ? sum : 1);
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
  for (const auto& [tokens, experts, top_k, span] : std::vector<std::array<int64_t, 4>>{
           {0, 4, 2, 0}, {1, 1, 1, 1}, {6, 5, 2, 3}, {400, 64, 6, 200}, {300, 33, 4, 300}}) {
    for (const bool from_routing : {false, true}) {
      BalanceCase c{TestTensor(DType::kF32, {tokens, experts}, "scores", 1),
                    TestTensor(DType::kI32, {tokens, top_k}, "idx"),
                    TestTensor(DType::kF32, {tokens, experts}, "dscores", 2),
                    TestTensor(DType::kF64, {1}, "result"),
                    {.from_routing = from_routing, .span_tokens = span, .weight = 0.5}};
      const Random random(5, RandomPurpose::kTest);
      for (int64_t i = 0; i < c.scores.size(); ++i)
        c.scores.set(i, 0.1 + 0.8 * random.uniform(static_cast<uint64_t>(i)));
      for (int64_t i = 0; i < c.idx.size(); ++i)
        c.idx.set(i, static_cast<double>((i * 7 + i / top_k) % experts));
      c.dscores.normal(6, 0.01);
      expect_entries_match<BalanceLossCall, BalanceCase>(
          c, [&](const auto& want, size_t i, int64_t e) {
            const double roundings = static_cast<double>(experts + span + 16) * kUnit;
            if (i == 1) return roundings * std::fabs(want.result[0]);
            // f <= E, scores >= 0.1: each of the two terms of the gradient is below weight E /
            // (span z).
            return roundings * 2 * 0.5 * static_cast<double>(experts) /
                       (0.1 * static_cast<double>(experts * span)) +
                   2 * kUnit * std::fabs(want.dscores[e]);
          });
    }
  }
}

}  // namespace
}  // namespace fathom
