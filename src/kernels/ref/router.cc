// The gate, SPEC C.3, and the balance loss, SPEC C.4.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ref/elements.h"
#include "kernels/ref/ref.h"

namespace fathom::ref {
namespace {

template <typename C>
constexpr C kMinusInfinity = -std::numeric_limits<C>::infinity();

// Index of the largest value, the lowest among equals. -1 when nothing exceeds -infinity.
template <typename C>
int64_t argmax(const std::vector<C>& v) {
  int64_t best = -1;
  for (int64_t i = 0; i < static_cast<int64_t>(v.size()); ++i) {
    const C value = v[static_cast<size_t>(i)];
    if (value > (best < 0 ? kMinusInfinity<C> : v[static_cast<size_t>(best)])) best = i;
  }
  return best;
}

template <typename C>
std::vector<C> scores_of(const RouterForward& p, int64_t t, int64_t num_experts) {
  const auto logits = elements<C>(p.logits_TE, t);
  std::vector<C> s(static_cast<size_t>(num_experts));
  if (p.scoring == ScoringFunc::kSigmoid) {
    for (int64_t e = 0; e < num_experts; ++e)
      s[static_cast<size_t>(e)] = C(1) / (C(1) + std::exp(-logits[e]));
    return s;
  }
  C largest = kMinusInfinity<C>, sum = 0;
  for (int64_t e = 0; e < num_experts; ++e) largest = std::max(largest, logits[e]);
  for (int64_t e = 0; e < num_experts; ++e) {
    s[static_cast<size_t>(e)] = std::exp(logits[e] - largest);
    sum += s[static_cast<size_t>(e)];
  }
  for (C& value : s) value /= sum;
  return s;
}

// Masks the experts outside the topk_group best groups with -infinity.
template <typename C>
void mask_groups(const RouterForward& p, std::vector<C>& biased) {
  if (p.n_group == 1 || p.n_group == p.topk_group) return;
  const int64_t group_size = static_cast<int64_t>(biased.size()) / p.n_group;
  std::vector<C> group_score(static_cast<size_t>(p.n_group));
  for (int64_t g = 0; g < p.n_group; ++g) {
    std::vector<C> members(biased.begin() + g * group_size, biased.begin() + (g + 1) * group_size);
    C score = 0;
    for (int best = 0; best < (p.group_score == GroupScore::kTop2Sum ? 2 : 1); ++best) {
      const int64_t i = argmax(members);
      score += i < 0 ? kMinusInfinity<C> : members[static_cast<size_t>(i)];
      if (i >= 0) members[static_cast<size_t>(i)] = kMinusInfinity<C>;
    }
    group_score[static_cast<size_t>(g)] = score;
  }
  std::vector<bool> keep(static_cast<size_t>(p.n_group), false);
  for (int64_t i = 0; i < p.topk_group; ++i) {
    const int64_t g = argmax(group_score);
    if (g < 0) break;
    keep[static_cast<size_t>(g)] = true;
    group_score[static_cast<size_t>(g)] = kMinusInfinity<C>;
  }
  for (int64_t e = 0; e < static_cast<int64_t>(biased.size()); ++e) {
    if (!keep[static_cast<size_t>(e / group_size)])
      biased[static_cast<size_t>(e)] = kMinusInfinity<C>;
  }
}

}  // namespace

void router_forward(Context&, const RouterForward& p) {
  const int64_t num_tokens = p.logits_TE.dim(0), num_experts = p.logits_TE.dim(1),
                top_k = p.num_experts_per_tok;
  with_compute_type(p.logits_TE.dtype == DType::kF64, [&]<typename C>(C) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      const std::vector<C> s = scores_of<C>(p, t, num_experts);
      std::vector<C> biased = s;
      if (!p.bias_E.empty()) {
        for (int64_t e = 0; e < num_experts; ++e)
          biased[static_cast<size_t>(e)] += elements<C>(p.bias_E)[e];
      }
      mask_groups(p, biased);
      int32_t* idx = p.idx_TA.as<int32_t>() + t * p.idx_TA.stride[0];
      C sum = 0;
      for (int64_t a = 0; a < top_k; ++a) {
        int64_t e = argmax(biased);
        // Only NaN left: the lowest expert not yet chosen. The weights are NaN then, and so is the
        // loss, which is where a bad run is stopped and traced back.
        for (int64_t i = 0; e < 0; ++i) {
          if (std::find(idx, idx + a, static_cast<int32_t>(i)) == idx + a) e = i;
        }
        idx[a] = static_cast<int32_t>(e);
        biased[static_cast<size_t>(e)] = kMinusInfinity<C>;
        sum += s[static_cast<size_t>(e)];
      }
      const auto weight = elements<C>(p.weight_TA, t);
      const C factor = static_cast<C>(p.routed_scaling_factor);
      for (int64_t a = 0; a < top_k; ++a) {
        const C chosen = s[static_cast<size_t>(idx[a])];
        weight.set(a, (p.norm_topk_prob ? chosen / (sum + C(1e-20)) : chosen) * factor);
      }
      const auto scores = elements<C>(p.scores_TE, t);
      for (int64_t e = 0; e < num_experts; ++e) scores.set(e, s[static_cast<size_t>(e)]);
    }
  });
}

