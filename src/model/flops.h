// Floating-point operations of the matrix products of one token, counted as PaLM does for model
// FLOP utilisation: multiply and add are two, backward is twice forward, nothing recomputed, no
// norms or softmax. Attention counts the keys that a causal row really has, (S + 1) / 2 on average.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace fathom {

struct FlopCount {
  double attention_projections = 0;
  double attention_scores = 0;  // q k^T and p v
  double feed_forward = 0;      // dense, shared and routed experts, router
  double mtp = 0;               // everything of the MTP modules, heads included
  double head = 0;
  double total() const {
    return attention_projections + attention_scores + feed_forward + mtp + head;
  }
};

FlopCount forward_flops_per_token(const ModelConfig& config, int64_t context);
inline double training_flops_per_token(const ModelConfig& config, int64_t context) {
  return 3 * forward_flops_per_token(config, context).total();
}

}  // namespace fathom
