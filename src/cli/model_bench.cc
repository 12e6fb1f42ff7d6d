#include "cli/model_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "ckpt/hf_folder.h"
#include "cli/model_loading.h"
#include "cli/stop_signal.h"
#include "cli/token_lists.h"
#include "core/file.h"
#include "core/json.h"
#include "infer/bench/engine_bench.h"
#include "model/config_json.h"
#include "model/synthetic.h"
#include "runtime/cpu.h"

namespace fathom::cli {
namespace {

std::unique_ptr<Model> make_model(Context& ctx, const ModelBenchArguments& a) {
  const bool speculate = a.speculate == "on";
  if (a.synthetic.empty())
    return open_model(ctx, a.model, a.precision, /*skip_mtp=*/!speculate, ModelUse::kLongInference);
  const ModelConfig config =
      parse_config_json(local_file_system().read_all(a.synthetic), a.synthetic);
  auto model = std::make_unique<Model>(config, policy_by_name(a.precision));
  fill_synthetic(ctx, *model, static_cast<uint64_t>(a.seed));
  if (!a.save.empty()) save_hf_folder(local_file_system(), a.save, config, model->weights());
  if (!has_loaded_panels(ctx.isa()) || model->policy().activations != DType::kBF16) return model;
  ParameterSet weights = std::move(model->weights());
  weights.to_panels(ctx, config);
  return std::make_unique<Model>(config, policy_by_name(a.precision), std::move(weights));
}

// Wherever they lie: in memory of their own or in mapped files.
int64_t weight_bytes(const ParameterSet& weights) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < weights.size(); ++i) {
    bytes += weights.view(i).num_bytes();
    if (weights.is_scaled(i)) bytes += weights.scaled(i).scales.num_bytes();
  }
  return bytes;
}

std::string model_name(const ModelBenchArguments& a) {
  return base_name(a.synthetic.empty() ? a.model : a.synthetic);
}

void print_serving(const ServingBenchResult& r, int64_t num_requests, bool json) {
  const char* kNames[] = {"p50", "p90", "p99"};
  if (json) {
    Json first, each;
    for (size_t i = 0; i < 3; ++i) {
      first[kNames[i]] = r.first_token_seconds[i];
      each[kNames[i]] = r.seconds_per_token[i];
    }
    fmt::print("{}\n", Json{{"requests", num_requests},
                            {"seconds", r.seconds},
                            {"output_tokens_per_second", r.output_tokens_per_second},
                            {"total_tokens_per_second", r.total_tokens_per_second},
                            {"first_token_seconds", first},
                            {"seconds_per_output_token", each},
                            {"preemptions", r.num_preemptions}}
                           .dump(1));
    return;
  }
  fmt::print(
      "{} requests in {:.1f} s: {:.1f} output tokens/s, {:.1f} tokens/s in all, {} "
      "preemptions\n",
      num_requests, r.seconds, r.output_tokens_per_second, r.total_tokens_per_second,
      r.num_preemptions);
  fmt::print("{:<26}", "");
  for (const char* name : kNames) fmt::print("{:>10}", name);
  fmt::print("\n{:<26}", "time to first token, ms");
  for (const double s : r.first_token_seconds) fmt::print("{:>10.1f}", s * 1e3);
  fmt::print("\n{:<26}", "time per token, ms");
  for (const double s : r.seconds_per_token) fmt::print("{:>10.2f}", s * 1e3);
  fmt::print("\n");
}

}  // namespace

void ModelBenchArguments::declare(CommandLine& line) {
  line.add("--model", model, "measure the engine on this checkpoint folder instead");
  line.add("--synthetic", synthetic,
           "measure the engine on a model of this config.json with made-up weights");
  line.add("--save", save,
           "also write the made-up model to this folder, so that others can run it");
  line.add("--precision", precision, "format of weights and activations")
      .one_of(inference_policy_names());
  line.add("--cache", cache, "format of the latent cache").one_of({"bf16", "fp32", "fp8"});
  line.add("--prompt-tokens", prompt_tokens, "length of prompts; 0: not measured").at_least(0);
  line.add("--gen-tokens", gen_tokens, "tokens decoded; 0: not measured").at_least(0);
  line.add("--depth", depth, "tokens before those that are decoded").at_least(0);
  line.add("--parallel", parallel, "sequences at once").at_least(1);
  line.add("--repetitions", repetitions, "of each test; the median counts").at_least(1);
  line.add("--speculate", speculate, "draft with the MTP module").one_of({"on", "off"});
  line.add("--draft", draft, "draft exactly so many tokens; 0: as many as pay")
      .between(0, static_cast<double>(DraftDepth::kMaxDepth));
  line.add("--tokens", tokens,
           "JSON file of token ids to decode behind, instead of random ones; with --requests: the "
           "prompts, in turns");
  line.add("--requests", requests, "requests that arrive one by one: waiting times instead")
      .at_least(0);
  line.add("--rate", rate, "of their arrival, a second; 0: all at once").at_least(0);
  line.add_seed(seed);
}

