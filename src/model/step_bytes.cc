#include "model/step_bytes.h"

#include <algorithm>

namespace fathom {

// Packed operands, lists of rows, the logits of a few sequences.
static constexpr int64_t kSmallBytes = int64_t{1} << 20;

int64_t step_scratch_bytes(const ModelConfig& c, const Policy& policy, const StepSize& size) {
  const int64_t act = dtype_bytes(policy.activations), wide = dtype_bytes(policy.residual);
  const int64_t H = c.num_attention_heads, D = c.hidden_size;
  const int64_t kv = c.qk_nope_head_dim + c.v_head_dim;
  const int64_t attention = act * (D + 2 * c.q_lora_rank + 2 * c.kv_lora_rank + c.qk_rope_head_dim +
                                   H * (c.qk_head_dim() + c.v_head_dim));
  const int64_t expanded = std::min(kExpandedBytes, size.context_tokens * H * kv * act) +
                           size.context_tokens * (c.kv_lora_rank + c.qk_rope_head_dim) * act;
  // Rows gathered and results, gate and up, their product; and a copy of the wider product's rows.
  const int64_t A = c.num_experts_per_tok, F = c.moe_intermediate_size;
  const int64_t copied = size.scaled_weights ? std::max(D, F) : 0;
  const int64_t experts =
      act * (A * (2 * D + 3 * F + copied) + 3 * c.n_shared_experts * F) + 8 * c.n_routed_experts;
  const int64_t dense = act * 3 * c.intermediate_size;
  return kSmallBytes + size.num_tokens * (wide * D + act * D) +
         std::max(size.num_tokens * attention + expanded,
                  size.num_tokens * std::max(experts, dense));
}

}  // namespace fathom
