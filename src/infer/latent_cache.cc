#include "infer/latent_cache.h"

namespace fathom {
namespace {

void allocate_layers(Arena& arena, const ModelConfig& config, const Policy& policy,
                     int64_t capacity_tokens, std::vector<TensorView>& layers) {
  layers.clear();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers.push_back(arena.allocate(
        policy.latent_cache, Shape{capacity_tokens, config.kv_lora_rank + config.qk_rope_head_dim},
        "latent_cache_SX", /*packed=*/true));
  }
}

}  // namespace

LatentCache::LatentCache(const ModelConfig& config, const Policy& policy, int64_t capacity_tokens)
    : capacity_tokens_(capacity_tokens), memory_(measured_arena("latent cache", [&](Arena& arena) {
        allocate_layers(arena, config, policy, capacity_tokens, layers_);
      })) {}

int64_t LatentCache::bytes_for(const ModelConfig& config, const Policy& policy,
                               int64_t capacity_tokens) {
  Arena measure("latent cache");
  std::vector<TensorView> layers;
  allocate_layers(measure, config, policy, capacity_tokens, layers);
  return measure.used_bytes();
}

void LatentCache::advance(int64_t num_tokens) {
  FATHOM_CHECK_LE(num_cached_ + num_tokens, capacity_tokens_, "latent cache");
  num_cached_ += num_tokens;
}

void LatentCache::truncate(int64_t num_tokens) {
  FATHOM_CHECK(num_tokens >= 0 && num_tokens <= num_cached_, "truncating {} cached tokens to {}",
               num_cached_, num_tokens);
  num_cached_ = num_tokens;
}

}  // namespace fathom
