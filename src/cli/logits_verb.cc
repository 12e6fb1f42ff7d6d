// `fathom logits`: what the model thinks of given tokens, for oracles.
#include <memory>

#include "cli/model_loading.h"
#include "cli/policy_table.h"
#include "cli/verbs.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, tokens, out, precision = "fp32";
  int64_t threads = 0;
  bool print_policy = false;
};

int run(const Options& options) {
  if (options.print_policy) {
    fmt::print("{}", policy_table(policy_by_name(options.precision)));
    return kExitDone;
  }
  Context ctx(static_cast<int>(options.threads));
  const auto model = open_model(ctx, options.model, options.precision);
  const TokenRows rows = read_token_rows(options.tokens, *model, /*min_labels=*/1);
  const int64_t B = rows.num_rows, S = rows.row_length, V = model->config().vocab_size;
  const int64_t depth = model->config().num_nextn_predict_layers;

  std::vector<std::string> names{"logits"};
  std::vector<TensorView> outputs, flat;
  for (int64_t k = 1; k <= depth; ++k) names.push_back(fmt::format("mtp_logits_{}", k));
  const Arena memory = measured_arena("logits", [&](Arena& arena) {
    outputs.clear();
    for (int64_t k = 0; k <= depth; ++k) {
      outputs.push_back(arena.allocate(model->policy().small, Shape{B, S - k, V},
                                       names[static_cast<size_t>(k)].c_str()));
    }
  });
  for (const TensorView& output : outputs) flat.push_back(output.as_matrix());
  TrainingPass pass(*model, B, S);
  pass.logits(ctx, rows.batch(), flat[0], {flat.begin() + 1, flat.end()});
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
                    .one_of(policy_names());
                line.add("--print-policy", options->print_policy,
                         "print every role's number format and scaling, and end");
                line.add_threads(options->threads);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
