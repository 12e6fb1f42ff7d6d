// ZeRO-1 (report section 3.2; SYSTEMS row 78): the ranks that hold a parameter each keep the master
// weights, moments and moving average of a part of it. A step sums gradients into the parts,
// updates them, and hands the new weights to all holders, so that copies of a stage cannot drift
// apart. The moving average follows behind, while the next step computes.
//
// Parameters are cut into blocks of kBlock elements, each owned by one rank; a rank owns
// neighbours. The block is that of the kernel that sums squares, so the global norm is the one that
// a single process computes, bit for bit, however blocks are spread; AdamW works on single
// elements.
//
// The router bias is not in here (bias_update.h).
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/arena.h"
#include "parallel/mesh.h"
#include "train/optimizer.h"

namespace fathom {

// Whole tensors of one kind of state, of which this rank is to write a checkpoint's files.
struct TensorPortion {
  std::vector<TensorView> tensors;  // by parameter name
  std::set<std::string> router_biases;
  std::vector<std::vector<std::byte>> bytes;  // that the tensors lie in
};

// Where a parameter's whole tensor lies; to be read only, and not necessarily aligned.
using TensorSource =
    std::function<const std::byte*(const std::string& name, DType dtype, const Shape& shape)>;

class ShardedOptimizer {
 public:
  static constexpr int64_t kBlock = 16384;

  // `weights` is the compute copy of `local`'s parameters, of these dtypes; `world` has the mesh's
  // ranks. All live longer than the optimizer. average_decay 0: no moving average.
  ShardedOptimizer(const ModelConfig& model, const OptimizerConfig& config, DType master,
                   DType moments, double average_decay, const std::vector<ParameterClass>& classes,
                   const LocalParameters& local, const Communicator& world,
                   const ParameterDtypes& dtypes, ParameterSet& weights);

  // Sums the gradients of all holders; every rank of the mesh calls it, with its own.
  void reduce(const ParameterSet& gradients);
  // Norm of all summed gradients of the model, on every rank. NonFiniteError, on every rank, naming
  // the first parameter that is not finite.
  double gradient_norm(Context& ctx) const;
  // The update of the own blocks, the average, and the weights of all holders.
  void update(Context& ctx, double norm, double lr, int64_t step);

  // Whether the copies of the weights are still what the holders of a parameter were given: a sum
  // over each copy, compared among holders. Throws CommError on every rank when they are not,
  // naming the ranks and tensors that differ from the master weights. What bits flip in memory, in
  // one copy, is seen before it gets into the weights of all.
  void compare_copies(Context& ctx) const;

  // Kinds of state that a checkpoint holds.
  enum class Kind { kMaster, kFirstMoment, kSecondMoment, kAverage };
  // Collects one kind on rank 0 of the mesh, into `all` (null elsewhere); all ranks call it.
  void collect(Kind kind, ParameterSet* all) const;
  // For checkpoints that all ranks write: the holders of a class deal its tensors out among
  // themselves. All ranks call it; router biases are not in it.
  TensorPortion own_portion(Kind kind) const;
  // Reads the own blocks; the caller refreshes the weights when the master has come.
  void take(Kind kind, const TensorSource& source);
  // The reverse of collect(); the caller refreshes the weights when the master has come.
  void spread(Kind kind, const ParameterSet* all);
  void refresh_weights(Context& ctx);
  // Takes the own part from a full copy of the local parameters.
  void set_master(const ParameterSet& local);

  bool has_average() const { return average_decay_ > 0; }
  DType master_dtype() const { return master_dtype_; }
  DType moments_dtype() const { return moments_dtype_; }
  // Of one kind's fp32 or bf16 elements: master, moments and average.
  int64_t num_bytes() const { return state_.used_bytes(); }
  int64_t num_own_elements() const;

 private:
  struct Piece {
    int64_t spec = 0;   // in the local parameters
    int64_t begin = 0;  // first element
    int64_t count = 0;
    int64_t global = 0;  // number of the block in the whole model
  };
  // Parameters of the same holders.
  struct Shard {
    Communicator group;
    std::vector<Piece> pieces;  // of all holders, in order
    size_t first_own = 0, num_own = 0;
    std::vector<size_t> first_pieces;        // of each holder, and behind the last
    std::vector<int64_t> counts;             // elements of each holder
    TensorView grad, master, m, v, average;  // own, one piece behind the other
    int64_t total() const;
  };
  struct Run {
    int64_t begin = 0, count = 0;
    double weight_decay = 0;
  };
  void allocate(Arena& arena);
  std::vector<Run> runs_of(const Shard& shard) const;
  const TensorView& state(const Shard& shard, Kind kind) const;
  // All elements of the class on every holder, in the order of pieces.
  std::vector<std::byte> gather(const Shard& shard, const TensorView& own) const;
  // The weights of all holders from their shares of the master's.
  void gather_weights(Context& ctx, const Shard& shard);
  void quantize_weights(Context& ctx, const Shard& shard);
  // f(first piece, piece behind the last, elements) of what a holder sends or receives at a time.
  template <typename F>
  static void for_messages(const Shard& shard, int owner, F&& f);
  uint64_t checksum(const Shard& shard) const;
  // Own weights of the class that are not those of the master weights, by name.
  std::vector<std::string> differing_weights(Context& ctx, const Shard& shard) const;

  OptimizerConfig config_;
  DType master_dtype_, moments_dtype_;
  double average_decay_;
  const std::vector<ParameterClass>& classes_;  // of the whole model
  const LocalParameters& local_;
  const Communicator& world_;
  ParameterDtypes dtypes_;
  ParameterSet& weights_;
  std::vector<std::string> block_names_;  // parameter of each block of the whole model
  std::vector<Shard> shards_;
  // The average goes on on a thread of its own while the next step computes: it reads the master
  // weights, which the next update alone changes, and its bits do not depend on when.
  void begin_average();
  void finish_average() const;
  Arena state_{""};
  mutable std::future<void> averaging_;  // last: nothing that it reads goes before it has ended
};

}  // namespace fathom
