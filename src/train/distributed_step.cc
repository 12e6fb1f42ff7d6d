#include "train/distributed_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "parallel/two_hop_exchange.h"
#include "train/bias_update.h"

namespace fathom {
namespace {

constexpr uint32_t kPipelineContext = 1, kExpertContext = 2;

bool is_router_bias(const ParameterSpec& spec) { return spec.kind == ParameterKind::kRouterBias; }

// Column of the loss table: main, MTP depths, MoE layers.
size_t num_columns(const ModelConfig& model, size_t num_moe_layers) {
  return 1 + static_cast<size_t>(model.num_nextn_predict_layers) + num_moe_layers;
}

std::span<std::byte> bytes_of(const TensorView& view) {
  return {static_cast<std::byte*>(view.data), static_cast<size_t>(view.num_bytes())};
}

double inverse(int64_t n) { return n > 0 ? 1.0 / static_cast<double>(n) : 0.0; }

}  // namespace

// Runs the operations of this rank's schedule over its stages.
class DistributedStep::Runner final : public ChunkRunner {
 public:
  Runner(DistributedStep& step, const Batch& batch, const LossScales& scales, bool with_gradients)
      : step_(step), batch_(batch), scales_(scales), with_gradients_(with_gradients) {
    for (const StageMemory& memory : step.stage_memory_)
      free_.emplace_back(static_cast<size_t>(memory.num_slots), true);
  }

  // Micro-batch m of this data rank has the rows [first(m), first(m) + count(m)).
  std::function<std::pair<int64_t, int64_t>(int)> rows;
  // Its number in the whole step; -1: its losses are not wanted.
  std::function<int64_t(int)> global;

  std::span<std::byte> input_activations(const ChunkBatch& at) override {
    return bytes_of(stage(at).input(slot(at)));
  }
  std::span<std::byte> output_gradient(const ChunkBatch& at) override {
    return bytes_of(stage(at).gradient(slot(at)));
  }
  std::span<const std::byte> output_activations(const ChunkBatch& at) override {
    const std::span<const std::byte> output = bytes_of(stage(at).output(slot(at)));
    if (!with_gradients_) release(at);
    return output;
  }
  std::span<const std::byte> input_gradient(const ChunkBatch& at) override {
    return bytes_of(last_gradient_[static_cast<size_t>(at.chunk)]);
  }
  void forward(const ChunkBatch& at) override {
    finish_weights();
    int64_t* experts = nullptr;
    double* row = row_of(at, experts);
    keep_losses(
        at, row,
        stage(at).forward(step_.ctx_, slot(at), with_gradients_ ? &step_.gradient_views_ : nullptr,
                          experts, row != nullptr ? row + first_balance() : nullptr));
    name_zones(at.micro_batch, -1);
    if (!with_gradients_ && is_last(at)) release(at);
  }
  void begin_overlapped(const ChunkBatch& at) override {
    if (!step_.overlap_) return;
    if (begun_ != at) {
      if (left_ && left_->chunk == at.chunk) finish_weights();
      stage(at).begin_backward(step_.ctx_, slot(at), step_.gradient_views_);
      name_zones(-1, at.micro_batch);
      begun_ = at;
    }
    finish_weights();  // while the first rows travel
  }
  void overlapped(const ChunkBatch& forward_at, const ChunkBatch& backward_at,
                  const std::function<void()>& gradient_ready) override {
    if (!step_.overlap_) return ChunkRunner::overlapped(forward_at, backward_at, gradient_ready);
    int64_t* experts = nullptr;
    double* row = row_of(forward_at, experts);
    keep_losses(forward_at, row,
                StagePass::overlapped(step_.ctx_, stage(forward_at), slot(forward_at),
                                      stage(backward_at), slot(backward_at), step_.gradient_views_,
                                      experts, row + first_balance(), [&] {
                                        name_zones(forward_at.micro_batch, backward_at.micro_batch);
                                        remember_gradient(backward_at);
                                        gradient_ready();
                                      }));
    name_zones(forward_at.micro_batch, backward_at.micro_batch);
    left_ = backward_at;
  }
  // What the last overlapped pair left.
  void finish_weights() {
    if (!left_) return;
    stage(*left_).finish_weights(step_.ctx_);
    name_zones(-1, left_->micro_batch);
    release(*left_);
    left_.reset();
  }
  void backward(const ChunkBatch& at) override {
    finish_weights();
    stage(at).backward(step_.ctx_, slot(at), step_.gradient_views_);
    name_zones(-1, at.micro_batch);
    remember_gradient(at);
    release(at);
  }
  void backward_input(const ChunkBatch& at) override {
    finish_weights();
    stage(at).backward_input(step_.ctx_, slot(at), step_.gradient_views_);
    name_zones(-1, at.micro_batch);
    remember_gradient(at);
  }
  void backward_weight(const ChunkBatch& at) override {
    finish_weights();
    stage(at).backward_weight(step_.ctx_, slot(at), step_.gradient_views_);
    name_zones(-1, at.micro_batch);
    release(at);
  }

