#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "core/error.h"
#include "infer/latent_cache.h"
#include "kernels/kernels.h"

namespace fathom {
namespace {

// Tokens of one call: enough for products to run well, few enough for their logits to fit.
constexpr int64_t kScoredTokens = 256;

struct Window {
  std::span<const int32_t> tokens;  // the last one is predicted only
};

std::vector<Window> cut_windows(const std::vector<std::vector<int32_t>>& documents,
                                int64_t window_tokens) {
  std::vector<Window> windows;
  for (const std::vector<int32_t>& document : documents) {
    const auto size = static_cast<int64_t>(document.size());
    for (int64_t begin = 0; begin + 1 < size; begin += window_tokens - 1) {
      windows.push_back({std::span(document).subspan(
          static_cast<size_t>(begin), static_cast<size_t>(std::min(window_tokens, size - begin)))});
    }
  }
  return windows;
}

// A model and the caches of a call's windows in it.
class Reader {
 public:
  Reader(Context& ctx, const Model& model, DType cache_dtype)
      : ctx_(ctx),
        model_(model),
        layout_(CacheLayout::of(model.config(), cache_dtype, /*with_mtp=*/false)) {}

  void begin_window(int64_t num_tokens) {
    caches_.push_back(std::make_unique<LatentCache>(layout_, num_tokens));
  }
  // The next tokens of the last window.
  void add(std::span<const int32_t> tokens) {
    SequenceInput input = caches_.back()->input(tokens);
    input.num_logits = static_cast<int64_t>(tokens.size());
    inputs_.push_back(input);
    caches_.back()->advance(input.num_logits);
    num_tokens_ += input.num_logits;
  }
  // Logits of all tokens added since the last call, [tokens, vocabulary], on the context's scratch.
  TensorView run() {
    const TensorView logits = ctx_.scratch().allocate(
        DType::kF32, Shape{num_tokens_, model_.config().vocab_size}, "perplexity.logits");
    forward_cached(ctx_, model_, layout_, inputs_, {.logits_LV = logits});
    inputs_.clear();
    num_tokens_ = 0;
    return logits;
  }
  void end_windows(bool keep_last) {
    caches_.erase(caches_.begin(), caches_.end() - (keep_last ? 1 : 0));
  }

 private:
  Context& ctx_;
  const Model& model_;
  CacheLayout layout_;
  std::vector<std::unique_ptr<LatentCache>> caches_;  // of the windows of this call
  std::vector<SequenceInput> inputs_;
  int64_t num_tokens_ = 0;
};

struct RowDivergence {
  double kl = 0, largest_difference = 0;
  bool changed_choice = false;
};
RowDivergence divergence_of(const float* reference, const float* model, int64_t V) {
  const auto log_sum = [&](const float* row, float largest) {
    double sum = 0;
    for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(row[v] - largest));
    return static_cast<double>(largest) + std::log(sum);
  };
  const float *first = std::max_element(reference, reference + V),
              *other_first = std::max_element(model, model + V);
  const double log_z = log_sum(reference, *first), other_log_z = log_sum(model, *other_first);
  RowDivergence d;
  d.changed_choice = first - reference != other_first - model;
  for (int64_t v = 0; v < V; ++v) {
    const double x = static_cast<double>(reference[v]), y = static_cast<double>(model[v]);
    d.kl += std::exp(x - log_z) * (x - log_z - (y - other_log_z));
    d.largest_difference = std::max(d.largest_difference, std::fabs(x - y));
  }
  return d;
}

// Calls of up to kScoredTokens tokens: windows side by side, long ones in pieces.
class Scorer {
 public:
  Scorer(Context& ctx, const Model& model, const PerplexityOptions& options,
         PerplexityResult& result)
      : ctx_(ctx), result_(result) {
    readers_.emplace_back(ctx, model, options.cache_dtype);
    if (options.reference != nullptr)
      readers_.emplace_back(ctx, *options.reference, options.cache_dtype);
  }

  void add(const Window& window) {
    const auto count = static_cast<int64_t>(window.tokens.size()) - 1;
    for (Reader& reader : readers_) reader.begin_window(count);
    for (int64_t begin = 0; begin < count;) {
      const int64_t piece = std::min(count - begin, kScoredTokens - num_pending());
      for (Reader& reader : readers_) {
        reader.add(window.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(piece)));
      }
      for (int64_t i = 1; i <= piece; ++i) {
        labels_.push_back(window.tokens[static_cast<size_t>(begin + i)]);
        positions_.push_back(begin + i);
      }
      begin += piece;
      if (num_pending() == kScoredTokens) run(/*keep_last=*/begin < count);
    }
  }

  void finish() { run(false); }

 private:
  int64_t num_pending() const { return static_cast<int64_t>(labels_.size()); }

