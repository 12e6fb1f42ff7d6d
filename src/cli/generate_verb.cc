// `fathom generate`: complete a prompt.
#include <cstdio>
#include <memory>

#include "ckpt/gguf_tokenizer.h"
#include "cli/model_loading.h"
#include "cli/reply_form.h"
#include "cli/sampling_options.h"
#include "cli/token_lists.h"
#include "cli/verbs.h"
#include "core/json.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unicode.h"
#include "infer/stop_strings.h"

namespace fathom::cli {
namespace {

constexpr int64_t kMaxDraft = 2;

struct Options {
  std::string model, tokens, prompt, precision = "bf16", speculate = "on";
  SamplingArguments sampling;
  ReplyForm form;
  int64_t threads = 0;
  double expert_memory = 0;  // GB
  bool json = false, ignore_eos = false;

  bool speculates() const { return speculate == "on"; }
  GenerateEngine engine() const { return {.max_draft = speculates() ? kMaxDraft : 0}; }
};

Json counts_json(const RequestUsage& usage) {
  return Json{{"drafted", usage.drafted_tokens}, {"accepted", usage.accepted_tokens}};
}

int run_tokens(Context& ctx, const Model& model, const Options& options,
               const GenerateOptions& generation) {
  Json results = Json::array(), reasons = Json::array();
  RequestUsage sum;
  const auto prompts =
      read_token_lists(options.tokens, model.config().vocab_size, /*equal_lengths=*/false);
  for (const GenerateResult& result :
       generate_all(ctx, model, prompts, generation, options.engine())) {
    results.push_back(result.tokens);
    reasons.push_back(finish_name(result.finish_reason));
    sum.drafted_tokens += result.usage.drafted_tokens;
    sum.accepted_tokens += result.usage.accepted_tokens;
  }
  if (options.json) {
    Json json = counts_json(sum);
    json["tokens"] = results;
    json["finish_reasons"] = reasons;
    fmt::print("{}\n", json.dump());
  } else {
    for (const Json& ids : results) fmt::print("{}\n", ids.dump());
  }
  return kExitDone;
}

int run_text(Context& ctx, const Model& model, const Options& options, GenerateOptions generation,
             const Automaton* language) {
  const Tokenizer tokenizer = load_tokenizer(local_file_system(), options.model);
  generation.sampling.num_token_ids = tokenizer.vocab_size();
  std::vector<int32_t> prompt;
  if (tokenizer.special().bos != kNoToken) prompt.push_back(tokenizer.special().bos);
  tokenizer.encode(options.prompt, {}, prompt);
  if (language != nullptr)
    generation.constraint = make_constraint(*language, tokenizer, generation.stop_tokens);
  StopMatcher matcher(options.form.stop);
  bool stopped = false;
  std::string text;
  const auto emit = [&](const std::string& bytes) {
    const std::string piece = utf8_with_replacement(bytes);
    text += piece;
    if (options.json || piece.empty()) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  };
  const GenerateResult result = generate(
      ctx, model, prompt, generation,
      [&](int32_t token) {
        std::string bytes;
        if (!tokenizer.is_special(token))
          stopped = matcher.push(tokenizer.token_bytes(token), bytes);
        emit(bytes);
        return !stopped;
      },
      options.engine());
  if (!stopped) {
    std::string rest;
    matcher.finish(rest);
    emit(rest);
  }
  if (options.json) {
    Json json = counts_json(result.usage);
    json["text"] = text;
    json["tokens"] = result.tokens;
    json["finish_reason"] = finish_name(stopped ? FinishReason::kStop : result.finish_reason);
    if (stopped) json["stop"] = options.form.stop[static_cast<size_t>(matcher.stop_idx())];
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("\n");
  }
  return kExitDone;
}

int run(const Options& options) {
  if (options.tokens.empty() == options.prompt.empty()) {
    fail(ErrorKind::kUsage, "generate: give either --prompt TEXT or --tokens FILE");
  }
  const GenerateOptions base = options.sampling.options();
  validate(base.sampling);
  if (!options.form.is_free() && options.prompt.empty()) {
    fail(ErrorKind::kUsage,
         "generate: --stop, --regex, --choice, --json-object and --json-schema are about text: "
         "give --prompt, not --tokens");
  }
  if (options.form.has_language() && options.ignore_eos)
    fail(ErrorKind::kUsage, "generate: a reply of a given form ends: leave out --ignore-eos");
  const auto language = options.form.language();
  Context ctx(static_cast<int>(options.threads));
  const auto model = open_model(ctx, options.model, options.precision,
                                /*skip_mtp=*/!options.speculates());
  const ExpertMemory experts(*model, options.expert_memory);
  GenerateOptions generation = base;
  if (!options.ignore_eos) {
    const ModelConfig& config = model->config();
    generation.stop_tokens.push_back(static_cast<int32_t>(config.eos_token_id));
    for (const int64_t id : config.more_eos_token_ids)
      generation.stop_tokens.push_back(static_cast<int32_t>(id));
  }
  return options.tokens.empty() ? run_text(ctx, *model, options, generation, language.get())
                                : run_tokens(ctx, *model, options, generation);
}

}  // namespace

Verb generate_verb() {
  auto options = std::make_shared<Options>();
  return {.name = "generate",
          .help = "complete a prompt",
          .declare =
              [options](CommandLine& line) {
                line.add_model(options->model);
                line.add("--prompt", options->prompt, "text to continue");
                line.add("--tokens", options->tokens, "JSON file of token ids to continue instead");
                options->sampling.declare(line);
                options->form.declare(line);
                line.add("--ignore-eos", options->ignore_eos, "go on behind the end token");
                line.add("--precision", options->precision, "format of weights and activations")
                    .one_of(inference_policy_names());
                line.add("--speculate", options->speculate,
                         "draft tokens with the MTP module; changes the speed alone")
                    .one_of({"on", "off"});
                declare_expert_memory(line, options->expert_memory);
                line.add_threads(options->threads);
                line.add_json(options->json);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