 private:
  StagePass& stage(const ChunkBatch& at) { return *step_.stages_[static_cast<size_t>(at.chunk)]; }
  bool is_last(const ChunkBatch& at) const {
    return step_.mesh_.stage_of(step_.pipeline_.rank(), at.chunk) == step_.mesh_.num_stages - 1;
  }
  size_t first_balance() const {
    return 1 + static_cast<size_t>(step_.config_of_model_.num_nextn_predict_layers);
  }
  // The micro-batch's row of the loss table, or null, and where its experts are counted.
  double* row_of(const ChunkBatch& at, int64_t*& experts) {
    const int64_t number = global(at.micro_batch);
    if (number < 0) return nullptr;
    if (with_gradients_) experts = step_.expert_counts_.data();
    return step_.loss_table_.data() +
           static_cast<size_t>(number) *
               num_columns(step_.config_of_model_, step_.moe_layers_.size());
  }
  void keep_losses(const ChunkBatch& at, double* row, const LossSums& sums) {
    if (row == nullptr || !is_last(at)) return;
    row[0] = sums.main;
    for (size_t k = 0; k + 1 < first_balance(); ++k) row[1 + k] = sums.mtp[k];
  }
  // The slot of a micro-batch, taken at its first use.
  int slot(const ChunkBatch& at) {
    const auto [found, is_new] = slots_.emplace(std::pair(at.chunk, at.micro_batch), -1);
    if (!is_new) return found->second;
    std::vector<bool>& free = free_[static_cast<size_t>(at.chunk)];
    if (left_ && left_->chunk == at.chunk) finish_weights();  // its slot may be the one
    const auto first = std::find(free.begin(), free.end(), true);
    FATHOM_CHECK(first != free.end(), "more micro-batches in flight than the schedule says");
    *first = false;
    found->second = static_cast<int>(first - free.begin());
    const auto [begin, count] = rows(at.micro_batch);
    stage(at).begin(found->second, step_.rows_of(batch_, begin, count), scales_);
    return found->second;
  }
  void release(const ChunkBatch& at) {
    const auto found = slots_.find({at.chunk, at.micro_batch});
    free_[static_cast<size_t>(at.chunk)][static_cast<size_t>(found->second)] = true;
    slots_.erase(found);
  }
  // The micro-batches of the zones since the last call.
  void name_zones(int forward, int backward) {
    for (; named_ < step_.zones_.size(); ++named_) {
      Zone& zone = step_.zones_[named_];
      zone.item = zone.pass == 'F' ? forward : backward;
    }
  }
  void remember_gradient(const ChunkBatch& at) {
    last_gradient_[static_cast<size_t>(at.chunk)] = stage(at).gradient(slot(at));
  }

