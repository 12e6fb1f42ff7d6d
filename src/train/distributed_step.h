// The training step on a mesh of ranks (DESIGN section 3; SPEC C.8, C.9): every rank runs its list
// of the pipeline schedule over its stages, experts exchange tokens, gradients are summed over the
// holders of each parameter and the optimizer is sharded. The model's code is that of one process.
//
// Equal to one process, for the same global batch: with one expert rank the losses and gradients
// are those of TrainStep's micro-batches, added up by blocks: data rank d (and in DualPipe
// direction) adds its micro-batches in order, then neighbouring blocks are added pairwise. With one
// block that is TrainStep, bit for bit. With expert ranks the weight gradients of an expert sum the
// tokens of all of them in one product, which rounds differently; nothing else does in the one-hop
// exchange.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "parallel/execute.h"
#include "parallel/mesh.h"
#include "parallel/one_hop_exchange.h"
#include "train/sharded_optimizer.h"
#include "train/step.h"

namespace fathom {

class DistributedStep final : public StepEngine {
 public:
  // Every rank of `world` makes one, with the same arguments, for steps of at most max_batch_rows
  // rows. An Error for a mesh or a batch that does not go.
  DistributedStep(Context& ctx, const Communicator& world, const ModelConfig& model,
                  const StepConfig& config, const ParallelConfig& parallel, uint64_t seed,
                  int64_t max_batch_rows);
  ~DistributedStep() override;

  // `batch` is the whole step's, on every rank; so is the result.
  StepResult run(const Batch& batch, const StepPlan& plan, int64_t step) override;
  StepResult accumulate(const Batch& batch, const StepPlan& plan);
  void update(const StepPlan& plan, int64_t step, StepResult& result);
  StepResult evaluate(const Batch& batch) override;

  const Model& model() const override { return *model_; }
  std::vector<MemoryLine> memory() const override;
  const std::vector<int64_t>& expert_counts() const override { return expert_counts_; }
  TrainingTensors collect_tensors() override;
  TrainingTensors room_for_tensors() override;
  void spread_tensors() override;

  // Checkpoints that all ranks write and read (sharded_checkpoint.h): the tensors of one kind, with
  // router biases where the kind has them, of which this rank writes the files; its part of what
  // was read; and, when all kinds have been, the weights made from it.
  TensorPortion own_portion(ShardedOptimizer::Kind kind);
  void take_tensors(ShardedOptimizer::Kind kind, const TensorSource& source);
  void refresh_weights() { optimizer_->refresh_weights(ctx_); }

  const Mesh& mesh() const { return mesh_; }
  const ParameterSet& gradients() const { return gradients_; }  // this rank's, before the sum
  const ShardedOptimizer& optimizer() const { return *optimizer_; }
  // Sums of losses of every micro-batch of the last step.
  struct MicroBatchLoss {
    double main = 0;
    double mtp[kMaxMtpDepth] = {};
    double balance = 0;
    bool operator==(const MicroBatchLoss&) const = default;
  };
  const std::vector<MicroBatchLoss>& micro_batch_losses() const { return losses_; }
  // When this rank ran what in the last step, in seconds since its begin.
  const std::vector<TimelineSpan>& timeline() const { return timeline_; }
  // The same, by the parts of blocks.
  const std::vector<Zone>& zones() const { return zones_; }

 private:
  class Runner;
  struct Gathered;

  // How the rows of a step lie on the mesh.
  struct Cut {
    int64_t rows_per_rank = 0;  // of a data rank
    int per_rank = 0;           // micro-batches
  };
  Cut cut(int64_t num_rows) const;
  const PipelineSchedule& schedule_for(int num_micro_batches);
  TokenBatch rows_of(const Batch& batch, int64_t first_row, int64_t num_rows) const;
  LossScales balance_kind() const;
  void set_up_stages(int num_micro_batches);
  void add_losses(StepResult& result, const StepPlan& plan, const LossSums& labels,
                  int64_t num_rows) const;
  void gather_losses();

  Context& ctx_;
  const Communicator& world_;
  StepConfig config_;
  ModelConfig config_of_model_;
  Policy policy_;
  Mesh mesh_;
  Communicator pipeline_, experts_;
  std::unique_ptr<TokenExchange> exchange_;  // null: all experts are here
  std::vector<ParameterClass> classes_;
  LocalParameters local_;
  std::unique_ptr<Model> model_;
  ParameterSet gradients_;
  ModelParameters gradient_views_;
  std::unique_ptr<ShardedOptimizer> optimizer_;
  std::map<int, PipelineSchedule> schedules_;       // by number of micro-batches
  std::vector<std::unique_ptr<StagePass>> stages_;  // by chunk
  std::vector<StageMemory> stage_memory_;
  std::vector<int64_t> moe_layers_;
  int64_t compare_every_;
  bool overlap_;
  std::vector<int64_t> expert_counts_;
  struct RouterBias {
    size_t layer;  // in moe_layers_
    TensorView weights;
    TensorView master;
  };
  std::unique_ptr<ParameterSet> bias_master_;
  std::vector<RouterBias> biases_;
  std::vector<MicroBatchLoss> losses_;
  std::vector<double> loss_table_;  // [micro-batches, 1 + mtp + moe layers]: what this rank found
  std::vector<TimelineSpan> timeline_;
  std::vector<Zone> zones_;
  std::unique_ptr<Gathered> gathered_;
};

// The rows of a step that the mesh can take: a multiple of what its micro-batches need. An Error
// that names the nearest number otherwise.
void check_batch_rows(const Mesh& mesh, const StepConfig& config, int64_t batch_rows);

}  // namespace fathom