// Through the weights: with norm, w_i = f s_i / Z, Z = sum of chosen s:  ds_i = (f/Z) (g_i - sum_j
// g_j w_j / f); without, ds_i = f g_i. Then through the scoring function: sigmoid' = s (1 - s);
// softmax: s_i (ds_i - s . ds).
void router_backward(Context&, const RouterBackward& p) {
  const int64_t num_tokens = p.scores_TE.dim(0), num_experts = p.scores_TE.dim(1),
                top_k = p.idx_TA.dim(1);
  with_compute_type(p.scores_TE.dtype == DType::kF64, [&]<typename C>(C) {
    const C factor = static_cast<C>(p.routed_scaling_factor);
    std::vector<C> ds(static_cast<size_t>(num_experts));
    for (int64_t t = 0; t < num_tokens; ++t) {
      const auto s = elements<C>(p.scores_TE, t);
      const auto grad = elements<C>(p.dweight_TA, t);
      const auto weight = elements<C>(p.weight_TA, t);
      const int32_t* idx = i32_row(p.idx_TA, t);
      for (int64_t e = 0; e < num_experts; ++e) {
        ds[static_cast<size_t>(e)] = p.dscores_TE.empty() ? C(0) : elements<C>(p.dscores_TE, t)[e];
      }
      C sum = 0, dot = 0;
      for (int64_t a = 0; a < top_k; ++a) {
        sum += s[idx[a]];
        dot += grad[a] * weight[a];
      }
      for (int64_t a = 0; a < top_k; ++a) {
        ds[static_cast<size_t>(idx[a])] +=
            p.norm_topk_prob ? (factor * grad[a] - dot) / (sum + C(1e-20)) : factor * grad[a];
      }
      const auto dlogits = elements<C>(p.dlogits_TE, t);
      C score_dot = 0;
      for (int64_t e = 0; e < num_experts; ++e) score_dot += s[e] * ds[static_cast<size_t>(e)];
      for (int64_t e = 0; e < num_experts; ++e) {
        const C d = ds[static_cast<size_t>(e)];
        dlogits.set(e, p.scoring == ScoringFunc::kSigmoid ? d * s[e] * (C(1) - s[e])
                                                          : s[e] * (d - score_dot));
      }
    }
  });
}

// dL/ds_it = weight / (num_spans span) (f_i / Z_t - sum_j f_j s_jt / Z_t^2), Z_t = sum_j s_jt.
void balance_loss(Context&, const BalanceLossCall& call) {
  const BalanceLossParams& p = call.p;
  const int64_t num_tokens = p.scores_TE.dim(0), num_experts = p.scores_TE.dim(1),
                top_k = p.idx_TA.dim(1);
  with_compute_type(p.scores_TE.dtype == DType::kF64, [&]<typename C>(C) {
    const int64_t span = p.span_tokens;
    const int64_t num_spans = span > 0 ? num_tokens / span : 0;
    double total = 0;
    for (int64_t begin = 0; begin < num_tokens; begin += span) {
      std::vector<C> fraction(static_cast<size_t>(num_experts)),
          mean_score(static_cast<size_t>(num_experts));
      std::vector<int64_t> count(static_cast<size_t>(num_experts));
      for (int64_t t = begin; t < begin + span; ++t) {
        std::vector<C> s(static_cast<size_t>(num_experts));
        C z = 0;
        for (int64_t e = 0; e < num_experts; ++e)
          z += s[static_cast<size_t>(e)] = elements<C>(p.scores_TE, t)[e];
        for (int64_t e = 0; e < num_experts; ++e)
          mean_score[static_cast<size_t>(e)] += s[static_cast<size_t>(e)] / z;
        for (int64_t a = 0; a < top_k; ++a) {
          const int64_t e = p.from_routing ? i32_row(p.idx_TA, t)[a] : argmax(s);
          if (e < 0) break;  // NaN scores: the loss is NaN already
          ++count[static_cast<size_t>(e)];
          s[static_cast<size_t>(e)] = kMinusInfinity<C>;
        }
      }
      const C per_token = C(1) / static_cast<C>(span);
      for (int64_t e = 0; e < num_experts; ++e) {
        fraction[static_cast<size_t>(e)] =
            static_cast<C>(num_experts * count[static_cast<size_t>(e)]) /
            static_cast<C>(top_k * span);
        total += static_cast<double>(fraction[static_cast<size_t>(e)]) *
                 static_cast<double>(mean_score[static_cast<size_t>(e)] * per_token);
      }
      if (p.dscores_TE.empty()) continue;
      const C weight = static_cast<C>(p.weight / static_cast<double>(num_spans * span));
      for (int64_t t = begin; t < begin + span; ++t) {
        const auto s = elements<C>(p.scores_TE, t);
        const auto ds = elements<C>(p.dscores_TE, t);
        C z = 0, dot = 0;
        for (int64_t e = 0; e < num_experts; ++e) {
          z += s[e];
          dot += fraction[static_cast<size_t>(e)] * s[e];
        }
        for (int64_t e = 0; e < num_experts; ++e) {
          ds.set(e, ds[e] + weight * (fraction[static_cast<size_t>(e)] / z - dot / (z * z)));
        }
      }
    }
    *call.result = num_spans > 0 ? total / static_cast<double>(num_spans) : 0.0;
  });
}

}  // namespace fathom::ref