int run_model_bench(const ModelBenchArguments& a, int64_t threads, bool json) {
  if (!a.model.empty() && !a.synthetic.empty())
    fail(ErrorKind::kUsage, "bench: give either --model or --synthetic");
  if (!a.save.empty() && a.synthetic.empty())
    fail(ErrorKind::kUsage, "bench: --save goes with --synthetic");
  const StopSignal stop;
  Context ctx(static_cast<int>(threads));
  const auto model = make_model(ctx, a);
  std::vector<std::vector<int32_t>> prompts;
  if (!a.tokens.empty())
    prompts = read_token_lists(a.tokens, model->config().vocab_size, /*equal_lengths=*/false);
  const EngineBenchOptions options{.prompt_tokens = a.prompt_tokens,
                                   .gen_tokens = a.gen_tokens,
                                   .depth = a.depth,
                                   .parallel = a.parallel,
                                   .repetitions = a.repetitions,
                                   .seed = static_cast<uint64_t>(a.seed),
                                   .max_draft = a.speculate != "on" ? 0
                                                : a.draft > 0       ? a.draft
                                                                    : 2,
                                   .adapt_draft = a.draft == 0,
                                   .prompts = prompts,
                                   .cache_dtype = a.cache == "fp8"    ? DType::kE4M3
                                                  : a.cache == "fp32" ? DType::kF32
                                                                      : DType::kBF16,
                                   .stop = &StopSignal::flag()};
  if (a.requests > 0) {
    print_serving(run_serving_bench(ctx, *model,
                                    {.num_requests = a.requests, .rate = a.rate, .shape = options}),
                  a.requests, json);
    return StopSignal::flag() ? kExitSavedOnSignal : kExitDone;
  }
  const auto results = run_engine_bench(ctx, *model, options);
  const double gib = static_cast<double>(weight_bytes(model->weights())) / (1 << 30);
  const double params = static_cast<double>(count_parameters(model->config()).main_model) * 1e-9;
  if (json) {
    Json list = Json::array();
    for (const EngineBenchResult& r : results) {
      list.push_back({{"model", model_name(a)},
                      {"precision", a.precision},
                      {"isa", isa_name(ctx.isa())},
                      {"threads", ctx.threads().num_threads()},
                      {"test", r.test},
                      {"prompt_tokens", a.prompt_tokens},
                      {"gen_tokens", a.gen_tokens},
                      {"depth", a.depth},
                      {"parallel", a.parallel},
                      {"weight_bytes", weight_bytes(model->weights())},
                      {"tokens_per_second", r.median()},
                      {"samples", r.tokens_per_second},
                      {"drafted", r.usage.drafted_tokens},
                      {"accepted", r.usage.accepted_tokens},
                      {"one_token_seconds", r.stats.one_token_seconds},
                      {"two_token_seconds", r.stats.two_token_seconds},
                      {"draft_seconds", r.stats.draft_seconds}});
    }
    fmt::print("{}\n", list.dump(1));
  } else {
    fmt::print("| {:<24} | {:>9} | {:>8} | {:<10} | {:>7} | {:>16} | {:>18} |\n", "model", "size",
               "params", "backend", "threads", "test", "t/s");
    fmt::print("| {:-<24} | {:->8}: | {:->7}: | {:-<10} | {:->6}: | {:->15}: | {:->17}: |\n", "",
               "", "", "", "", "", "");
    for (const EngineBenchResult& r : results) {
      const auto [low, high] =
          std::minmax_element(r.tokens_per_second.begin(), r.tokens_per_second.end());
      fmt::print("| {:<24} | {:>5.2f} GiB | {:>6.2f} B | {:<10} | {:>7} | {:>16} | {:>18} |\n",
                 fmt::format("{} {}", model_name(a), a.precision), gib, params, isa_name(ctx.isa()),
                 ctx.threads().num_threads(), r.test,
                 fmt::format("{:.2f} ({:.0f}-{:.0f})", r.median(), *low, *high));
    }
  }
  return StopSignal::flag() ? kExitSavedOnSignal : kExitDone;
}

}  // namespace fathom::cli
