// The gate and the balance loss: scores by vectors, selection token by token.
#include <cstring>
#include <limits>

#include "kernels/cpu/row_loop.h"
#include "kernels/cpu/row_ops.h"

namespace fathom::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

float group_score(const float* members, int64_t count, GroupScore kind, const RowKernels& rows) {
  if (kind == GroupScore::kMax) return rows.max(members, count);
  float first = kMinusInfinity, second = kMinusInfinity;
  for (int64_t i = 0; i < count;
       ++i) {  // without branches, which random scores would mispredict; NaN falls through
    const float x = members[i];
    const float lower = x > first ? first : x;
    first = x > first ? x : first;
    second = lower > second ? lower : second;
  }
  return first + second;
}

// Leaves the topk_group best groups of `biased` and sets the others to -infinity. `groups` has room
// for the score and the choice of every group.
void mask_groups(const RouterForward& p, float* biased, int64_t num_experts, float* groups,
                 const RowKernels& rows) {
  const int64_t group_size = num_experts / p.n_group;
  float* chosen = groups + p.n_group;
  for (int64_t g = 0; g < p.n_group; ++g) {
    groups[g] = group_score(biased + g * group_size, group_size, p.group_score, rows);
    chosen[g] = 0;
  }
  for (int64_t i = 0; i < p.topk_group; ++i) {
    const int64_t g = rows.argmax(groups, p.n_group);
    if (g < 0) break;
    chosen[g] = 1;
    groups[g] = kMinusInfinity;
  }
  for (int64_t g = 0; g < p.n_group; ++g) {
    if (chosen[g] == 0)
      std::fill(biased + g * group_size, biased + (g + 1) * group_size, kMinusInfinity);
  }
}

}  // namespace

void router_forward(Context& ctx, const RouterForward& p, const RowKernels& rows) {
  const int64_t num_experts = p.logits_TE.dim(1), top_k = p.num_experts_per_tok;
  const float* bias = p.bias_E.empty() ? nullptr : p.bias_E.as<float>();
  const float factor = static_cast<float>(p.routed_scaling_factor);
  const bool grouped = p.n_group > 1 && p.topk_group < p.n_group;
  const auto route = [&](int64_t t, float* biased, float* groups) {
    const float* logits = f32_row(p.logits_TE, t);
    float* s = f32_row_out(p.scores_TE, t);
    if (p.scoring == ScoringFunc::kSigmoid) {
      rows.sigmoid(logits, s, num_experts);
    } else {
      const float largest = rows.max(logits, num_experts);
      rows.scale(s, 1.0f / rows.exp_sum(logits, largest, s, num_experts), num_experts);
    }
    std::memcpy(biased, s, static_cast<size_t>(num_experts) * sizeof(float));
    if (bias != nullptr) rows.add[0][0](bias, biased, num_experts);
    if (grouped) mask_groups(p, biased, num_experts, groups, rows);

    int32_t* idx = p.idx_TA.as<int32_t>() + t * p.idx_TA.stride[0];
    float sum = 0;
    for (int64_t a = 0; a < top_k; ++a) {
      int64_t e = rows.argmax(biased, num_experts);
      // Only NaN left: the lowest expert not yet chosen, as the reference.
      for (int64_t i = 0; e < 0; ++i) {
        if (std::find(idx, idx + a, static_cast<int32_t>(i)) == idx + a) e = i;
      }
      idx[a] = static_cast<int32_t>(e);
      biased[e] = kMinusInfinity;
      sum += s[e];
    }
    float* weight = f32_row_out(p.weight_TA, t);
    for (int64_t a = 0; a < top_k; ++a) {
      weight[a] = (p.norm_topk_prob ? s[idx[a]] / (sum + 1e-20f) : s[idx[a]]) * factor;
    }
  };

  const int64_t num_tokens = p.logits_TE.dim(0);
  const int64_t block = std::max<int64_t>(1, kElementsPerIndex / (4 * num_experts));
  ctx.threads().parallel_for(div_up(num_tokens, block), [&](int64_t index, int thread_idx) {
    Scratch& scratch = ctx.thread_scratch(thread_idx);
    const Scratch::Mark mark(scratch);
    float* biased = scratch.allocate<float>(num_experts, "biased_scores");
    float* groups = scratch.allocate<float>(2 * p.n_group, "group_scores");
    const int64_t end = std::min(num_tokens, (index + 1) * block);
    for (int64_t t = index * block; t < end; ++t) route(t, biased, groups);
  });
}

