// Forward and backward through a stage of the model: a range of its blocks, in the first stage with
// the embedding, in the last with the final norm, the head and the MTP modules. The whole model is
// one stage (training_pass.h); a pipeline has many, each with several micro-batches in flight.
//
// A micro-batch in flight has a slot, from begin() until its weight gradients are computed. Weight
// gradients follow each block's input gradients at once (backward), which needs memory for one
// block; or they are put off (backward_input, later backward_weight), which keeps what every block
// left for them. Memory is allocated once; a call allocates nothing.
//
// Gradients of the norms, the router, the embedding and the head are small or come with the loss:
// they are computed in the forward pass (head) or with the input gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/arena.h"
#include "model/batch_layout.h"
#include "model/model.h"

namespace fathom {

// One line of the table of memory that is printed before a run starts.
struct MemoryLine {
  std::string what;
  int64_t bytes = 0;
  int64_t tokens = 0;  // that the bytes are for; 0: they do not depend on tokens
  bool saved = false;  // activations kept from forward to backward
};

// Indices into Model::blocks().
struct StageRange {
  size_t first_block = 0;
  size_t num_blocks = 0;
  bool is_first = true;
  bool is_last = true;

  static StageRange whole(const Model& model) { return {0, model.blocks().size()}; }
};

struct StageMemory {
  int64_t max_rows = 1;
  int64_t max_context = 1;
  int num_slots = 1;
  int num_put_off = 0;  // micro-batches whose weight gradients wait at a time
  // Rows come from other ranks: room for a block's weight gradients to be computed while the next
  // block's rows travel.
  bool travels = false;
};

class StagePass {
 public:
  StagePass(const Model& model, const StageRange& range, const StageMemory& memory);

  // Lays out a micro-batch in a slot: token ids, labels, positions.
  void begin(int slot, const TokenBatch& batch, const LossScales& scales);

  // [T, D] in the residual dtype: what comes from the previous stage and goes to the next.
  TensorView input(int slot) const { return slots_[index(slot)].x_now.front(); }
  TensorView output(int slot) const { return slots_[index(slot)].x_now.back(); }
  // Holds the gradient of the output before a backward pass, and of the input after it. One buffer
  // for all slots.
  TensorView gradient(int slot) const;

  // The sums of losses (but for labels, which count_labels() counts). With `gradients` the head's
  // backward pass is done here too, += into them. expert_counts: [moe_layers(config), E], += the
  // choices of each routed expert; balance_by_layer: [moe_layers(config)], each layer's term of the
  // sum; either may be null.
  LossSums forward(Context& ctx, int slot, const ModelParameters* gradients, int64_t* expert_counts,
                   double* balance_by_layer = nullptr);
  // MTP modules whose scale is 0 are run forward only.
  // Where rows travel, weight gradients are computed meanwhile.
  void backward(Context& ctx, int slot, const ModelParameters& gradients);
  void backward_input(Context& ctx, int slot, const ModelParameters& gradients);
  void backward_weight(Context& ctx, int slot, const ModelParameters& gradients);

  // forward() in one stage of a rank and backward() in its other one, their parts alternating so
  // that the rows of one travel while the other computes (report figure 4), and weight gradients
  // fill what is left of the time. Same results, bit for bit. The last block's weight gradients may
  // be left for finish_weights(), which keeps the slot until then: the next pass can have its first
  // rows on their way meanwhile, with begin_backward(). gradient_ready: called when the gradient of
  // the input is there, while the forward's last rows travel.
  static LossSums overlapped(Context& ctx, StagePass& forward, int forward_slot,
                             StagePass& backward, int backward_slot,
                             const ModelParameters& gradients, int64_t* expert_counts,
                             double* balance_by_layer = nullptr,
                             const std::function<void()>& gradient_ready = {});
  // The first of the backward pass that overlapped() goes on with: sends rows, waits for none.
  void begin_backward(Context& ctx, int slot, const ModelParameters& gradients);
  void finish_weights(Context& ctx);

  // After forward(): the hidden state that the head reads, at depth 0 or of MTP module k.
  TensorView hidden(int slot, int64_t depth) const;
  int64_t depth() const;

  int64_t num_bytes() const { return memory_.used_bytes(); }
  std::vector<MemoryLine> memory() const;

 private:
  // What one MTP module reads and keeps.
  struct Module {
    MtpModule::Saved saved, now;  // as allocated; narrowed to the micro-batch
    Block::Saved block, block_now;
  };
  struct Slot {
    LossScales scales;
    std::vector<DepthLayout> depths;  // [0] main, [k] MTP module k
    std::vector<Block::Saved> blocks, blocks_now;
    std::vector<TensorView> x, x_now;  // residual stream before each block, and after the last
    TensorView rstd_T, hidden_TD, dhidden_TD;  // final norm and its output
    TensorView rstd_now, hidden_now, dhidden_now;
    std::vector<Module> modules;
    int put_off = -1;  // where what its weight gradients need lies
  };
  // What the blocks leave for weight gradients that are put off.
  struct PutOff {
    std::vector<Block::Deferred> blocks, modules;
    bool taken = false;
  };

