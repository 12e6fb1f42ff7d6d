// `fathom logits`: what the model thinks of given tokens, for oracles.
#include <memory>

#include "ckpt/load_model.h"
#include "cli/token_lists.h"
#include "cli/verbs.h"
#include "model/training_pass.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, tokens, out, precision = "fp32";
  int64_t threads = 0;
};

int run(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  const Policy& policy = policy_by_name(options.precision);
  const auto model = load_model(ctx, local_file_system(), options.model, policy);
  const ModelConfig& config = model->config();
  const auto lists = read_token_lists(options.tokens, config.vocab_size, /*equal_lengths=*/true);
  const int64_t B = static_cast<int64_t>(lists.size()), S = static_cast<int64_t>(lists[0].size()),
                V = config.vocab_size;
  const int64_t depth = config.num_nextn_predict_layers;
  if (S > model->max_positions() || S <= depth) {
    throw_bad_input({options.tokens, "", fmt::format("lists of {} ids", S),
                     fmt::format("{} to {} for this model", depth + 1, model->max_positions()),
                     ""});
  }
  std::vector<int32_t> tokens;
  for (const auto& list : lists) tokens.insert(tokens.end(), list.begin(), list.end());

  std::vector<std::string> names{"logits"};
  std::vector<TensorView> outputs, flat;
  for (int64_t k = 1; k <= depth; ++k) names.push_back(fmt::format("mtp_logits_{}", k));
  const Arena memory = measured_arena("logits", [&](Arena& arena) {
    outputs.clear();
    for (int64_t k = 0; k <= depth; ++k) {
      outputs.push_back(
          arena.allocate(policy.small, Shape{B, S - k, V}, names[static_cast<size_t>(k)].c_str()));
    }
  });
  for (const TensorView& output : outputs) flat.push_back(output.as_matrix());
  TrainingPass pass(*model, B, S);
  pass.logits(ctx, {.num_rows = B, .context = S, .row_length = S, .tokens = tokens.data()}, flat[0],
              {flat.begin() + 1, flat.end()});
  write_safetensors(local_file_system(), options.out, outputs);
  return kExitDone;
}

}  // namespace

Verb logits_verb() {
  auto options = std::make_shared<Options>();
  return {.name = "logits",
          .help = "logits for given token ids, as a safetensors file",
          .declare =
              [options](CommandLine& line) {
                line.add_model(options->model);
                line.add("--tokens", options->tokens,
                         "JSON file: a list of equally long lists of token ids")
                    .required();
                line.add("--out", options->out,
                         "file to write: logits [B, S, V], and mtp_logits_k [B, S-k, V]")
                    .required();
                line.add("--precision", options->precision, "format of weights and activations")
                    .one_of({"fp32", "bf16", "fp64"});
                line.add_threads(options->threads);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
