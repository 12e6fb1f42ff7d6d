// The router against an exhaustive search: every choice of groups and every choice of experts is
// tried.
#include <algorithm>
#include <bit>
#include <set>

#include "kernels/ref/ref.h"
#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

struct Shape4 {
  int64_t num_experts, top_k, n_group, topk_group;
};

struct Router {
  Router(const Shape4& s, int64_t num_tokens, DType dtype = DType::kF64)
      : shape(s),
        logits(dtype, {num_tokens, s.num_experts}, "logits", 1),
        bias(dtype, {s.num_experts}, "bias"),
        scores(dtype, {num_tokens, s.num_experts}, "scores", 2),
        idx(DType::kI32, {num_tokens, s.top_k}, "idx"),
        weight(dtype, {num_tokens, s.top_k}, "weight") {
    logits.normal(11);
    bias.normal(12, 0.3);
  }
  RouterForward params() const {
    return {.logits_TE = logits,
            .bias_E = with_bias ? bias.view() : TensorView(),
            .scoring = scoring,
            .group_score = group_score,
            .n_group = shape.n_group,
            .topk_group = shape.topk_group,
            .num_experts_per_tok = shape.top_k,
            .norm_topk_prob = normalise,
            .routed_scaling_factor = factor,
            .scores_TE = scores,
            .idx_TA = idx,
            .weight_TA = weight};
  }
  Shape4 shape;
  TestTensor logits, bias, scores, idx, weight;
  bool with_bias = true, normalise = true;
  ScoringFunc scoring = ScoringFunc::kSigmoid;
  GroupScore group_score = GroupScore::kTop2Sum;
  double factor = 2.5;
};

double score_of(const Router& r, int64_t t, int64_t e) {
  const int64_t n = r.shape.num_experts;
  if (r.scoring == ScoringFunc::kSigmoid) return 1 / (1 + std::exp(-r.logits[t * n + e]));
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(r.logits[t * n + i]);
  return std::exp(r.logits[t * n + e]) / total;
}

// The subset of `count` out of `n` with the largest total value; among equal totals the one that
// comes first when the members are written in ascending order. All 2^n subsets are tried.
template <typename Value>
std::vector<int64_t> best_subset(int64_t n, int64_t count, Value value) {
  std::vector<int64_t> best;
  double best_total = 0;
  for (uint32_t set = 0; set < (1u << n); ++set) {
    if (std::popcount(set) != count) continue;
    std::vector<int64_t> members;
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      if ((set >> i & 1) == 0) continue;
      members.push_back(i);
      total += value(i);
    }
    if (best.empty() || total > best_total || (total == best_total && members < best)) {
      best = members;
      best_total = total;
    }
  }
  return best;
}

std::vector<int64_t> exhaustive_route(const Router& r, int64_t t) {
  const int64_t group_size = r.shape.num_experts / r.shape.n_group;
  const auto biased = [&](int64_t e) { return score_of(r, t, e) + (r.with_bias ? r.bias[e] : 0); };
  const std::vector<int64_t> groups =
      best_subset(r.shape.n_group, r.shape.topk_group, [&](int64_t g) {
        const int64_t take =
            r.group_score == GroupScore::kTop2Sum ? std::min<int64_t>(2, group_size) : 1;
        double total = 0;
        for (const int64_t e :
             best_subset(group_size, take, [&](int64_t i) { return biased(g * group_size + i); })) {
          total += biased(g * group_size + e);
        }
        return total;
      });
  std::vector<int64_t> allowed;
  for (const int64_t g : groups) {
    for (int64_t i = 0; i < group_size; ++i) allowed.push_back(g * group_size + i);
  }
  std::vector<int64_t> chosen;
  for (const int64_t i :
       best_subset(static_cast<int64_t>(allowed.size()), r.shape.top_k,
                   [&](int64_t a) { return biased(allowed[static_cast<size_t>(a)]); })) {
    chosen.push_back(allowed[static_cast<size_t>(i)]);
  }
  std::stable_sort(chosen.begin(), chosen.end(),
                   [&](int64_t a, int64_t b) { return biased(a) > biased(b); });
  return chosen;
}

