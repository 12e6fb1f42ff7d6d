#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "core/json.h"
#include "kernels/peak.h"
#include "model/config_json.h"
#include "model/flops.h"
#include "train/sharded_checkpoint.h"

namespace fathom {
namespace {

// Fields that may differ between the parts of one run: they change no bit of it, or (paths) what
// they name is compared itself.
bool may_change(const std::string& path) {
  for (const char* prefix :
       {"threads", "max_steps", "checkpoint.", "log.", "model.", "data.tokenizer", "parallel."}) {
    if (path.rfind(prefix, 0) == 0) return true;
  }
  return path.rfind("data.sources.", 0) == 0 && path.find(".path:") != std::string::npos;
}

double bits_per_byte(double nats, int64_t bytes) {
  return bytes > 0 ? nats / (std::numbers::ln2 * static_cast<double>(bytes)) : 0;
}

std::unique_ptr<StepEngine> make_step(Context& ctx, const Communicator* world,
                                      const TrainConfig& config, const ModelConfig& model,
                                      int64_t max_rows) {
  const auto seed = static_cast<uint64_t>(config.seed);
  if (world == nullptr) return std::make_unique<TrainStep>(ctx, model, config.train, seed);
  return std::make_unique<DistributedStep>(ctx, *world, model, config.train, config.parallel, seed,
                                           max_rows);
}

int64_t largest_step(const ScheduleConfig& schedule) {
  return std::max(schedule.batch_rows, schedule.batch_rows_begin);
}

}  // namespace

Trainer::Trainer(Context& ctx, FileSystem& files, const TrainConfig& config,
                 const ModelConfig& model, std::unique_ptr<Loader> loader,
                 const Communicator* world)
    : ctx_(ctx),
      files_(files),
      config_(config),
      loader_(std::move(loader)),
      schedule_(config.schedule, config.train.context),
      world_(world),
      step_(make_step(ctx, world, config, model, largest_step(config.schedule))) {
  FATHOM_CHECK_EQ(loader_ != nullptr, is_first_rank(), "the first rank has the loader");
  if (world != nullptr) check_ramp();
  state_.seed = static_cast<uint64_t>(config.seed);
  if (loader_ != nullptr) {
    loader_->reserve(batch_, largest_step(config.schedule));
    FATHOM_CHECK_EQ(batch_.context, config.train.context, "the loader's rows");
    FATHOM_CHECK_EQ(batch_.row_length, config.train.context + 1 + model.num_nextn_predict_layers,
                    "the loader's rows");
    state_.data_fingerprint = loader_->fingerprint();
    state_.cursor = loader_->cursor();
  }
  state_.config_json = config_to_json(fields_of(config_));
}

// Every batch of the ramp must go onto the mesh: better said now than in a thousand steps.
void Trainer::check_ramp() const {
  const int64_t end = total_steps();
  int64_t tokens = 0, rows = 0;
  for (int64_t step = 0; step < end && rows < config_.schedule.batch_rows; ++step) {
    rows = schedule_.at(step, tokens).rows;
    check_batch_rows(distributed()->mesh(), config_.train, rows);
    tokens += rows * config_.train.context;
  }
}

TrainStep& Trainer::step() {
  FATHOM_CHECK(world_ == nullptr, "a step of many ranks");
  return static_cast<TrainStep&>(*step_);
}

DistributedStep* Trainer::distributed() const {
  return world_ == nullptr ? nullptr : static_cast<DistributedStep*>(step_.get());
}

bool Trainer::agreed(bool value) const {
  if (world_ == nullptr) return value;
  auto flag = static_cast<uint8_t>(value);
  world_->broadcast<uint8_t>(0, std::span<uint8_t>(&flag, 1));
  return flag != 0;
}

void Trainer::hand_out(Batch& batch) const {
  if (world_ == nullptr) return;
  int64_t sizes[] = {batch.num_rows,       batch.context, batch.row_length,
                     batch.masked ? 1 : 0, batch.epoch,   batch.first_row};
  world_->broadcast<int64_t>(0, sizes);
  batch.num_rows = sizes[0];
  batch.context = sizes[1];
  batch.row_length = sizes[2];
  batch.masked = sizes[3] != 0;
  batch.epoch = sizes[4];
  batch.first_row = sizes[5];
  const auto tokens = static_cast<size_t>(batch.num_rows * batch.row_length);
  const auto positions = static_cast<size_t>(batch.num_rows * batch.context);
  const auto share = [&](auto& values, size_t count) {
    if (values.size() < count) values.resize(count);
    using T = typename std::remove_reference_t<decltype(values)>::value_type;
    world_->broadcast<T>(0, std::span<T>(values).first(count));
  };
  share(batch.tokens, tokens);
  share(batch.is_label, tokens);
  if (!batch.masked) return;
  share(batch.first_key, positions);
  share(batch.positions, positions);
}

int64_t Trainer::total_steps() const {
  return config_.max_steps > 0 ? config_.max_steps : schedule_.total_steps();
}

std::string Trainer::checkpoint_folder(int64_t step) const {
  return join_path(join_path(run_folder_, "checkpoints"), checkpoint_name(step));
}

void Trainer::open_log() { log_ = std::make_unique<RunLog>(files_, run_folder_, state_.log); }

void Trainer::start(const std::string& run_folder, const ConfigOrigins& origins) {
  if (!is_first_rank()) return;
  for (const char* name : {"metrics.jsonl", "checkpoints"}) {
    if (files_.info(join_path(run_folder, name)).exists) {
      throw_bad_input({.where = run_folder,
                       .found = fmt::format("a run ({})", name),
                       .expected = "a new or empty folder",
                       .hint = "--resume goes on with it"});
    }
  }
  // Before the first step: whether everything that the run will write can be written.
  files_.make_directories(join_path(run_folder, "checkpoints"));
  write_file_atomically(files_, join_path(run_folder, "config.toml"),
                        print_config(fields_of(config_), origins));
  run_folder_ = run_folder;
  open_log();
}

void Trainer::resume(const std::string& run_folder, LogSink* log, const ResumeOptions& options) {
  std::string folder;
  if (is_first_rank()) {
    std::vector<std::string> skipped;
    const std::optional<int64_t> latest = find_latest_checkpoint(files_, run_folder, skipped);
    for (const std::string& message : skipped) {
      if (log != nullptr) log->message(message);
    }
    files_.make_directories(join_path(run_folder, "checkpoints"));
    remove_leftovers(files_, run_folder);
    run_folder_ = run_folder;
    if (latest) {
      folder = checkpoint_folder(*latest);
      restore(folder, options);
    } else if (!skipped.empty()) {
      throw_bad_input({.where = run_folder,
                       .found = "no checkpoint that is whole",
                       .expected = "one to go on from",
                       .hint = "start again in another folder"});
    }
  }
  if (agreed(!folder.empty())) {
    if (world_ == nullptr) {
      load_training_tensors(files_, folder, *step_);
    } else {
      load_sharded_tensors(files_, *world_, folder, *distributed());
      int64_t counters[] = {state_.step, state_.tokens};
      world_->broadcast<int64_t>(0, counters);
      state_.step = counters[0];
      state_.tokens = counters[1];
    }
    last_saved_step_ = state_.step;
  }
  if (!is_first_rank()) return;
  open_log();
  if (log == nullptr) return;
  log->message(folder.empty() ? "no checkpoint yet: starting from the beginning"
                              : fmt::format("going on from {}", folder));
}

// What is not a tensor, after checking that the checkpoint is of this run.
void Trainer::restore(const std::string& folder, const ResumeOptions& options) {
  TrainingState state = read_training_state(files_, folder);
  const std::string model_path = join_path(folder, "config.json");
  ModelConfig saved_model = parse_config_json(files_.read_all(model_path), model_path);
  saved_model.torch_dtype =
      model().config().torch_dtype;  // of the file: the precision is compared below
  if (to_config_json(saved_model) != to_config_json(model().config())) {
    throw_bad_input({.where = folder,
                     .field = "config.json",
                     .found = "another architecture than the run file's",
                     .expected = "the same"});
  }
  if (state.data_fingerprint != state_.data_fingerprint || state.seed != state_.seed) {
    throw_bad_input({.where = folder,
                     .found = "a run on other data, another tokenizer or another seed",
                     .expected = "the same",
                     .hint = "what the loader serves must not change within a run"});
  }
  TrainConfig saved_config;
  ConfigFields saved_fields = fields_of(saved_config);
  ConfigOrigins origins;
  read_config_json(state.config_json, join_path(folder, "training/state.json") + ": config",
                   saved_fields, origins);
  std::vector<std::string> changes = diff_config(saved_fields, fields_of(config_));
  std::erase_if(changes, may_change);
  if (!changes.empty() && !options.allow_config_change) {
    throw_bad_input({.where = folder,
                     .found = fmt::format("another configuration ({})", fmt::join(changes, ", ")),
                     .expected = "the one that the run began with"});
  }
  state.config_json = state_.config_json;
  state_ = std::move(state);
  loader_->seek(state_.cursor);
}

StepRecord Trainer::one_step() {
  using Clock = std::chrono::steady_clock;
  if (peak_flops_ == 0 && is_first_rank()) {
    // The other ranks wait for rows meanwhile.
    peak_flops_ = measure_peak_flops(ctx_, model().policy().activations);
    if (world_ != nullptr) peak_flops_ *= world_->size();
  }
  const auto begin = Clock::now();
  const StepPlan plan = schedule_.at(state_.step, state_.tokens);
  if (loader_ != nullptr) loader_->next(plan.rows, batch_);
  hand_out(batch_);
  const double data_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  StepResult result;
  try {
    result = step_->run(batch_, plan, state_.step);
  } catch (const NonFiniteError& error) {
    throw NonFiniteError(
        error.kind(), fmt::format("step {} (epoch {}, rows from {}): {}; nothing was updated",
                                  state_.step + 1, batch_.epoch, batch_.first_row, error.what()));
  }
  const int64_t tokens = plan.rows * config_.train.context;
  ++state_.step;
  state_.tokens += tokens;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const double rate = static_cast<double>(tokens) / seconds;
  return {
      .step = state_.step,
      .tokens = state_.tokens,
      .total_tokens = schedule_.total_tokens(),
      .loss = result.loss,
      .mtp_loss = result.mtp_loss,
      .balance_loss = result.balance_loss,
      .total_loss = result.total_loss,
      .bits_per_byte = loader_ == nullptr
                           ? 0
                           : bits_per_byte(result.loss * static_cast<double>(result.num_labels),
                                           loader_->label_bytes(batch_)),
      .lr = plan.lr,
      .grad_norm = result.grad_norm,
      .mtp_weight = plan.mtp_weight,
      .balance_weight = plan.balance_weight,
      .bias_update_speed = plan.bias_update_speed,
      .batch_rows = plan.rows,
      .seconds = seconds,
      .data_seconds = data_seconds,
      .tokens_per_second = rate,
      .mfu = rate * training_flops_per_token(model().config(), config_.train.context) / peak_flops_,
      .max_violation = result.max_violation};
}

Trainer::End Trainer::run_until(int64_t step, const Callbacks& callbacks) {
  while (state_.step < step) {
    if (agreed(callbacks.should_stop && callbacks.should_stop())) {
      save_checkpoint();
      return End::kStopped;
    }
    StepRecord record = one_step();
    const int64_t every = config_.log.evaluate_every;
    if (every > 0 && record.step % every == 0)
      record.held_out_bits_per_byte = evaluate_held_out(config_.log.evaluate_rows);
    records_.push_back(record);
    if (log_ != nullptr) log_->write(record);
    if (callbacks.log != nullptr) callbacks.log->step(record);
    if (callbacks.after_step) callbacks.after_step(record);
    const int64_t save_every = config_.checkpoint.every_steps;
    if (save_every > 0 && record.step % save_every == 0) save_checkpoint();
  }
  save_checkpoint();
  return End::kDone;
}

void Trainer::save_checkpoint() {
  if (!agreed(!run_folder_.empty()) || last_saved_step_ == state_.step) return;
  CheckpointExtras extras;
  if (is_first_rank()) {
    // What the log says up to here is on disk before a checkpoint refers to it.
    state_.log = log_->sync();
    state_.cursor = loader_->cursor();
    extras.tokenizer = &loader_->tokenizer();
  }
  if (world_ == nullptr) {
    save_training_checkpoint(files_, run_folder_, state_, *step_, extras);
  } else {
    save_sharded_checkpoint(files_, *world_, run_folder_, state_, *distributed(), extras);
  }
  last_saved_step_ = state_.step;
  if (!is_first_rank()) return;
  remove_old_checkpoints(files_, run_folder_, config_.checkpoint);
}

std::optional<double> Trainer::evaluate_held_out(int64_t max_rows) {
  if (held_out_limit_ != max_rows) {
    if (loader_ != nullptr) held_out_ = loader_->held_out_rows(max_rows);
    hand_out(held_out_);
    held_out_limit_ = max_rows;
  }
  if (held_out_.num_rows == 0) return std::nullopt;
  const StepResult result = step_->evaluate(held_out_);
  if (loader_ == nullptr) return std::nullopt;
  return bits_per_byte(result.loss * static_cast<double>(result.num_labels),
                       loader_->label_bytes(held_out_));
}

std::vector<std::string> Trainer::moe_layer_names() const {
  std::vector<std::string> names;
  const int64_t main_layers = model().config().num_hidden_layers;
  for (const int64_t layer : moe_layers(model().config())) {
    names.push_back(layer < main_layers ? fmt::format("layer {}", layer)
                                        : fmt::format("mtp {}", layer - main_layers + 1));
  }
  return names;
}

}  // namespace fathom
