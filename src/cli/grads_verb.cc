// `fathom grads`: the gradient of the mean loss for every parameter, for oracles.
#include <memory>

#include "ckpt/load_model.h"
#include "cli/token_lists.h"
#include "cli/verbs.h"
#include "model/training_pass.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, tokens, out, precision = "fp32", balance_from = "unbiased_topk";
  double mtp_weight = 0, balance_weight = 0;
  int64_t threads = 0;
};

int run(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  const Policy& policy = policy_by_name(options.precision);
  const auto model = load_model(ctx, local_file_system(), options.model, policy);
  const ModelConfig& config = model->config();
  const auto lists = read_token_lists(options.tokens, config.vocab_size, /*equal_lengths=*/true);
  const int64_t B = static_cast<int64_t>(lists.size()), S = static_cast<int64_t>(lists[0].size());
  const int64_t depth = config.num_nextn_predict_layers;
  if (S > model->max_positions() || S <= depth + 1) {
    throw_bad_input({options.tokens, "", fmt::format("lists of {} ids", S),
                     fmt::format("{} to {} for this model", depth + 2, model->max_positions()),
                     ""});
  }
  std::vector<int32_t> tokens;
  for (const auto& list : lists) tokens.insert(tokens.end(), list.begin(), list.end());
  const TokenBatch batch{.num_rows = B, .context = S, .row_length = S, .tokens = tokens.data()};

  const LossSums counts = count_labels(config, batch);
  LossScales scales{.main = 1.0 / static_cast<double>(counts.num_main),
                    .balance = options.balance_weight,
                    .balance_from_routing = options.balance_from == "routed"};
  for (int64_t k = 0; k < depth; ++k) {
    scales.mtp[k] =
        options.mtp_weight / static_cast<double>(depth) / static_cast<double>(counts.num_mtp[k]);
  }
  ParameterSet gradients("gradients", parameter_specs(config), policy.gradient_dtypes());
  TrainingPass pass(*model, B, S);
  const LossSums sums = pass.forward_backward(ctx, batch, scales, gradients);

  double losses[4] = {0, sums.main * scales.main, 0, sums.balance * scales.balance};
  for (int64_t k = 0; k < depth; ++k) losses[2] += sums.mtp[k] * scales.mtp[k];
  losses[0] = losses[1] + losses[2] + losses[3];
  std::vector<TensorView> outputs;
  const char* names[] = {"loss", "loss_main", "loss_mtp", "loss_balance"};
  for (int i = 0; i < 4; ++i) outputs.emplace_back(&losses[i], DType::kF64, Shape{}, names[i]);
  for (int64_t i = 0; i < gradients.size(); ++i) {
    if (gradients.spec(i).kind != ParameterKind::kRouterBias) outputs.push_back(gradients.view(i));
  }
  write_safetensors(local_file_system(), options.out, outputs);
  return kExitDone;
}

}  // namespace

Verb grads_verb() {
  auto options = std::make_shared<Options>();
  return {.name = "grads",
          .help = "gradient of the mean loss for every parameter, as a safetensors file",
          .declare =
              [options](CommandLine& line) {
                line.add_model(options->model);
                line.add("--tokens", options->tokens,
                         "JSON file: a list of equally long lists of token ids")
                    .required();
                line.add("--out", options->out,
                         "file to write: each parameter's gradient under its name, and loss")
                    .required();
                line.add("--mtp-weight", options->mtp_weight, "weight of the MTP loss (lambda)")
                    .at_least(0);
                line.add("--balance-weight", options->balance_weight,
                         "weight of the sequence-wise balance loss (alpha)")
                    .at_least(0);
                line.add("--balance-from", options->balance_from, "what the balance loss counts")
                    .one_of({"unbiased_topk", "routed"});
                line.add("--precision", options->precision, "format of weights and activations")
                    .one_of({"fp32", "bf16", "fp64"});
                line.add_threads(options->threads);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
