// `fathom train`: pre-train a model from a run file.
#include <cstdlib>
#include <memory>

#include "cli/live_panel.h"
#include "cli/policy_table.h"
#include "cli/processes.h"
#include "cli/ranks.h"
#include "cli/restarts.h"
#include "cli/stop_signal.h"
#include "cli/verbs.h"
#include "comm/fake_transport.h"
#include "comm/mpi_transport.h"
#include "core/file.h"
#include "core/json.h"
#include "model/config_json.h"
#include "parallel/draw.h"
#include "train/pictures.h"
#include "train/trainer.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string config, out;
  std::optional<int64_t> seed, steps, threads, ranks, pp, ep;
  int64_t restarts = 0;
  std::optional<std::string> precision, schedule;
  std::vector<std::string> set;
  bool processes = false, resume = false, print_config = false, print_policy = false,
       dry_run = false, quiet = false, json = false, allow_config_change = false;
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
  if (options.ranks) override_with("parallel.ranks", std::to_string(*options.ranks));
  if (options.pp) override_with("parallel.pp", std::to_string(*options.pp));
  if (options.ep) override_with("parallel.ep", std::to_string(*options.ep));
  if (options.schedule) override_with("parallel.schedule", *options.schedule);
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

// The last step of all ranks, in one picture.
void write_timeline(const std::string& run_folder, const Communicator& world,
                    const Trainer& trainer) {
  const Timeline timeline = gather_timeline(world, trainer.distributed()->timeline());
  const ZonesByRank parts = gather_zones(world, trainer.distributed()->zones());
  if (timeline.empty()) return;
  FileSystem& files = local_file_system();
  write_file_atomically(
      files, join_path(run_folder, "timeline.svg"),
      timeline_svg(timeline, "The last step, in seconds: " + trainer.distributed()->mesh().describe(), parts));
  write_file_atomically(files, join_path(run_folder, "timeline.json"),
                        timeline_trace_json(timeline, 1e6, parts));
}

int train(const Options& options, const TrainConfig& config, const ConfigOrigins& origins,
          const StopSignal& stop, const Communicator* world);
std::unique_ptr<Loader> load(Context& ctx, const TrainConfig& config, const Communicator* world,
                             TrainDisplay& display, ModelConfig& model);

// What every kind of rank of the mesh would hold, without any of them: one line for each line of
// the memory table, one column for each pipeline rank (its data ranks hold equally much).
int dry_run(Context& ctx, const TrainConfig& config, const ModelConfig& model,
            TrainDisplay& display) {
  const auto num_ranks = static_cast<int>(config.parallel.ranks);
  const Mesh mesh = Mesh::make(config.parallel, model, num_ranks);
  const Topology topology =
      Topology::uniform(num_ranks, static_cast<int>(config.parallel.ranks_per_node));
  const int64_t rows = std::max(config.schedule.batch_rows, config.schedule.batch_rows_begin);
  for (int p = 0; p < mesh.pipeline_ranks; ++p) {
    FakeTransport nobody(mesh.rank_at(p, 0), topology);
    const Communicator world(nobody);
    const DistributedStep step(ctx, world, model, config.train, config.parallel,
                               static_cast<uint64_t>(config.seed), rows);
    display.message(mesh.data_ranks == 1 ? fmt::format("rank {}", mesh.rank_at(p, 0))
                                         : fmt::format("ranks {} to {}, each", mesh.rank_at(p, 0),
                                                       mesh.rank_at(p, mesh.data_ranks - 1)));
    for (const std::string& line : memory_table(step.memory())) display.message(line);
  }
  return kExitDone;
}