void expect_route(const Router& r, int64_t t, const std::vector<int64_t>& want) {
  double sum = 0;
  for (const int64_t e : want) sum += score_of(r, t, e);
  for (int64_t a = 0; a < r.shape.top_k; ++a) {
    const int64_t at = t * r.shape.top_k + a;
    EXPECT_EQ(r.idx[at], static_cast<double>(want[static_cast<size_t>(a)]))
        << "token " << t << " rank " << a;
    const double s = score_of(r, t, want[static_cast<size_t>(a)]);
    EXPECT_NEAR(r.weight[at], r.factor * (r.normalise ? s / sum : s), 1e-14);
  }
}

TEST(RefRouter, MatchesExhaustiveSearch) {
  Context ctx(1, IsaLevel::kReference);
  for (const Shape4& shape : std::vector<Shape4>{
           {12, 3, 4, 2}, {12, 4, 3, 2}, {8, 2, 1, 1}, {8, 8, 2, 2}, {8, 4, 4, 2}, {6, 1, 3, 1}}) {
    for (const ScoringFunc scoring : {ScoringFunc::kSigmoid, ScoringFunc::kSoftmax}) {
      for (const GroupScore group_score : {GroupScore::kTop2Sum, GroupScore::kMax}) {
        for (const double bias_mean : {0.0, -3.0}) {
          Router r(shape, 20);
          r.scoring = scoring;
          r.group_score = group_score;
          r.normalise = group_score == GroupScore::kTop2Sum;
          r.with_bias = scoring == ScoringFunc::kSigmoid;
          r.bias.normal(13, 0.3, bias_mean);
          router_forward(ctx, r.params());
          for (int64_t t = 0; t < 20; ++t) expect_route(r, t, exhaustive_route(r, t));
          EXPECT_TRUE(r.scores.guards_intact() && r.idx.guards_intact() &&
                      r.weight.guards_intact());
          for (int64_t t = 0; t < 20; ++t) {
            for (int64_t e = 0; e < shape.num_experts; ++e)
              EXPECT_NEAR(r.scores[t * shape.num_experts + e], score_of(r, t, e), 1e-15);
          }
        }
      }
    }
  }
}

// With all biased scores negative, masking with 0 would make every excluded expert better than
// every allowed one.
TEST(RefRouter, ExcludedGroupsStayOutWhenAllBiasedScoresAreNegative) {
  Context ctx(1, IsaLevel::kReference);
  Router r({8, 2, 4, 1}, 1);
  r.bias.fill(-5);
  r.logits.fill(0);
  r.logits.set(4, 1.0);
  r.logits.set(5, 0.5);
  router_forward(ctx, r.params());
  EXPECT_EQ(r.idx[0], 4);
  EXPECT_EQ(r.idx[1], 5);
  // Negative control: the same selection with a mask of 0 picks expert 0.
  std::vector<double> zero_masked(8, 0.0);
  zero_masked[4] = score_of(r, 0, 4) - 5;
  zero_masked[5] = score_of(r, 0, 5) - 5;
  EXPECT_EQ(std::max_element(zero_masked.begin(), zero_masked.end()) - zero_masked.begin(), 0);
}

TEST(RefRouter, TiesGoToTheLowestIndex) {
  Context ctx(1, IsaLevel::kReference);
  Router r({12, 3, 4, 2}, 1);
  r.logits.fill(0.25);
  r.bias.fill(0);
  router_forward(ctx, r.params());
  EXPECT_EQ(r.idx.values(), (std::vector<double>{0, 1, 2}));
  r.bias.set(10, 0.5);  // its group comes first now; the rest is tied
  router_forward(ctx, r.params());
  EXPECT_EQ(r.idx.values(), (std::vector<double>{10, 0, 1}));
}

