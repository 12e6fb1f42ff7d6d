// `fathom eval perplexity`: how well a model predicts held-out text.
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>

#include "cli/live_panel.h"
#include "cli/model_loading.h"
#include "cli/verbs.h"
#include "core/json.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/perplexity.h"
#include "eval/texts.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, data, field = "text", precision = "bf16";
  std::string reference, reference_precision = "bf16";
  int64_t window = 0, threads = 0;
  bool json = false, by_position = false, quiet = false;
};

// 64, 128, 256 ... up to the window.
std::vector<int64_t> borders(int64_t window) {
  std::vector<int64_t> result;
  for (int64_t border = 64; border < window; border *= 2) result.push_back(border);
  result.push_back(window);
  return result;
}

int run(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  const auto model = open_model(ctx, options.model, options.precision, /*skip_mtp=*/true);
  std::unique_ptr<Model> reference;
  if (!options.reference.empty()) {
    reference = open_model(ctx, options.reference, options.reference_precision, /*skip_mtp=*/true);
  }
  const Tokenizer tokenizer = Tokenizer::load(local_file_system(), options.model);
  int64_t num_bytes = 0;
  std::vector<std::vector<int32_t>> documents;
  for (const std::string& text : read_texts(local_file_system(), options.data, options.field)) {
    std::vector<int32_t>& tokens = documents.emplace_back();
    if (tokenizer.special().bos != kNoToken) tokens.push_back(tokenizer.special().bos);
    tokenizer.encode(text, {}, tokens);
    num_bytes += static_cast<int64_t>(text.size());
  }
  const int64_t window =
      options.window > 0 ? options.window : std::min<int64_t>(2048, model->max_positions());
  PerplexityOptions perplexity_options{.window_tokens = window, .reference = reference.get()};
  if (options.by_position) perplexity_options.position_borders = borders(window);
  LivePanel panel(stderr);
  if (!options.quiet) {
    perplexity_options.progress = [&](int64_t done, int64_t total) {
      const std::string text = fmt::format("{}/{} tokens", done, total);
      panel.update([&] { return std::vector<std::string>{text}; }, text);
    };
  }
  const PerplexityResult result = perplexity(ctx, *model, documents, perplexity_options);
  panel.finish();
  const auto num_tokens = static_cast<double>(result.num_tokens);
  const PerplexityResult::Divergence& divergence = result.divergence;
  const double changed = static_cast<double>(divergence.num_changed_choices) / num_tokens,
               reference_loss = divergence.reference_loss_sum / num_tokens;
  const double bits_per_byte = result.loss_sum / std::numbers::ln2 / static_cast<double>(num_bytes);
  if (options.json) {
    Json json{{"perplexity", result.perplexity()},
              {"loss", result.loss()},
              {"bits_per_byte", bits_per_byte},
              {"tokens", result.num_tokens},
              {"documents", result.num_documents},
              {"bytes", num_bytes},
              {"window", window},
              {"precision", options.precision}};
    if (reference != nullptr) {
      json["reference"] = {{"model", options.reference},
                           {"precision", options.reference_precision},
                           {"loss", reference_loss},
                           {"perplexity", std::exp(reference_loss)},
                           {"kl_mean", divergence.kl_sum / num_tokens},
                           {"kl_largest", divergence.largest_kl},
                           {"changed_choices", changed},
                           {"largest_logit_difference", divergence.largest_logit_difference}};
    }
    for (const PerplexityResult::Range& range : result.ranges) {
      if (range.num_tokens == 0) continue;
      json["by_position"].push_back(
          {{"from", range.begin},
           {"to", range.end},
           {"tokens", range.num_tokens},
           {"loss", range.loss_sum / static_cast<double>(range.num_tokens)}});
    }
    fmt::print("{}\n", json.dump());
    return kExitDone;
  }
  fmt::print(
      "perplexity {:.4f}  loss {:.5f} nats a token, {:.4f} bits a byte  ({} tokens of {} "
      "documents, windows of {})\n",
      result.perplexity(), result.loss(), bits_per_byte, result.num_tokens, result.num_documents,
      window);
  if (reference != nullptr) {
    fmt::print(
        "against {} ({}): perplexity {:+.3f} %, KL divergence {:.3g} nats a token (largest "
        "{:.3g}), "
        "another first choice at {:.2f} % of the tokens, logits differ by {:.3g} at most\n",
        options.reference, options.reference_precision,
        100 * std::expm1(result.loss() - reference_loss), divergence.kl_sum / num_tokens,
        divergence.largest_kl, 100 * changed, divergence.largest_logit_difference);
  }
  for (const PerplexityResult::Range& range : result.ranges) {
    if (range.num_tokens == 0) continue;
    fmt::print("  positions {:>6} to {:>6}: loss {:.5f}  ({} tokens)\n", range.begin, range.end - 1,
               range.loss_sum / static_cast<double>(range.num_tokens), range.num_tokens);
  }
  return kExitDone;
}

}  // namespace

Verb eval_perplexity_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "eval perplexity",
      .help = "how well a model predicts held-out text",
      .declare =
          [options](CommandLine& line) {
            line.add_model(options->model);
            line.add("--data", options->data, "text or JSONL file, or a folder of them").required();
            line.add("--field", options->field, "the field of a JSON line that holds the text");
            line.add("--window", options->window,
                     "tokens that a prediction sees at most (0: 2048, or the context)");
            line.add("--by-position", options->by_position,
                     "also the loss by position in the window");
            line.add("--precision", options->precision, "format of weights and activations")
                .one_of(inference_policy_names());
            line.add("--reference", options->reference,
                     "a second model, with the same tokens, to measure the distance to: what a "
                     "quantisation costs");
            line.add("--reference-precision", options->reference_precision,
                     "format of the second model")
                .one_of(inference_policy_names());
            line.add_threads(options->threads);
            line.add_quiet(options->quiet);
            line.add_json(options->json);
          },
      .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