  void run(bool keep_last) {
    if (num_pending() > 0) {
      Scratch::Mark mark(ctx_.scratch());
      const TensorView logits = readers_[0].run();
      const TensorView loss = losses(logits);
      for (int64_t i = 0; i < num_pending(); ++i)
        count(positions_[static_cast<size_t>(i)], static_cast<double>(loss.as<float>()[i]));
      if (readers_.size() > 1) compare(readers_[1].run(), logits);
    }
    labels_.clear();
    positions_.clear();
    for (Reader& reader : readers_) reader.end_windows(keep_last);
  }

  TensorView losses(const TensorView& logits) {
    const TensorView loss =
        ctx_.scratch().allocate(DType::kF32, Shape{num_pending()}, "perplexity.loss");
    cross_entropy(ctx_, {.logits_TV = logits, .labels_T = labels_.data(), .loss_T = loss});
    return loss;
  }

  void compare(const TensorView& reference, const TensorView& model) {
    const int64_t V = model.dim(1);
    std::vector<RowDivergence> rows(labels_.size());
    ctx_.threads().parallel_for(num_pending(), [&](int64_t i, int) {
      rows[static_cast<size_t>(i)] =
          divergence_of(reference.as<float>() + i * V, model.as<float>() + i * V, V);
    });
    PerplexityResult::Divergence& d = result_.divergence;
    for (const RowDivergence& row : rows) {
      d.kl_sum += row.kl;
      d.largest_kl = std::max(d.largest_kl, row.kl);
      d.largest_logit_difference = std::max(d.largest_logit_difference, row.largest_difference);
      d.num_changed_choices += row.changed_choice ? 1 : 0;
    }
    const TensorView loss = losses(reference);
    for (int64_t i = 0; i < num_pending(); ++i)
      d.reference_loss_sum += static_cast<double>(loss.as<float>()[i]);
  }

  void count(int64_t position, double loss) {
    ++result_.num_tokens;
    result_.loss_sum += loss;
    for (PerplexityResult::Range& range : result_.ranges) {
      if (position < range.begin || position >= range.end) continue;
      ++range.num_tokens;
      range.loss_sum += loss;
    }
  }

  Context& ctx_;
  PerplexityResult& result_;
  std::vector<Reader> readers_;  // the model, and its reference if there is one
  std::vector<int32_t> labels_;
  std::vector<int64_t> positions_;  // of the labels
};

}  // namespace

double PerplexityResult::perplexity() const { return std::exp(loss()); }

PerplexityResult perplexity(Context& ctx, const Model& model,
                            const std::vector<std::vector<int32_t>>& documents,
                            const PerplexityOptions& options) {
  const int64_t window_tokens = options.window_tokens > 0
                                    ? options.window_tokens
                                    : std::min<int64_t>(2048, model.max_positions());
  if (window_tokens < 2 || window_tokens > model.max_positions() + 1) {
    fail(ErrorKind::kUsage, "window: found {}, expected 2 to {} tokens", window_tokens,
         model.max_positions() + 1);
  }
  if (options.reference != nullptr) {
    const int64_t found = options.reference->config().vocab_size,
                  expected = model.config().vocab_size;
    if (found != expected) {
      throw_bad_input({"the reference model", "vocab_size", fmt::format("{}", found),
                       fmt::format("{}, as of the model", expected), ""});
    }
    if (window_tokens > options.reference->max_positions() + 1) {
      fail(ErrorKind::kUsage, "window: found {}, expected 2 to {} tokens, for the reference model",
           window_tokens, options.reference->max_positions() + 1);
    }
  }
  for (size_t d = 0; d < documents.size(); ++d) {
    for (const int32_t token : documents[d]) {
      if (token < 0 || token >= model.config().vocab_size) {
        throw_bad_input({fmt::format("document {}", d), "", fmt::format("token id {}", token),
                         fmt::format("0 to {}", model.config().vocab_size - 1), ""});
      }
    }
  }
  PerplexityResult result;
  result.num_documents = static_cast<int64_t>(documents.size());
  int64_t begin = 1;
  for (const int64_t border : options.position_borders) {
    if (border <= begin) fail(ErrorKind::kUsage, "position borders must ascend from 2 on");
    result.ranges.push_back({.begin = begin, .end = border});
    begin = border;
  }
  const std::vector<Window> windows = cut_windows(documents, window_tokens);
  int64_t total = 0;
  for (const Window& window : windows) total += static_cast<int64_t>(window.tokens.size()) - 1;
  if (total == 0)
    throw_bad_input({"documents", "", "no token to predict", "two tokens in one document", ""});
  Scorer scorer(ctx, model, options, result);
  for (const Window& window : windows) {
    scorer.add(window);
    if (options.progress) options.progress(result.num_tokens, total);
  }
  scorer.finish();
  result.num_windows = static_cast<int64_t>(windows.size());
  return result;
}

}  // namespace fathom
