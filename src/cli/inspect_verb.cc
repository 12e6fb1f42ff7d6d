// `fathom inspect`: what a model folder is, from headers alone.
#include <memory>

#include "ckpt/fit.h"
#include "ckpt/inspect.h"
#include "cli/verbs.h"
#include "core/json.h"

namespace fathom::cli {

namespace {

struct Options {
  std::string model, precision = "bf16", use = "generate";
  int64_t context = 0;
  bool json = false, here = false;
};

int run_inspect(const Options& options) {
  const ModelSummary summary = inspect_model(local_file_system(), options.model);
  const bool here = options.here && summary.problems.empty();
  InferenceFit fit;
  if (here) {
    fit = inference_fit(local_file_system(), options.model, policy_by_name(options.precision),
                        {.context_tokens = options.context, .panels = options.use == "serve"});
  }
  if (options.json) {
    Json json = parse_json(summary_json(summary), "summary");
    if (here) json["here"] = parse_json(fit_json(fit), "fit");
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{}{}", summary_text(summary), here ? fit_text(fit) : "");
  }
  return summary.problems.empty() && (!here || fit.fits) ? kExitDone : kExitFailed;
}

}  // namespace

Verb inspect_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "inspect",
      .help = "what a model folder is, how large, and whether it fits here (reads headers only)",
      .declare =
          [options](CommandLine& line) {
            line.add("--model", options->model, "model folder, a config.json or a GGUF file")
                .required();
            line.add("--here", options->here,
                     "what generating with it takes on this machine, and what would make it fit");
            line.add("--context", options->context,
                     "with --here: tokens of prompt and answer (0: 4096, or the model's context)");
            line.add("--precision", options->precision, "with --here: of generate")
                .one_of(inference_policy_names());
            line.add("--use", options->use,
                     "with --here: generate (and the other verbs that use weights where they lie), "
                     "or serve (and chat and bench, which bring them into panels)")
                .one_of({"generate", "serve"});
            line.add_json(options->json);
          },
      .run = [options] { return run_inspect(*options); }};
}

}  // namespace fathom::cli
