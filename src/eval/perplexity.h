// Perplexity: exp of the mean negative log-probability of held-out tokens, each predicted once from
// what stands before it in its window. Runs over the inference cache, so that what is measured is
// what serving computes: its attention forms, its weight formats, its cache format.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/model.h"

namespace fathom {

struct PerplexityOptions {
  // Tokens of a window; a document that is longer is cut into windows that overlap by one token, so
  // that each token but a document's first is predicted once. 0: min(2048, the model's context).
  int64_t window_tokens = 0;
  DType cache_dtype = DType::kBF16;
  // Upper borders of the ranges of positions that are also reported apart, ascending; empty: none.
  std::vector<int64_t> position_borders;
  // A model with the same vocabulary to compare with, at every predicted token; null: none.
  const Model* reference = nullptr;
  std::function<void(int64_t done, int64_t total)> progress;  // tokens; may be empty
};

struct PerplexityResult {
  struct Range {
    int64_t begin = 0, end = 0;  // positions of the predicted token in its window
    int64_t num_tokens = 0;
    double loss_sum = 0;  // nats
  };
  int64_t num_documents = 0, num_windows = 0;
  int64_t num_tokens = 0;  // predicted
  double loss_sum = 0;     // nats
  std::vector<Range> ranges;

  // How far the model is from options.reference; zeros without one.
  struct Divergence {
    double reference_loss_sum = 0;        // nats
    double kl_sum = 0, largest_kl = 0;    // KL(reference, model) of a token, nats
    double largest_logit_difference = 0;  // over all entries of the vocabulary
    int64_t num_changed_choices = 0;      // tokens where another entry has the largest logit
  };
  Divergence divergence;

  double loss() const { return loss_sum / static_cast<double>(num_tokens); }
  double perplexity() const;
};

// Documents of token ids, begin token included. Documents of fewer than two tokens predict nothing;
// no token at all to predict is an Error, and so is an id out of range.
PerplexityResult perplexity(Context& ctx, const Model& model,
                            const std::vector<std::vector<int32_t>>& documents,
                            const PerplexityOptions& options = {});

}  // namespace fathom