  static size_t index(int slot) { return static_cast<size_t>(slot); }
  static size_t index(int64_t i) { return static_cast<size_t>(i); }
  const Block& block(size_t i) const { return model_.blocks()[range_.first_block + i]; }
  const MtpModule& module(int64_t k) const { return model_.mtp_modules()[index(k - 1)]; }
  void allocate(Arena& arena);
  void allocate_slot(Arena& arena, Slot& slot);
  // One for all blocks of a kind. With travelling two that are taken in turn, and one for MTP
  // modules, which run forward between the begin of a backward pass and the rest of it.
  size_t turn_of_block(size_t i) const { return limits_.travels ? i % 2 : 0; }
  size_t turn_of_module() const { return limits_.travels ? 2 : 0; }
  const Block::Deferred& shared_deferred(const Block& block, size_t turn) const {
    return (block.is_moe() ? moe_deferred_ : dense_deferred_)[turn];
  }
  Block::Deferred deferred_of_block(const Slot& slot, size_t i) const;
  Block::Deferred deferred_of_module(const Slot& slot, int64_t k) const;
  TensorView previous_hidden(const Slot& slot, int64_t k) const;
  TensorView previous_gradient(const Slot& slot, int64_t k) const;
  TensorView gradient_of(const Slot& slot) const { return dx_TD_.rows(0, slot.x_now[0].dim(0)); }
  BalanceTerm balance_term(const LossScales& scales, const RowLayout& rows) const;
  // Where a forward pass writes what it counts.
  struct Counts {
    LossSums sums;
    int64_t* experts = nullptr;
    double* balance_by_layer = nullptr;
  };
  void observe_block(Context& ctx, const Block& block, const Block::Saved& saved,
                     const RowLayout& rows, const LossScales& scales, Counts& counts) const;
  void forward_blocks(Context& ctx, Slot& slot, Counts& counts);
  void forward_embedding(Context& ctx, Slot& slot);
  void forward_end(Context& ctx, Slot& slot, const ModelParameters* g, Counts& counts);
  // What is behind the blocks.
  void backward_begin(Context& ctx, Slot& slot, const ModelParameters& g, bool with_weight);
  // Weight gradients whose inputs are there, oldest first, in pieces; at most two blocks'.
  struct WeightQueue {
    struct Entry {
      const Block* block = nullptr;
      const Block::Saved* saved = nullptr;
      Block::Deferred deferred;
      const BlockParameters* gradients = nullptr;
      int64_t next = 0, available = 0;
    };
    Entry entries[2];
    int num = 0;

    void add(const Entry& entry);
    // Now those behind the attention's input gradients too.
    void complete_last();
    bool run_one(Context& ctx);
    // All but the newest block's: the memory of the others is used again.
    void finish_older(Context& ctx);
    void finish(Context& ctx);
    template <typename Ready>
    void run_until(Context& ctx, Ready&& ready) {
      while (!ready() && run_one(ctx)) {
      }
    }
  };
  // A pass through blocks whose parts take turns with another's.
  struct ForwardBlocks;
  struct BackwardBlocks;
  void forward_block(Context& ctx, Slot& slot, size_t i, Counts& counts);
  void backward_block(Context& ctx, Slot& slot, size_t i, const ModelParameters& g,
                      bool with_weight);
  void backward_travelling(Context& ctx, Slot& slot, const ModelParameters& g);
  void backward_end(Context& ctx, Slot& slot, const ModelParameters& g);
  void forward_head(Context& ctx, Slot& slot, const ModelParameters* g, LossSums& sums);
  void forward_module(Context& ctx, Slot& slot, int64_t k, const ModelParameters* g,
                      Counts& counts);
  // The deepest module that has a loss; the deeper ones have no gradients.
  int64_t deepest_trained(const Slot& slot) const;
  void backward_through(Context& ctx, Slot& slot, const ModelParameters& g, bool with_weight);
  void backward_module(Context& ctx, Slot& slot, int64_t k, const ModelParameters& g,
                       bool with_weight);

  const Model& model_;
  StageRange range_;
  StageMemory limits_;
  std::vector<Slot> slots_;
  std::vector<PutOff> put_off_;
  Block::Deferred dense_deferred_[3], moe_deferred_[3];
  TensorView dx_TD_;
  WeightQueue weights_;
  const Slot* begun_ = nullptr;  // by begin_backward()
  Arena memory_;
};

}  // namespace fathom