// The shape of DeepSeek-V3, 10^4 random tokens.
TEST(RefRouter, V3RoutesToDistinctExpertsOfFourGroupsWithWeightsThatSumToTheFactor) {
  Context ctx(1, IsaLevel::kReference);
  Router r({256, 8, 8, 4}, 10000, DType::kF32);
  r.bias.normal(3, 0.05, -1.0);
  router_forward(ctx, r.params());
  for (int64_t t = 0; t < 10000; ++t) {
    std::set<int64_t> experts, groups;
    double sum = 0, last = 1e9;
    for (int64_t a = 0; a < 8; ++a) {
      const int64_t e = static_cast<int64_t>(r.idx[t * 8 + a]);
      experts.insert(e);
      groups.insert(e / 32);
      sum += r.weight[t * 8 + a];
      // Ranked by s + b as the fp32 kernel adds them.
      const double biased =
          static_cast<float>(r.scores[t * 256 + e]) + static_cast<float>(r.bias[e]);
      ASSERT_LE(biased, last);
      last = biased;
    }
    ASSERT_EQ(experts.size(), 8u);
    ASSERT_LE(groups.size(), 4u);
    ASSERT_NEAR(sum, 2.5, 2.5 * 16 * 0x1p-24);
  }
}

TEST(RefRouter, GradientsAreDerivatives) {
  Context ctx(1, IsaLevel::kReference);
  for (const ScoringFunc scoring : {ScoringFunc::kSigmoid, ScoringFunc::kSoftmax}) {
    for (const bool normalise : {false, true}) {
      Router r({6, 3, 1, 1}, 4);
      r.scoring = scoring;
      r.normalise = normalise;
      // A bias that fixes the choice whatever the logits: selection has no gradient.
      for (int64_t e = 0; e < 6; ++e) r.bias.set(e, static_cast<double>(10 * e));
      TestTensor dweight(DType::kF64, {4, 3}, "dweight"),
          dscores(DType::kF64, {4, 6}, "dscores", 1), dlogits(DType::kF64, {4, 6}, "dlogits");
      dweight.normal(1);
      dscores.normal(2);
      router_forward(ctx, r.params());
      RouterBackward p{.scores_TE = r.scores,
                       .idx_TA = r.idx,
                       .weight_TA = r.weight,
                       .scoring = scoring,
                       .norm_topk_prob = normalise,
                       .routed_scaling_factor = r.factor,
                       .dweight_TA = dweight,
                       .dscores_TE = dscores,
                       .dlogits_TE = dlogits};
      router_backward(ctx, p);
      EXPECT_TRUE(gradient_matches(r.logits, dlogits, [&] {
        router_forward(ctx, r.params());
        return dot(r.weight, dweight) + dot(r.scores, dscores);
      }));
      router_forward(ctx, r.params());
      p.dscores_TE = {};
      router_backward(ctx, p);
      EXPECT_TRUE(gradient_matches(r.logits, dlogits, [&] {
        router_forward(ctx, r.params());
        return dot(r.weight, dweight);
      }));
    }
  }
}

// SPEC C.4 written down once more, with f counted by sorting.
double balance_of(const TestTensor& scores, int64_t num_experts, int64_t top_k, int64_t span,
                  const std::vector<int64_t>* routed) {
  const int64_t num_tokens = scores.size() / num_experts;
  double total = 0;
  for (int64_t begin = 0; begin < num_tokens; begin += span) {
    for (int64_t i = 0; i < num_experts; ++i) {
      double hits = 0, mean = 0;
      for (int64_t t = begin; t < begin + span; ++t) {
        double z = 0;
        int64_t better = 0;  // experts ranked before i
        for (int64_t j = 0; j < num_experts; ++j) {
          const double sj = scores[t * num_experts + j], si = scores[t * num_experts + i];
          z += sj;
          better += sj > si || (sj == si && j < i);
        }
        if (routed == nullptr) {
          hits += better < top_k;
        } else {
          for (int64_t a = 0; a < top_k; ++a)
            hits += (*routed)[static_cast<size_t>(t * top_k + a)] == i;
        }
        mean += scores[t * num_experts + i] / z;
      }
      total += static_cast<double>(num_experts) / static_cast<double>(top_k * span) * hits * mean /
               static_cast<double>(span);
    }
  }
  return total / static_cast<double>(num_tokens / span);
}

