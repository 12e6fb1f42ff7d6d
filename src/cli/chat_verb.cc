// `fathom chat`: talk to a model in the terminal.
#include <memory>

#include "ckpt/gguf_tokenizer.h"
#include "cli/chat_loop.h"
#include "cli/model_loading.h"
#include "cli/sampling_options.h"
#include "cli/verbs.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string model, system, precision = "bf16";
  SamplingArguments sampling;
  double expert_memory = 0;  // GB
  int64_t threads = 0;
};

int run(const Options& options) {
  validate(options.sampling.options().sampling);
  Context ctx(static_cast<int>(options.threads));
  const auto model = open_model(ctx, options.model, options.precision, /*skip_mtp=*/true,
                                ModelUse::kLongInference, options.expert_memory);
  ChatSession session(ctx, *model, load_tokenizer(local_file_system(), options.model),
                      options.sampling.options(), options.system);
  chat_loop(session);
  return kExitDone;
}

}  // namespace

Verb chat_verb() {
  auto options = std::make_shared<Options>();
  options->sampling.temperature = 0.6;
  options->sampling.top_p = 0.95;
  return {.name = "chat",
          .help = "talk in the terminal",
          .declare =
              [options](CommandLine& line) {
                line.add_model(options->model);
                line.add("--system", options->system, "system message");
                options->sampling.declare(line);
                line.add("--precision", options->precision, "format of weights and activations")
                    .one_of(inference_policy_names());
                declare_expert_memory(line, options->expert_memory);
                line.add_threads(options->threads);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
