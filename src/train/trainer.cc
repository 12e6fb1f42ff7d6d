#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "core/json.h"
#include "kernels/peak.h"
#include "model/config_json.h"
#include "model/flops.h"

namespace fathom {
namespace {

// Fields that may differ between the parts of one run: they change no bit of it, or (paths) what
// they name is compared itself.
bool may_change(const std::string& path) {
  for (const char* prefix :
       {"threads", "max_steps", "checkpoint.", "log.", "model.", "data.tokenizer"}) {
    if (path.rfind(prefix, 0) == 0) return true;
  }
  return path.rfind("data.sources.", 0) == 0 && path.find(".path:") != std::string::npos;
}

double bits_per_byte(double nats, int64_t bytes) {
  return bytes > 0 ? nats / (std::numbers::ln2 * static_cast<double>(bytes)) : 0;
}

int64_t largest_step(const ScheduleConfig& schedule) {
  return std::max(schedule.batch_rows, schedule.batch_rows_begin);
}

}  // namespace

Trainer::Trainer(Context& ctx, FileSystem& files, const TrainConfig& config,
                 const ModelConfig& model, std::unique_ptr<Loader> loader)
    : ctx_(ctx),
      files_(files),
      config_(config),
      loader_(std::move(loader)),
      schedule_(config.schedule, config.train.context),
      step_(ctx, model, config.train, static_cast<uint64_t>(config.seed)) {
  loader_->reserve(batch_, largest_step(config.schedule));
  FATHOM_CHECK_EQ(batch_.context, config.train.context, "the loader's rows");
  FATHOM_CHECK_EQ(batch_.row_length, config.train.context + 1 + model.num_nextn_predict_layers,
                  "the loader's rows");
  state_.seed = static_cast<uint64_t>(config.seed);
  state_.data_fingerprint = loader_->fingerprint();
  state_.cursor = loader_->cursor();
  state_.config_json = config_to_json(fields_of(config_));
}

int64_t Trainer::total_steps() const {
  return config_.max_steps > 0 ? config_.max_steps : schedule_.total_steps();
}

std::string Trainer::checkpoint_folder(int64_t step) const {
  return join_path(join_path(run_folder_, "checkpoints"), checkpoint_name(step));
}

void Trainer::open_log() { log_ = std::make_unique<RunLog>(files_, run_folder_, state_.log); }

void Trainer::start(const std::string& run_folder, const ConfigOrigins& origins) {
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
  std::vector<std::string> skipped;
  const std::optional<int64_t> latest = find_latest_checkpoint(files_, run_folder, skipped);
  for (const std::string& message : skipped) {
    if (log != nullptr) log->message(message);
  }
  files_.make_directories(join_path(run_folder, "checkpoints"));
  remove_leftovers(files_, run_folder);
  run_folder_ = run_folder;
  if (!latest) {
    if (!skipped.empty()) {
      throw_bad_input({.where = run_folder,
                       .found = "no checkpoint that is whole",
                       .expected = "one to go on from",
                       .hint = "start again in another folder"});
    }
    if (log != nullptr) log->message("no checkpoint yet: starting from the beginning");
    open_log();
    return;
  }
  const std::string folder = checkpoint_folder(*latest);
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
  load_training_tensors(files_, folder, step_);
  state.config_json = state_.config_json;
  state_ = std::move(state);
  loader_->seek(state_.cursor);
  last_saved_step_ = state_.step;
  open_log();
  if (log != nullptr) log->message(fmt::format("going on from {}", folder));
}

StepRecord Trainer::one_step() {
  using Clock = std::chrono::steady_clock;
  if (peak_flops_ == 0) peak_flops_ = measure_peak_flops(ctx_, model().policy().activations);
  const auto begin = Clock::now();
  const StepPlan plan = schedule_.at(state_.step, state_.tokens);
  loader_->next(plan.rows, batch_);
  const double data_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  StepResult result;
  try {
    result = step_.run(batch_, plan, state_.step);
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
      .bits_per_byte = bits_per_byte(result.loss * static_cast<double>(result.num_labels),
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
    if (callbacks.should_stop && callbacks.should_stop()) {
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
  if (run_folder_.empty() || last_saved_step_ == state_.step) return;
  // What the log says up to here is on disk before a checkpoint refers to it.
  state_.log = log_->sync();
  state_.cursor = loader_->cursor();
  save_training_checkpoint(files_, run_folder_, state_, step_,
                           {.tokenizer = &loader_->tokenizer()});
  last_saved_step_ = state_.step;
  remove_old_checkpoints(files_, run_folder_, config_.checkpoint);
}

std::optional<double> Trainer::evaluate_held_out(int64_t max_rows) {
  if (held_out_limit_ != max_rows) {
    held_out_ = loader_->held_out_rows(max_rows);
    held_out_limit_ = max_rows;
  }
  if (held_out_.num_rows == 0) return std::nullopt;
  const StepResult result = step_.evaluate(held_out_);
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
