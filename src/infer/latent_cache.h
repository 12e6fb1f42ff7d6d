// The latent cache of one sequence: per layer and token the normed latent and the rotated key, C +
// R values (report section 2.1.1), for as many tokens as were asked for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "model/config.h"
#include "model/policy.h"

namespace fathom {

class LatentCache {
 public:
  LatentCache(const ModelConfig& config, const Policy& policy, int64_t capacity_tokens);

  std::span<const TensorView> layers() const { return layers_; }
  int64_t capacity_tokens() const { return capacity_tokens_; }
  int64_t num_cached() const { return num_cached_; }
  void advance(int64_t num_tokens);
  void truncate(int64_t num_tokens);  // forget what lies behind

  // What a cache of this size takes: 2 (C + R) bytes a token and layer in bf16.
  static int64_t bytes_for(const ModelConfig& config, const Policy& policy,
                           int64_t capacity_tokens);

 private:
  int64_t capacity_tokens_;
  int64_t num_cached_ = 0;
  std::vector<TensorView> layers_;
  Arena memory_;
};

}  // namespace fathom