void router_backward(Context& ctx, const RouterBackward& p, const RowKernels& rows) {
  const int64_t num_experts = p.scores_TE.dim(1), top_k = p.idx_TA.dim(1);
  const float factor = static_cast<float>(p.routed_scaling_factor);
  for_rows(ctx, p.scores_TE.dim(0), num_experts * 2, [&](int64_t t, int) {
    const float* s = f32_row(p.scores_TE, t);
    const float* grad = f32_row(p.dweight_TA, t);
    const float* weight = f32_row(p.weight_TA, t);
    const int32_t* idx = p.idx_TA.as<int32_t>() + t * p.idx_TA.stride[0];
    float* ds = f32_row_out(p.dlogits_TE, t);
    const size_t bytes = static_cast<size_t>(num_experts) * sizeof(float);
    if (p.dscores_TE.empty()) {
      std::memset(ds, 0, bytes);
    } else {
      std::memcpy(ds, f32_row(p.dscores_TE, t), bytes);
    }
    float sum = 0, dot = 0;
    for (int64_t a = 0; a < top_k; ++a) {
      sum += s[idx[a]];
      dot += grad[a] * weight[a];
    }
    for (int64_t a = 0; a < top_k; ++a) {
      ds[idx[a]] += p.norm_topk_prob ? (factor * grad[a] - dot) / (sum + 1e-20f) : factor * grad[a];
    }
    if (p.scoring == ScoringFunc::kSigmoid) {
      rows.sigmoid_backward(s, ds, num_experts);
    } else {
      rows.softmax_backward(s, rows.dot(s, ds, num_experts), ds, num_experts);
    }
  });
}

// Counts and mean scores are taken per block of tokens, the blocks of a span summed in order; a
// second pass over the tokens adds the gradient.
void balance_loss(Context& ctx, const BalanceLossCall& call, const RowKernels& rows) {
  const BalanceLossParams& p = call.p;
  const int64_t num_tokens = p.scores_TE.dim(0), num_experts = p.scores_TE.dim(1),
                top_k = p.idx_TA.dim(1);
  *call.result = 0;
  if (num_tokens == 0) return;
  const int64_t span = p.span_tokens, num_spans = num_tokens / span;
  const int64_t block = std::max<int64_t>(1, kElementsPerIndex / num_experts);
  const int64_t blocks_per_span = div_up(span, block), num_blocks = num_spans * blocks_per_span;
  const Scratch::Mark mark(ctx.scratch());
  float* hits =
      ctx.scratch().allocate<float>(num_blocks * num_experts, "balance_hits");  // counts, exact
  float* means = ctx.scratch().allocate<float>(num_blocks * num_experts, "balance_means");

  ctx.threads().parallel_for(num_blocks, [&](int64_t index, int thread_idx) {
    Scratch& scratch = ctx.thread_scratch(thread_idx);
    const Scratch::Mark thread_mark(scratch);
    float* left = scratch.allocate<float>(num_experts, "balance_scores");
    float* count = hits + index * num_experts;
    float* mean = means + index * num_experts;
    std::fill(count, count + num_experts, 0.0f);
    std::fill(mean, mean + num_experts, 0.0f);
    const int64_t begin = index / blocks_per_span * span + index % blocks_per_span * block;
    const int64_t end = std::min(begin + block, (index / blocks_per_span + 1) * span);
    for (int64_t t = begin; t < end; ++t) {
      const float* s = f32_row(p.scores_TE, t);
      rows.multiply_add(s, 1.0f / rows.sum(s, num_experts), mean, num_experts);
      if (p.from_routing) {
        const int32_t* idx = p.idx_TA.as<int32_t>() + t * p.idx_TA.stride[0];
        for (int64_t a = 0; a < top_k; ++a) count[idx[a]] += 1;
        continue;
      }
      std::memcpy(left, s, static_cast<size_t>(num_experts) * sizeof(float));
      for (int64_t a = 0; a < top_k; ++a) {
        const int64_t e = rows.argmax(left, num_experts);
        if (e < 0) break;  // NaN scores: the loss is NaN already
        count[e] += 1;
        left[e] = kMinusInfinity;
      }
    }
  });

  // The span's sums replace those of its first block; f_i then replaces the counts.
  double total = 0;
  for (int64_t i = 0; i < num_spans; ++i) {
    float* fraction = hits + i * blocks_per_span * num_experts;
    float* mean = means + i * blocks_per_span * num_experts;
    for (int64_t b = 1; b < blocks_per_span; ++b) {
      rows.add[0][0](fraction + b * num_experts, fraction, num_experts);
      rows.add[0][0](mean + b * num_experts, mean, num_experts);
    }
    for (int64_t e = 0; e < num_experts; ++e) {
      fraction[e] =
          fraction[e] * static_cast<float>(num_experts) / static_cast<float>(top_k * span);
      total += static_cast<double>(fraction[e]) * static_cast<double>(mean[e]) /
               static_cast<double>(span);
    }
  }
  *call.result = total / static_cast<double>(num_spans);

  if (p.dscores_TE.empty()) return;
  const float weight = static_cast<float>(p.weight / static_cast<double>(num_spans * span));
  for_rows(ctx, num_tokens, num_experts * 2, [&](int64_t t, int) {
    const float* fraction = hits + t / span * blocks_per_span * num_experts;
    const float* s = f32_row(p.scores_TE, t);
    float* ds = f32_row_out(p.dscores_TE, t);
    const float z = rows.sum(s, num_experts);
    const float shift = rows.dot(fraction, s, num_experts) / z;
    const float per_score = weight / z;
    for (int64_t e = 0; e < num_experts; ++e) ds[e] += per_score * (fraction[e] - shift);
  });
}

}  // namespace fathom::cpu