  DistributedStep& step_;
  const Batch& batch_;
  LossScales scales_;
  bool with_gradients_;
  std::map<std::pair<int, int>, int> slots_;
  std::vector<std::vector<bool>> free_;
  std::optional<ChunkBatch> left_, begun_;
  size_t named_ = 0;  // of the step's zones
  TensorView last_gradient_[2];
};

// Full copies on rank 0, for checkpoints.
struct DistributedStep::Gathered {
  Gathered(const ModelConfig& model, const ShardedOptimizer& optimizer)
      : master("master weights", parameter_specs(model),
               {.matrix = optimizer.master_dtype(), .small = optimizer.master_dtype()}),
        m("first moments", parameter_specs(model),
          {.matrix = optimizer.moments_dtype(), .small = optimizer.moments_dtype()}),
        v("second moments", parameter_specs(model),
          {.matrix = optimizer.moments_dtype(), .small = optimizer.moments_dtype()}) {
    if (optimizer.has_average())
      average = std::make_unique<ParameterSet>("average weights", parameter_specs(model),
                                               ParameterDtypes{});
  }
  ParameterSet master, m, v;
  std::unique_ptr<ParameterSet> average;
};

void check_batch_rows(const Mesh& mesh, const StepConfig& config, int64_t batch_rows) {
  const int64_t unit = mesh.data_ranks * config.micro_batch_rows;
  if (batch_rows % unit != 0) {
    throw_bad_input(
        {.where = mesh.describe(),
         .field = "schedule.batch_rows",
         .found = std::to_string(batch_rows),
         .expected = fmt::format("a multiple of {} ({} data ranks x {} rows of a "
                                 "micro-batch); the nearest is {}",
                                 unit, mesh.data_ranks, config.micro_batch_rows,
                                 std::max<int64_t>(1, (batch_rows + unit / 2) / unit) * unit)});
  }
  check_schedule(mesh.kind, mesh.num_stages, batch_rows / unit);
}

DistributedStep::DistributedStep(Context& ctx, const Communicator& world, const ModelConfig& model,
                                 const StepConfig& config, const ParallelConfig& parallel,
                                 uint64_t seed, int64_t max_batch_rows)
    : ctx_(ctx),
      world_(world),
      config_(config),
      config_of_model_(model),
      policy_(step_policy(config)),
      mesh_(Mesh::make(parallel, model, world.size())),
      pipeline_(world.group(mesh_.pipeline_members(world.rank()), kPipelineContext)),
      experts_(world.group(mesh_.expert_members(world.rank()), kExpertContext)),
      classes_(parameter_classes(mesh_, model)),
      local_(local_parameters(classes_, model, world.rank())),
      gradients_("gradients", local_.specs, policy_.gradient_dtypes()),
      moe_layers_(fathom::moe_layers(model)),
      compare_every_(parallel.compare_every),
      overlap_(parallel.overlap) {
  check_batch_rows(mesh_, config, max_batch_rows);
  if (mesh_.ep > 1) {
    if (policy_.fp8.enabled && policy_.fp8.activations == ScaleGrain::kTensor) {
      fail(ErrorKind::kUsage,
           "train.precision {}: found EP {}, expected 1 (one scale for all tokens would depend on "
           "where they are)",
           policy_.name, mesh_.ep);
    }
    const bool spans_nodes = experts_.node_of(0) != experts_.node_of(mesh_.ep - 1);
    if (parallel.exchange == "two_hop" || (parallel.exchange == "auto" && spans_nodes)) {
      exchange_ = std::make_unique<TwoHopExchange>(experts_, model.n_routed_experts);
    } else {
      exchange_ = std::make_unique<OneHopExchange>(experts_, model.n_routed_experts);
    }
  }
  model_ = std::make_unique<Model>(model, policy_, config.context,
                                   ModelPart{local_.specs, exchange_.get()});
  gradient_views_ = ModelParameters::of(gradients_, model);
  const DType master = policy_.weights == DType::kF64 ? DType::kF64 : DType::kF32;
  optimizer_ = std::make_unique<ShardedOptimizer>(model, config.optimizer, master, policy_.moments,
                                                  config.average_decay, classes_, local_, world,
                                                  policy_.weight_dtypes(), model_->weights());
  {
    ParameterSet initial("initial weights", local_.specs, {.matrix = master, .small = master});
    initialize_parameters(model, seed, initial);
    optimizer_->set_master(initial);
    copy_parameters(ctx, initial, model_->weights());
  }
  std::vector<ParameterSpec> bias_specs;
  for (const ParameterSpec& spec : local_.specs) {
    if (is_router_bias(spec)) bias_specs.push_back(spec);
  }
  if (!bias_specs.empty()) {
    bias_master_ = std::make_unique<ParameterSet>(
        "router biases", bias_specs, ParameterDtypes{.matrix = master, .small = master});
    for (int64_t i = 0; i < bias_master_->size(); ++i) {
      const ParameterSpec& spec = bias_master_->spec(i);
      const auto layer = std::find(moe_layers_.begin(), moe_layers_.end(), spec.layer_idx);
      biases_.push_back({static_cast<size_t>(layer - moe_layers_.begin()),
                         model_->weights()[spec.name], bias_master_->view(i)});
    }
  }
  expert_counts_.resize(moe_layers_.size() * static_cast<size_t>(model.n_routed_experts));
  set_up_stages(cut(max_batch_rows).per_rank);
}

DistributedStep::~DistributedStep() = default;

DistributedStep::Cut DistributedStep::cut(int64_t num_rows) const {
  check_batch_rows(mesh_, config_, num_rows);
  const int64_t rows = num_rows / mesh_.data_ranks;
  return {rows, static_cast<int>(rows / config_.micro_batch_rows)};
}

const PipelineSchedule& DistributedStep::schedule_for(int num_micro_batches) {
  auto found = schedules_.find(num_micro_batches);
  if (found == schedules_.end()) {
    found = schedules_
                .emplace(num_micro_batches,
                         make_schedule(mesh_.kind, mesh_.num_stages, num_micro_batches))
                .first;
  }
  return found->second;
}

void DistributedStep::set_up_stages(int num_micro_batches) {
  const PipelineSchedule& schedule = schedule_for(num_micro_batches);
  const int64_t num_layers = config_of_model_.num_hidden_layers;
  const std::vector<int64_t>& layers = model_->parameters().layers;
  for (int chunk = 0; chunk < schedule.num_chunks; ++chunk) {
    const int stage = schedule.stage_of(pipeline_.rank(), chunk);
    const auto index_of = [&](int64_t layer) {
      return static_cast<size_t>(std::lower_bound(layers.begin(), layers.end(), layer) -
                                 layers.begin());
    };
    const size_t first = index_of(mesh_.first_layer(stage, num_layers));
    const StageRange range{.first_block = first,
                           .num_blocks = index_of(mesh_.first_layer(stage + 1, num_layers)) - first,
                           .is_first = stage == 0,
                           .is_last = stage == mesh_.num_stages - 1};
    int put_off = 0, most_put_off = 0;
    for (const Op& op : schedule.ops[static_cast<size_t>(pipeline_.rank())]) {
      if (op.backward.chunk != chunk) continue;
      if (op.kind == OpKind::kBackwardInput) most_put_off = std::max(most_put_off, ++put_off);
      if (op.kind == OpKind::kBackwardWeight) --put_off;
    }
    stage_memory_.push_back({.max_rows = config_.micro_batch_rows,
                             .max_context = config_.context,
                             .num_slots = peak_kept(schedule, pipeline_.rank(), chunk),
                             .num_put_off = most_put_off,
                             .travels = overlap_});
    stages_.push_back(std::make_unique<StagePass>(*model_, range, stage_memory_.back()));
  }
}

TokenBatch DistributedStep::rows_of(const Batch& batch, int64_t first_row, int64_t num_rows) const {
  return token_batch_rows(batch, first_row, num_rows);
}

LossScales DistributedStep::balance_kind() const { return balance_kind_of(config_.balance); }

StepResult DistributedStep::accumulate(const Batch& batch, const StepPlan& plan) {
  const Cut cut = this->cut(batch.num_rows);
  const int64_t depth = config_of_model_.num_nextn_predict_layers;
  const LossSums labels = count_labels(config_of_model_, rows_of(batch, 0, batch.num_rows));
  LossScales scales = balance_kind();
  scales.main = inverse(labels.num_main);
  for (int64_t k = 0; k < depth; ++k)
    scales.mtp[k] = plan.mtp_weight / static_cast<double>(depth) * inverse(labels.num_mtp[k]);
  scales.balance = plan.balance_weight * static_cast<double>(config_.micro_batch_rows) /
                   static_cast<double>(batch.num_rows);

  for (int64_t i = 0; i < gradients_.size(); ++i) fill_zero(ctx_, gradients_.view(i));
  std::fill(expert_counts_.begin(), expert_counts_.end(), 0);
  const auto num_micro_batches = static_cast<size_t>(cut.per_rank * mesh_.data_ranks);
  loss_table_.assign(num_micro_batches * num_columns(config_of_model_, moe_layers_.size()), 0.0);

  Runner runner(*this, batch, scales, /*with_gradients=*/true);
  const int data_rank = mesh_.data_rank(world_.rank());
  runner.rows = [&](int m) {
    return std::pair(data_rank * cut.rows_per_rank + m * config_.micro_batch_rows,
                     config_.micro_batch_rows);
  };
  runner.global = [&](int m) { return static_cast<int64_t>(data_rank) * cut.per_rank + m; };
  world_.barrier();  // timelines begin together
  zones_.clear();
  ctx_.zones = &zones_;
  const double start = steady_seconds();
  timeline_ = execute(pipeline_, schedule_for(cut.per_rank), runner);
  runner.finish_weights();
  ctx_.zones = nullptr;
  for (Zone& zone : zones_) {
    zone.begin -= start;
    zone.end -= start;
  }

  world_.all_reduce<int64_t>(expert_counts_);
  gather_losses();
  StepResult result{.num_labels = labels.num_main, .num_rows = batch.num_rows};
  add_losses(result, plan, labels, batch.num_rows);
  return result;
}

// Every number of the table is found by one rank; the others add zeros.
void DistributedStep::gather_losses() {
  world_.all_reduce<double>(loss_table_);
  const size_t columns = num_columns(config_of_model_, moe_layers_.size());
  const auto depth = static_cast<size_t>(config_of_model_.num_nextn_predict_layers);
  losses_.assign(loss_table_.size() / columns, {});
  for (size_t i = 0; i < losses_.size(); ++i) {
    const double* row = loss_table_.data() + i * columns;
    losses_[i].main = row[0];
    for (size_t k = 0; k < depth; ++k) losses_[i].mtp[k] = row[1 + k];
    for (size_t l = 1 + depth; l < columns; ++l) losses_[i].balance += row[l];
  }
}

void DistributedStep::add_losses(StepResult& result, const StepPlan& plan, const LossSums& labels,
                                 int64_t num_rows) const {
  const int64_t depth = config_of_model_.num_nextn_predict_layers;
  const double share =
      static_cast<double>(config_.micro_batch_rows) / static_cast<double>(num_rows);
  for (size_t i = 0; i < losses_.size(); ++i) {
    const MicroBatchLoss& sums = losses_[i];
    result.loss += sums.main * inverse(labels.num_main);
    double mtp = 0;
    for (int64_t k = 0; k < depth; ++k) mtp += sums.mtp[k] * inverse(labels.num_mtp[k]);
    if (depth > 0) result.mtp_loss += mtp / static_cast<double>(depth);
    result.balance_loss += sums.balance * share;
    const double loss = sums.main + mtp + sums.balance;
    if (!std::isfinite(loss)) {
      const auto first = static_cast<int64_t>(i) * config_.micro_batch_rows;
      throw NonFiniteError(ErrorKind::kBadInput,
                           fmt::format("the loss of rows {} to {} of the step is {}", first,
                                       first + config_.micro_batch_rows - 1, loss));
    }
  }
  result.total_loss =
      result.loss + plan.mtp_weight * result.mtp_loss + plan.balance_weight * result.balance_loss;
  const auto E = static_cast<size_t>(config_of_model_.n_routed_experts);
  for (size_t i = 0; i < moe_layers_.size(); ++i) {
    result.max_violation =
        std::max(result.max_violation, max_violation({expert_counts_.data() + i * E, E}));
  }
}

void DistributedStep::update(const StepPlan& plan, int64_t step, StepResult& result) {
  if (compare_every_ > 0 && step % compare_every_ == 0) optimizer_->compare_copies(ctx_);
  optimizer_->reduce(gradients_);
  result.grad_norm = optimizer_->gradient_norm(ctx_);
  optimizer_->update(ctx_, result.grad_norm, plan.lr, step + 1);
  if (config_.balance.mode != "bias") return;
  // The counts are those of all ranks, so every holder moves its copy alike.
  const auto E = static_cast<size_t>(config_of_model_.n_routed_experts);
  for (const RouterBias& bias : biases_) {
    update_router_bias({expert_counts_.data() + bias.layer * E, E}, plan.bias_update_speed,
                       config_.balance.centred_update, bias.master);
    cast(ctx_, bias.master, bias.weights);
  }
}

StepResult DistributedStep::run(const Batch& batch, const StepPlan& plan, int64_t step) {
  StepResult result = accumulate(batch, plan);
  update(plan, step, result);
  return result;
}

// Forward alone, in one direction, micro-batches dealt out over the data ranks. All of them run
// equally many, since expert ranks wait for each other; what is too many is not counted.
StepResult DistributedStep::evaluate(const Batch& batch) {
  const int64_t micro_rows = config_.micro_batch_rows;
  const int64_t total = (batch.num_rows + micro_rows - 1) / micro_rows;
  const auto per_rank = static_cast<int>((total + mesh_.data_ranks - 1) / mesh_.data_ranks);
  const int data_rank = mesh_.data_rank(world_.rank());
  PipelineSchedule schedule{.kind = mesh_.kind,
                            .num_stages = mesh_.num_stages,
                            .num_ranks = mesh_.pipeline_ranks,
                            .num_chunks = mesh_.num_chunks(),
                            // Twice as many, so that all are in DualPipe's first direction.
                            .num_micro_batches = 2 * per_rank};
  const bool folded = mesh_.kind == ScheduleKind::kDualPipeV;
  for (int rank = 0; rank < mesh_.pipeline_ranks; ++rank) {
    std::vector<Op>& ops = schedule.ops.emplace_back();
    for (int m = 0; m < per_rank; ++m) {
      for (int chunk = 0; chunk < (folded ? 2 : 1); ++chunk)
        ops.push_back({.kind = OpKind::kForward, .forward = {chunk, m}});
    }
  }
  const auto number_of = [&](int m) {
    return static_cast<int64_t>(m) * mesh_.data_ranks + data_rank;
  };
  loss_table_.assign(static_cast<size_t>(total) * num_columns(config_of_model_, moe_layers_.size()),
                     0.0);
  Runner runner(*this, batch, balance_kind(), /*with_gradients=*/false);
  runner.rows = [&](int m) {
    const int64_t begin = std::min(number_of(m), total - 1) * micro_rows;
    return std::pair(begin, std::min(micro_rows, batch.num_rows - begin));
  };
  runner.global = [&](int m) { return number_of(m) < total ? number_of(m) : -1; };
  execute(pipeline_, schedule, runner);
  gather_losses();

  const LossSums labels = count_labels(config_of_model_, rows_of(batch, 0, batch.num_rows));
  const int64_t depth = config_of_model_.num_nextn_predict_layers;
  StepResult result{.num_labels = labels.num_main, .num_rows = batch.num_rows};
  double main = 0, mtp[kMaxMtpDepth] = {};
  for (int64_t i = 0; i < total; ++i) {
    const MicroBatchLoss& sums = losses_[static_cast<size_t>(i)];
    main += sums.main;
    for (int64_t k = 0; k < depth; ++k) mtp[k] += sums.mtp[k];
    const int64_t rows = std::min(micro_rows, batch.num_rows - i * micro_rows);
    result.balance_loss +=
        sums.balance * static_cast<double>(rows) / static_cast<double>(batch.num_rows);
  }
  if (labels.num_main > 0) result.loss = main / static_cast<double>(labels.num_main);
  for (int64_t k = 0; k < depth; ++k) {
    if (labels.num_mtp[k] > 0)
      result.mtp_loss +=
          mtp[k] / static_cast<double>(labels.num_mtp[k]) / static_cast<double>(depth);
  }
  return result;
}

std::vector<MemoryLine> DistributedStep::memory() const {
  std::vector<MemoryLine> lines = {
      {"weights as the products read them", model_->weights().num_bytes()},
      {"gradients", gradients_.num_bytes()},
      {"master weights, moments and average: own part", optimizer_->num_bytes()}};
  for (const auto& stage : stages_) {
    const std::vector<MemoryLine> saved = stage->memory();
    lines.insert(lines.end(), saved.begin(), saved.end());
  }
  return lines;
}

TensorPortion DistributedStep::own_portion(ShardedOptimizer::Kind kind) {
  using Kind = ShardedOptimizer::Kind;
  TensorPortion portion = optimizer_->own_portion(kind);
  if (kind != Kind::kMaster && kind != Kind::kAverage) return portion;
  // From the first holder of each; their average is what they are.
  for (int64_t i = 0; bias_master_ != nullptr && i < bias_master_->size(); ++i) {
    const ParameterSpec& spec = bias_master_->spec(i);
    if (mesh_.holders(config_of_model_, spec).front() != world_.rank()) continue;
    const TensorView& bias = bias_master_->view(i);
    const DType dtype = kind == Kind::kMaster ? bias.dtype : DType::kF32;
    std::vector<std::byte>& bytes =
        portion.bytes.emplace_back(static_cast<size_t>(bias.num_elements() * dtype_bytes(dtype)));
    const TensorView copy(bytes.data(), dtype, spec.shape, bias.name);
    cast(ctx_, bias, copy);
    portion.tensors.push_back(copy);
    portion.router_biases.insert(spec.name);
  }
  return portion;
}

void DistributedStep::take_tensors(ShardedOptimizer::Kind kind, const TensorSource& source) {
  optimizer_->take(kind, source);
  if (kind != ShardedOptimizer::Kind::kMaster || bias_master_ == nullptr) return;
  for (int64_t i = 0; i < bias_master_->size(); ++i) {
    const TensorView& bias = bias_master_->view(i);
    const ParameterSpec& spec = bias_master_->spec(i);
    std::memcpy(bias.data, source(spec.name, bias.dtype, spec.shape),
                static_cast<size_t>(bias.num_bytes()));
    cast(ctx_, bias, model_->weights()[spec.name]);
  }
}

TrainingTensors DistributedStep::room_for_tensors() {
  if (world_.rank() != 0) return {};
  if (gathered_ == nullptr) gathered_ = std::make_unique<Gathered>(config_of_model_, *optimizer_);
  return {&gathered_->master, &gathered_->m, &gathered_->v, gathered_->average.get()};
}

TrainingTensors DistributedStep::collect_tensors() {
  const TrainingTensors all = room_for_tensors();
  using Kind = ShardedOptimizer::Kind;
  optimizer_->collect(Kind::kMaster, all.master);
  optimizer_->collect(Kind::kFirstMoment, all.first_moments);
  optimizer_->collect(Kind::kSecondMoment, all.second_moments);
  if (optimizer_->has_average()) optimizer_->collect(Kind::kAverage, all.average);
  // The biases: from the first holder of each.
  const std::vector<ParameterSpec> specs = parameter_specs(config_of_model_);
  for (const ParameterSpec& spec : specs) {
    if (!is_router_bias(spec)) continue;
    const int from = mesh_.holders(config_of_model_, spec).front();
    if (world_.rank() == from) world_.send<std::byte>(0, 0, bytes_of((*bias_master_)[spec.name]));
    if (world_.rank() != 0) continue;
    world_.receive<std::byte>(from, 0, bytes_of((*all.master)[spec.name]));
    if (all.average != nullptr) cast(ctx_, (*all.master)[spec.name], (*all.average)[spec.name]);
  }
  return all;
}

void DistributedStep::spread_tensors() {
  const TrainingTensors all = room_for_tensors();
  using Kind = ShardedOptimizer::Kind;
  optimizer_->spread(Kind::kMaster, all.master);
  optimizer_->spread(Kind::kFirstMoment, all.first_moments);
  optimizer_->spread(Kind::kSecondMoment, all.second_moments);
  if (optimizer_->has_average()) optimizer_->spread(Kind::kAverage, all.average);
  for (const ParameterSpec& spec : parameter_specs(config_of_model_)) {
    if (!is_router_bias(spec)) continue;
    const std::vector<int> holders = mesh_.holders(config_of_model_, spec);
    if (world_.rank() == 0) {
      for (const int to : holders)
        world_.send<std::byte>(to, 0, bytes_of((*all.master)[spec.name]));
    }
    if (std::find(holders.begin(), holders.end(), world_.rank()) == holders.end()) continue;
    world_.receive<std::byte>(0, 0, bytes_of((*bias_master_)[spec.name]));
    cast(ctx_, (*bias_master_)[spec.name], model_->weights()[spec.name]);
  }
  optimizer_->refresh_weights(ctx_);
}

}  // namespace fathom
