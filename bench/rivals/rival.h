// What the comparison of matrix products (products.cc) knows of a rival library: how to prepare a
// product once and run it many times. Each library is one file, built only where the library is
// found; none is ever linked into the program.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/types.h"

namespace fathom::rivals {

// c[m,n] = a[m,k] b[n,k]^T. There may be several copies of b, so that a run finds its weights
// outside the caches.
struct Product {
  DType dtype = DType::kBF16;  // of all three; or f32
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;
  std::vector<const void*> b;
  void* c = nullptr;
};

// h = silu(x gate^T) * (x up^T), y = h down^T, by expert over its rows [offsets[e], offsets[e+1]).
// The weights of an expert lie as here: [gate | up] [2F, D], down [D, F]; everything in bf16.
struct Experts {
  int64_t num_experts = 0, hidden = 0, width = 0;
  // [E + 1] per copy: as many ways of cutting the same rows, so that a run that needs few experts
  // finds them outside the caches.
  std::vector<std::vector<int64_t>> offsets;
  const uint16_t *x_UD = nullptr, *gate_up_EXD = nullptr, *down_EDF = nullptr;
  uint16_t* y_UD = nullptr;
};

struct Rival {
  std::string name;  // with what it runs on: "openblas 0.3.21 SkylakeX"
  // Weights are packed here, where the library can. Empty: the library does not have it.
  std::function<std::function<void(int copy)>(const Product&)> product;
  std::function<std::function<void(int copy)>(const Experts&)> experts;
};

// Each sets its library to `threads` threads.
Rival onednn(int threads);
Rival openblas(int threads);

}  // namespace fathom::rivals