TEST(RefBalanceLoss, MatchesTheFormulaAndItsDerivative) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t num_experts = 5, top_k = 2, num_tokens = 6;
  for (const int64_t span : {3, 6}) {
    for (const bool from_routing : {false, true}) {
      TestTensor scores(DType::kF64, {num_tokens, num_experts}, "scores", 1),
          ds(DType::kF64, {num_tokens, num_experts}, "dscores");
      TestTensor idx(DType::kI32, {num_tokens, top_k}, "idx");
      const Random random(4, RandomPurpose::kTest);
      for (int64_t i = 0; i < scores.size(); ++i)
        scores.set(i, 0.05 + 0.9 * random.uniform(static_cast<uint64_t>(i)));
      std::vector<int64_t> routed;
      for (int64_t t = 0; t < num_tokens; ++t) {
        routed.push_back(t % 2);
        routed.push_back(3);
      }
      for (int64_t i = 0; i < idx.size(); ++i)
        idx.set(i, static_cast<double>(routed[static_cast<size_t>(i)]));
      const std::vector<int64_t>* taken = from_routing ? &routed : nullptr;
      ds.fill(1.0);
      const double weight = 0.7;
      const double loss = balance_loss(ctx, {.scores_TE = scores,
                                             .idx_TA = idx,
                                             .from_routing = from_routing,
                                             .span_tokens = span,
                                             .weight = weight,
                                             .dscores_TE = ds});
      EXPECT_NEAR(loss, balance_of(scores, num_experts, top_k, span, taken), 1e-13);
      TestTensor gradient = ds;  // what was added to the 1 already there
      for (int64_t i = 0; i < ds.size(); ++i) gradient.set(i, ds[i] - 1.0);
      // f is a count: constant under the small steps of the difference quotient.
      EXPECT_TRUE(gradient_matches(scores, gradient, [&] {
        return weight * balance_of(scores, num_experts, top_k, span, taken);
      }));
    }
  }
}

TEST(RefBalanceLoss, IsOneWhenPerfectlyBalanced) {
  Context ctx(1, IsaLevel::kReference);
  TestTensor scores(DType::kF64, {4, 4}, "scores"), idx(DType::kI32, {4, 1}, "idx");
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t e = 0; e < 4; ++e) scores.set(t * 4 + e, e == t ? 0.9 : 0.3);
  }
  idx.fill(0);
  EXPECT_NEAR(balance_loss(ctx, {.scores_TE = scores, .idx_TA = idx, .span_tokens = 4}), 1.0,
              1e-15);
}

TEST(RouterChecks, RefuseGroupsThatCannotHoldTheChoice) {
  Context ctx(1, IsaLevel::kReference);
  Router r({12, 3, 4, 2}, 2);
  RouterForward p = r.params();
  p.n_group = 5;
  EXPECT_THROW(router_forward(ctx, p), CheckFailure);
  p = r.params();
  p.n_group = 12;  // groups of one have no two best
  EXPECT_THROW(router_forward(ctx, p), CheckFailure);
  p = r.params();
  p.n_group = 6;
  p.topk_group = 1;
  EXPECT_THROW(router_forward(ctx, p), CheckFailure);
}

// NaN must reach the loss instead of stopping the run without a trace of where it was born.
TEST(RefRouter, NanLogitsRouteToTheLowestExpertsWithNanWeights) {
  Context ctx(1, IsaLevel::kReference);
  Router r({8, 3, 4, 2}, 1);
  r.logits.fill(std::nan(""));
  router_forward(ctx, r.params());
  EXPECT_EQ(r.idx.values(), (std::vector<double>{0, 1, 2}));
  for (int64_t a = 0; a < 3; ++a) EXPECT_TRUE(std::isnan(r.weight[a]));
}

}  // namespace
}  // namespace fathom