int run(const Options& options) {
  const bool is_rank_of_launcher = options.processes && started_by_mpi();
  if (options.restarts > 0 && !options.dry_run && !is_rank_of_launcher) {
    if (started_by_mpi())
      fail(ErrorKind::kUsage,
           "--restarts: found mpirun, expected --processes, which starts it, or ranks as threads");
    return run_with_restarts(static_cast<int>(options.restarts), [&](int attempt) {
      Options again = options;
      again.restarts = 0;
      again.resume = options.resume || attempt > 0;
      return run(again);
    });
  }
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
  if (options.processes && !options.dry_run && !is_rank_of_launcher)
    return run_as_processes(static_cast<int>(config.parallel.ranks), options.resume);
  StopSignal stop;
  if (options.dry_run && config.parallel.ranks > 1 && !started_by_mpi()) {
    FakeTransport nobody(0, Topology::uniform(static_cast<int>(config.parallel.ranks),
                                              static_cast<int>(config.parallel.ranks_per_node)));
    const Communicator world(nobody);
    Context ctx(static_cast<int>(config.threads));
    TrainDisplay display(options.quiet);
    ModelConfig model;
    load(ctx, config, &world, display, model);
    return dry_run(ctx, config, model, display);
  }
  const std::string fingerprint =
      fmt::format("{} {}", FATHOM_VERSION, config_to_json(fields_of(config)));
  return run_on_ranks(config.parallel, fingerprint, [&](const Communicator* world) {
    return train(options, config, origins, stop, world);
  });
}

// What the first rank finds in the files, on all ranks.
std::unique_ptr<Loader> load(Context& ctx, const TrainConfig& config, const Communicator* world,
                             TrainDisplay& display, ModelConfig& model) {
  std::unique_ptr<Loader> loader;
  if (world == nullptr || world->rank() == 0) {
    FileSystem& files = local_file_system();
    model = load_model_config(files, config.model);
    if (world != nullptr) {
      // Before anything long begins.
      const Mesh mesh = Mesh::make(config.parallel, model, world->size());
      check_batch_rows(mesh, config.train, config.schedule.batch_rows);
      display.message(mesh.describe());
    }
    std::vector<std::string> report;
    loader = load_data(ctx, files, config, model, report);
    for (const std::string& line : report) display.message(line);
  }
  if (world != nullptr) {
    const std::string keys = world->rank() == 0 ? to_config_json(model) : "";
    const std::string shared = share_text(*world, keys);
    if (world->rank() != 0) model = parse_config_json(shared, "rank 0");
  }
  return loader;
}

int train(const Options& options, const TrainConfig& config, const ConfigOrigins& origins,
          const StopSignal& stop, const Communicator* world) {
  FileSystem& files = local_file_system();
  Context ctx(threads_of_rank(world, config.threads));
  const bool first = world == nullptr || world->rank() == 0;
  TrainDisplay display(options.quiet || !first);
  ModelConfig model;
  auto loader = load(ctx, config, world, display, model);
  Trainer trainer(ctx, files, config, model, std::move(loader), world);
  const ParameterCount count = count_parameters(model);
  display.message(fmt::format("{} parameters, {} active a token; {} steps, {} tokens",
                              count.main_model + count.mtp_unique, count.active,
                              trainer.total_steps(), trainer.schedule().total_tokens()));
  for (const std::string& line : memory_table(trainer.engine().memory())) display.message(line);
  if (options.dry_run) return kExitDone;
  if (options.resume) {
    trainer.resume(options.out, &display, {.allow_config_change = options.allow_config_change});
  } else {
    trainer.start(options.out, origins);
  }
  const Trainer::End end = trainer.run_until(
      trainer.total_steps(), {.log = &display, .should_stop = [&] { return stop.requested(); }});
  if (world != nullptr) write_timeline(options.out, *world, trainer);
  const int status = end == Trainer::End::kStopped ? kExitSavedOnSignal : kExitDone;
  if (!first) return status;
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
  }
  return status;
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
            line.add("--restarts", options->restarts,
                     "when the run dies, go on from its last checkpoint, at most this often");
            line.add("--seed", options->seed, "overrides seed");
            line.add("--steps", options->steps, "overrides max_steps");
            line.add("--threads", options->threads, "overrides threads");
            line.add(
                "--ranks", options->ranks,
                "overrides parallel.ranks: ranks as threads; under mpirun every process is one");
            line.add("--processes", options->processes,
                     "the ranks as processes: starts mpirun on this program");
            line.add("--pp", options->pp, "overrides parallel.pp: pipeline stages");
            line.add("--ep", options->ep,
                     "overrides parallel.ep: ranks that share the experts of a layer");
            line.add("--schedule", options->schedule, "overrides parallel.schedule")
                .one_of(schedule_names());
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
