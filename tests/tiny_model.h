// A tiny V3 with every mechanism on, for tests across modules.
#pragma once

#include <cstdint>
#include <vector>

#include "core/random.h"
#include "model/model.h"
#include "model/training_pass.h"

namespace fathom::testing_models {

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 67;
  c.hidden_size = 48;
  c.num_hidden_layers = 4;
  c.num_attention_heads = 3;
  c.q_lora_rank = 24;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 16;
  c.intermediate_size = 64;
  c.moe_intermediate_size = 24;
  c.n_routed_experts = 16;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 4;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 2;
  c.num_nextn_predict_layers = 1;
  c.max_position_embeddings = 256;
  c.initializer_range = 0.15;
  return c;
}

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocab_size, uint64_t seed) {
  const Random random(seed, RandomPurpose::kTest);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(vocab_size)));
  return tokens;
}

// B rows of S positions with all labels.
inline TokenBatch full_batch(const ModelConfig& config, const std::vector<int32_t>& tokens,
                             int64_t rows, int64_t context) {
  return {.num_rows = rows,
          .context = context,
          .row_length = context + 1 + config.num_nextn_predict_layers,
          .tokens = tokens.data()};
}

inline LossScales mean_scales(const ModelConfig& config, const TokenBatch& batch, double lambda,
                              double alpha) {
  const LossSums counts = count_labels(config, batch);
  LossScales scales{.main = 1.0 / static_cast<double>(counts.num_main), .balance = alpha};
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k)
    scales.mtp[k] = lambda / static_cast<double>(counts.num_mtp[k]);
  return scales;
}

}  // namespace fathom::testing_models
