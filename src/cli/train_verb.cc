// `fathom train`: pre-train a model from a run file.
#include <cstdlib>
#include <memory>

#include "cli/live_panel.h"
#include "cli/policy_table.h"
#include "cli/stop_signal.h"
#include "cli/verbs.h"
#include "core/file.h"
#include "core/json.h"
#include "train/pictures.h"
#include "train/trainer.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string config, out;
  std::optional<int64_t> seed, steps, threads;
  std::optional<std::string> precision;
  std::vector<std::string> set;
  bool resume = false, print_config = false, print_policy = false, dry_run = false, quiet = false,
       json = false, allow_config_change = false;
};

class TrainDisplay final : public LogSink {
 public:
  explicit TrainDisplay(bool quiet) : quiet_(quiet), panel_(stderr) {}
  void step(const StepRecord& record) override {
    if (quiet_) return;
    const std::string line = progress_line(record);
    panel_.update([&] { return std::vector<std::string>{line}; }, line);
  }
  void message(std::string_view text) override {
    if (!quiet_) panel_.print(text);
  }

 private:
  bool quiet_;
  LivePanel panel_;
};

// Flags over environment over file over default.
ConfigOrigins read_config(const Options& options, TrainConfig& config) {
  ConfigFields fields = fields_of(config);
  ConfigOrigins origins;
  read_toml(local_file_system().read_all(options.config), options.config, fields, origins);
  read_environment(std::getenv, fields, origins);
  for (const std::string& assignment : options.set) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos)
      fail(ErrorKind::kUsage, "--set: found '{}', expected path=value", assignment);
    apply_override(assignment.substr(0, equals), assignment.substr(equals + 1), fields, origins);
  }
  const auto override_with = [&](const char* path, const std::string& value) {
    apply_override(path, value, fields, origins);
  };
  if (options.seed) override_with("seed", std::to_string(*options.seed));
  if (options.steps) override_with("max_steps", std::to_string(*options.steps));
  if (options.threads) override_with("threads", std::to_string(*options.threads));
  if (options.precision) override_with("train.precision", *options.precision);
  return origins;
}

// The memory of a run, before it starts.
std::vector<std::string> memory_table(const std::vector<MemoryLine>& lines) {
  std::vector<std::string> table;
  int64_t total = 0, saved = 0, tokens = 0;
  const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  for (const MemoryLine& line : lines) {
    total += line.bytes;
    table.push_back(fmt::format(
        "  {:<45} {:>10.1f} MiB{}", line.what, mib(line.bytes),
        line.tokens > 0 ? fmt::format("  {:>8} bytes a token", line.bytes / line.tokens) : ""));
    if (!line.saved) continue;
    saved += line.bytes;
    tokens = line.tokens;
  }
  if (tokens > 0) {
    table.push_back(fmt::format("  {:<45} {:>10.1f} MiB  {:>8} bytes a token",
                                "activations kept from forward to backward", mib(saved),
                                saved / tokens));
  }
  table.push_back(fmt::format("  {:<45} {:>10.1f} MiB", "all, but for scratch", mib(total)));
  return table;
}

void write_pictures(const std::string& run_folder, Trainer& trainer) {
  FileSystem& files = local_file_system();
  Curve loss{.name = "loss"}, mtp{.name = "mtp loss"};
  for (const StepRecord& record : read_metrics(files, run_folder)) {
    for (Curve* curve : {&loss, &mtp}) curve->x.push_back(static_cast<double>(record.tokens));
    loss.y.push_back(record.loss);
    mtp.y.push_back(record.mtp_loss);
  }
  std::vector<Curve> curves{loss};
  if (trainer.model().config().num_nextn_predict_layers > 0) curves.push_back(mtp);
  write_file_atomically(files, join_path(run_folder, "loss.svg"),
                        loss_curve_svg(curves, "Loss by tokens seen"));
  const std::vector<std::string> layers = trainer.moe_layer_names();
  if (layers.empty() || trainer.step_expert_counts().empty()) return;
  const ExpertLoad load =
      expert_load(layers, trainer.model().config().n_routed_experts, trainer.step_expert_counts());
  write_file_atomically(files, join_path(run_folder, "expert_load.svg"),
                        expert_load_svg(load, "Expert load of the last step"));
}

