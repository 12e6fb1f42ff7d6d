// Forward and backward over one micro-batch of packed rows. Owns the saved activations, allocated
// once for the largest micro-batch; a call allocates nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "model/model.h"

namespace fathom {

inline constexpr int64_t kMaxMtpDepth = 4;

// B rows of `row_length` tokens each, of which the first `context` positions are fed to the model.
// Position i is trained to predict token i+1, MTP depth k token i+1+k, as far as the row has them;
// a training row has context + 1 + depth tokens, so that every position has all its labels.
struct TokenBatch {
  int64_t num_rows = 0;
  int64_t context = 0;              // S
  int64_t row_length = 0;           // >= S
  const int32_t* tokens = nullptr;  // [B, row_length]
  const uint8_t* is_label =
      nullptr;  // [B, row_length]: 0 = never counts as a label; null = all count
  const int32_t* first_key =
      nullptr;  // [B, S]: first position of the same row that position i may see
                // (document start, when documents are masked); null = 0.
                // Tokens of a document that starts behind the context are no labels
  const int32_t* positions = nullptr;  // [B, S]: rope positions; null = 0..S-1 in each row
};

// What each part of the loss is multiplied by before it is summed into the gradient.
struct LossScales {
  double main = 0;                    // per counted label: 1 / number of labels of the whole step
  double mtp[kMaxMtpDepth] = {};      // per counted label of depth k+1: lambda / depth / number
  double balance = 0;                 // alpha times this micro-batch's share of the step's rows
  bool balance_from_routing = false;  // count the routing taken instead of the unbiased top-k
  bool balance_batch_wise = false;    // one span over the micro-batch instead of one a row
};

struct LossSums {
  double main = 0;
  int64_t num_main = 0;
  double mtp[kMaxMtpDepth] = {};
  int64_t num_mtp[kMaxMtpDepth] = {};
  double balance = 0;  // sum over MoE layers (MTP's too) of the mean over spans
};

// How many labels of each kind a batch has (the sums are left 0): what LossScales are divided by.
LossSums count_labels(const ModelConfig& config, const TokenBatch& batch);

// One line of the table of memory that is printed before a run starts.
struct MemoryLine {
  std::string what;
  int64_t bytes = 0;
  int64_t tokens = 0;  // that the bytes are for; 0: they do not depend on tokens
  bool saved = false;  // activations kept from forward to backward
};

class TrainingPass {
 public:
  TrainingPass(const Model& model, int64_t max_rows, int64_t max_context);

  // Adds the gradient of scales . losses to `gradients` (a set with the model's specs). MTP modules
  // whose scale is 0 are run forward only. expert_counts: [moe_layers(config), E], += the rows that
  // each routed expert received; may be null.
  LossSums forward_backward(Context& ctx, const TokenBatch& batch, const LossScales& scales,
                            ParameterSet& gradients, int64_t* expert_counts = nullptr);
  // The losses alone. `scales` says which balance loss is meant.
  LossSums forward(Context& ctx, const TokenBatch& batch, const LossScales& scales = {},
                   int64_t* expert_counts = nullptr);
  // Logits of every position: logits_TV [B*S, V]; mtp_logits[k-1] [B*S_k, V] with S_k = min(S,
  // n-k), as many as given. In the small dtype.
  void logits(Context& ctx, const TokenBatch& batch, const TensorView& logits_TV,
              const std::vector<TensorView>& mtp_logits);

  int64_t saved_bytes() const { return saved_.used_bytes(); }
  // What saved_bytes() is made of.
  std::vector<MemoryLine> memory() const;

 private:
  // What one depth of prediction reads: depth 0 is the main model.
  struct Depth {
    TensorView labels, next_tokens, positions, first_key;  // i32, allocated for the largest batch
    RowLayout rows;
    MtpModule::Saved module, module_now;  // as allocated; narrowed to this batch
    Block::Saved block, block_now;
    Block::Deferred deferred_now;
  };

  void allocate(Arena& arena);
  void prepare(const TokenBatch& batch);
  void forward_main(Context& ctx, const LossScales& scales, LossSums& sums, int64_t* expert_counts);
  void forward_mtp(Context& ctx, int64_t k, const LossScales& scales, LossSums& sums,
                   int64_t* expert_counts);
  void backward_mtp(Context& ctx, int64_t k, const LossScales& scales);
  void backward_main(Context& ctx, const LossScales& scales);
  void observe_block(Context& ctx, const Block& block, const Block::Saved& saved,
                     const RowLayout& rows, const LossScales& scales, LossSums& sums,
                     int64_t* expert_counts) const;
  const ModelParameters& gradient_views(ParameterSet& gradients);
  BalanceTerm balance_term(const LossScales& scales, const RowLayout& rows) const;
  const Block::Deferred& deferred_of(const Block& block) const {
    return block.is_moe() ? moe_deferred_ : dense_deferred_;
  }
  int64_t depth() const { return static_cast<int64_t>(model_.mtp_modules().size()); }
  // What feeds module k (1-based), and where its gradient goes.
  TensorView previous_hidden(int64_t k) const;
  TensorView previous_gradient(int64_t k) const;

  const Model& model_;
  int64_t max_rows_;
  int64_t max_context_;
  std::vector<Depth> depths_;  // [0] main, [k] MTP module k
  std::vector<Block::Saved> blocks_, blocks_now_;
  // One for all blocks of a kind: each block's weight gradients follow its backward pass at once.
  Block::Deferred dense_deferred_, moe_deferred_;
  std::vector<Block::Deferred> deferred_now_;  // by block
  std::vector<TensorView> x_, x_now_;  // residual stream before each block, and after the last
  TensorView rstd_T_, hidden_TD_, dhidden_TD_, dx_TD_;  // final norm and its output, and gradients
  TensorView rstd_now_, hidden_now_, dhidden_now_, dx_now_;
  const ParameterSet* gradient_set_ = nullptr;
  ModelParameters gradient_views_;
  const ModelParameters* g_ = nullptr;  // during forward_backward
  Arena saved_;
};

}  // namespace fathom
