#include <cstring>
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/elements.h"
#include "kernels/ref/ref.h"

namespace fathom::ref {

// A stable counting sort of the (token, slot) pairs by expert.
void plan_dispatch(Context&, const DispatchPlan& p) {
  const int64_t num_tokens = p.idx_TA.dim(0), top_k = p.idx_TA.dim(1);
  std::fill(p.offsets, p.offsets + p.num_experts + 1, int64_t{0});
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t a = 0; a < top_k; ++a) {
      const int32_t e = i32_row(p.idx_TA, t)[a];
      FATHOM_CHECK(e >= 0 && e < p.num_experts, "expert {} of {} for token {}", e, p.num_experts,
                   t);
      ++p.offsets[e + 1];
    }
  }
  for (int64_t e = 0; e < p.num_experts; ++e) p.offsets[e + 1] += p.offsets[e];
  // offsets[e] serves as the cursor of expert e and ends as the offset of e + 1; shifted back
  // below.
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t a = 0; a < top_k; ++a) {
      const int64_t row = p.offsets[i32_row(p.idx_TA, t)[a]]++;
      p.token_U.as<int32_t>()[row] = static_cast<int32_t>(t);
      p.position_TA.as<int32_t>()[t * p.position_TA.stride[0] + a] = static_cast<int32_t>(row);
    }
  }
  for (int64_t e = p.num_experts; e > 0; --e) p.offsets[e] = p.offsets[e - 1];
  p.offsets[0] = 0;
}

void gather_rows(Context&, const GatherRowsParams& p) {
  for (int64_t u = 0; u < p.y_UD.dim(0); ++u) {
    const TensorView from = p.x_TD.at(p.token_U.as<int32_t>()[u]), to = p.y_UD.at(u);
    std::memcpy(to.data, from.data, static_cast<size_t>(from.num_bytes()));
  }
}

void combine_rows(Context&, const CombineRowsParams& p) {
  with_compute_type(p.y_TD.dtype == DType::kF64, [&]<typename C>(C) {
    for (int64_t t = 0; t < p.y_TD.dim(0); ++t) {
      const auto y = elements<C>(p.y_TD, t);
      for (int64_t d = 0; d < p.y_TD.dim(1); ++d) {
        C sum = p.accumulate ? y[d] : C(0);
        for (int64_t a = 0; a < p.position_TA.dim(1); ++a) {
          sum += elements<C>(p.x_UD, i32_row(p.position_TA, t)[a])[d];
        }
        y.set(d, sum);
      }
    }
  });
}

void embedding_forward(Context&, const EmbeddingForwardParams& p) {
  with_compute_type(p.y_TD.dtype == DType::kF64, [&]<typename C>(C) {
    for (int64_t t = 0; t < p.y_TD.dim(0); ++t) {
      const auto row = elements<C>(p.table_VD, p.ids_T[t]);
      const auto y = elements<C>(p.y_TD, t);
      for (int64_t d = 0; d < p.y_TD.dim(1); ++d) y.set(d, row[d]);
    }
  });
}

void embedding_backward(Context&, const EmbeddingBackwardParams& p) {
  with_compute_type(p.dtable_VD.dtype == DType::kF64, [&]<typename C>(C) {
    for (int64_t t = 0; t < p.dy_TD.dim(0); ++t) {
      const auto row = elements<C>(p.dtable_VD, p.ids_T[t]);
      const auto dy = elements<C>(p.dy_TD, t);
      for (int64_t d = 0; d < p.dy_TD.dim(1); ++d) row.set(d, row[d] + dy[d]);
    }
  });
}

// loss = log(sum_v exp(l_v)) - l_label;  dlogits = grad_scale (softmax(l) - onehot(label)).
void cross_entropy(Context&, const CrossEntropyParams& p) {
  with_compute_type(p.logits_TV.dtype == DType::kF64, [&]<typename C>(C) {
    const int64_t vocab = p.logits_TV.dim(1);
    for (int64_t t = 0; t < p.logits_TV.dim(0); ++t) {
      const auto logits = elements<C>(p.logits_TV, t);
      const auto dlogits = elements<C>(p.dlogits_TV, t);
      const int32_t label = p.labels_T[t];
      if (label < 0) {
        elements<C>(p.loss_T).set(t, C(0));
        if (!p.dlogits_TV.empty()) {
          for (int64_t v = 0; v < vocab; ++v) dlogits.set(v, C(0));
        }
        continue;
      }
      C largest = -std::numeric_limits<C>::infinity(), sum = 0;
      for (int64_t v = 0; v < vocab; ++v) largest = std::max(largest, logits[v]);
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[v] - largest);
      elements<C>(p.loss_T).set(t, std::log(sum) - (logits[label] - largest));
      if (p.dlogits_TV.empty()) continue;
      for (int64_t v = 0; v < vocab; ++v) {
        const C prob = std::exp(logits[v] - largest) / sum;
        dlogits.set(v, static_cast<C>(p.grad_scale) * (prob - (v == label ? C(1) : C(0))));
      }
    }
  });
}

}  // namespace fathom::ref