int run(const Options& options) {
  TrainConfig config;
  const ConfigOrigins origins = read_config(options, config);
  if (options.print_config) {
    fmt::print("{}", print_config(fields_of(config), origins));
    return kExitDone;
  }
  if (options.print_policy) {
    fmt::print("{}", policy_table(step_policy(config.train)));
    return kExitDone;
  }
  if (options.out.empty() && !options.dry_run) fail(ErrorKind::kUsage, "train: --out is required");
  FileSystem& files = local_file_system();
  Context ctx(static_cast<int>(config.threads));
  TrainDisplay display(options.quiet);
  ModelConfig model = load_model_config(files, config.model);
  std::vector<std::string> report;
  auto loader = load_data(ctx, files, config, model, report);
  for (const std::string& line : report) display.message(line);
  Trainer trainer(ctx, files, config, model, std::move(loader));
  const ParameterCount count = count_parameters(model);
  display.message(fmt::format("{} parameters, {} active a token; {} steps, {} tokens",
                              count.main_model + count.mtp_unique, count.active,
                              trainer.total_steps(), trainer.schedule().total_tokens()));
  for (const std::string& line : memory_table(trainer.step().memory())) display.message(line);
  if (options.dry_run) return kExitDone;
  if (options.resume) {
    trainer.resume(options.out, &display, {.allow_config_change = options.allow_config_change});
  } else {
    trainer.start(options.out, origins);
  }
  StopSignal stop;
  const Trainer::End end = trainer.run_until(
      trainer.total_steps(), {.log = &display, .should_stop = [&] { return stop.requested(); }});
  write_pictures(options.out, trainer);
  if (options.json) {
    const double loss = trainer.records().empty() ? 0 : trainer.records().back().loss;
    const Json json{{"step", trainer.steps_done()},
                    {"tokens", trainer.tokens_seen()},
                    {"loss", loss},
                    {"checkpoint", trainer.checkpoint_folder(trainer.steps_done())},
                    {"stopped", end == Trainer::End::kStopped}};
    fmt::print("{}\n", json.dump());
  }
  if (end == Trainer::End::kStopped) {
    display.message(
        fmt::format("saved at step {}; --resume goes on from there", trainer.steps_done()));
    return kExitSavedOnSignal;
  }
  return kExitDone;
}

}  // namespace

Verb train_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "train",
      .help = "pre-train a model",
      .declare =
          [options](CommandLine& line) {
            line.add("--config", options->config, "run file (TOML); see configs/runs").required();
            line.add("--out", options->out,
                     "folder of the run: metrics.jsonl, tensorboard/, checkpoints/");
            line.add("--resume", options->resume, "go on from the newest checkpoint in --out");
            line.add("--seed", options->seed, "overrides seed");
            line.add("--steps", options->steps, "overrides max_steps");
            line.add("--threads", options->threads, "overrides threads");
            line.add("--precision", options->precision, "overrides train.precision")
                .one_of(policy_names());
            line.add("--set", options->set, "any field of the run file, as path=value; repeatable");
            line.add("--allow-config-change", options->allow_config_change,
                     "resume under another configuration than the checkpoint's");
            line.add("--print-config", options->print_config,
                     "print the configuration with the origin of each value, and end");
            line.add("--print-policy", options->print_policy,
                     "print every role's number format and scaling, and end");
            line.add("--dry-run", options->dry_run,
                     "read everything, say what would be trained, and end");
            line.add_quiet(options->quiet);
            line.add_json(options->json);
          },
      .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
