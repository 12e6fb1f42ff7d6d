#include "model/training_pass.h"

#include <algorithm>
#include <utility>

#include "model/head.h"

namespace fathom {
namespace {

// Positions of a row that depth k can run on: token i+k must be there.
int64_t depth_tokens(const TokenBatch& batch, int64_t k) {
  return std::min(batch.context, batch.row_length - k);
}

// The label of depth k at position i of row b, or -1 where nothing counts: beyond the row, masked,
// or in another document when documents are masked.
int32_t label_at(const TokenBatch& batch, int64_t k, int64_t b, int64_t i) {
  const int64_t target = i + 1 + k;
  if (target >= batch.row_length) return -1;
  if (batch.is_label != nullptr && batch.is_label[b * batch.row_length + target] == 0) return -1;
  // Labels behind the context belong to the document of its last position (TokenBatch).
  const int64_t known = std::min(target, batch.context - 1);
  if (batch.first_key != nullptr && batch.first_key[b * batch.context + known] > i) return -1;
  return batch.tokens[b * batch.row_length + target];
}

}  // namespace

LossSums count_labels(const ModelConfig& config, const TokenBatch& batch) {
  LossSums sums;
  for (int64_t k = 0; k <= config.num_nextn_predict_layers; ++k) {
    int64_t count = 0;
    for (int64_t b = 0; b < batch.num_rows; ++b) {
      for (int64_t i = 0; i < depth_tokens(batch, k); ++i)
        count += label_at(batch, k, b, i) >= 0 ? 1 : 0;
    }
    (k == 0 ? sums.num_main : sums.num_mtp[k - 1]) = count;
  }
  return sums;
}

TrainingPass::TrainingPass(const Model& model, int64_t max_rows, int64_t max_context)
    : model_(model),
      max_rows_(max_rows),
      max_context_(max_context),
      saved_(measured_arena("saved activations", [this](Arena& arena) { allocate(arena); })) {
  FATHOM_CHECK_LE(model.config().num_nextn_predict_layers, kMaxMtpDepth);
  FATHOM_CHECK_LE(max_context, model.max_positions(), "context beyond the rotation table");
}

void TrainingPass::allocate(Arena& arena) {
  const Policy& policy = model_.policy();
  const int64_t T = max_rows_ * max_context_;
  const Shape wide{T, model_.config().hidden_size};
  depths_.assign(static_cast<size_t>(depth() + 1), {});
  for (Depth& d : depths_) {
    d.labels = arena.allocate(DType::kI32, Shape{T}, "labels_T");
    d.next_tokens = arena.allocate(DType::kI32, Shape{T}, "next_tokens_T");
    d.positions = arena.allocate(DType::kI32, Shape{T}, "positions_T");
    d.first_key = arena.allocate(DType::kI32, Shape{T}, "first_key_T");
  }
  x_.clear();
  blocks_.clear();
  for (const Block& block : model_.blocks()) {
    x_.push_back(arena.allocate(policy.residual, wide, "x_TD"));
    blocks_.push_back(block.allocate_saved(arena, T));
  }
  x_.push_back(arena.allocate(policy.residual, wide, "x_TD"));
  rstd_T_ = arena.allocate(policy.small, Shape{T}, "final.rstd_T");
  hidden_TD_ = arena.allocate(policy.activations, wide, "final.hidden_TD");
  dhidden_TD_ = arena.allocate(policy.residual, wide, "final.dhidden_TD");
  dx_TD_ = arena.allocate(policy.residual, wide, "dx_TD");
  for (int64_t k = 1; k <= depth(); ++k) {
    const MtpModule& module = model_.mtp_modules()[static_cast<size_t>(k - 1)];
    depths_[static_cast<size_t>(k)].module = module.allocate_saved(arena, T);
    depths_[static_cast<size_t>(k)].block = module.block().allocate_saved(arena, T);
  }
  dense_deferred_ = moe_deferred_ = {};
  const auto allocate_deferred = [&](const Block& block) {
    Block::Deferred& deferred = block.is_moe() ? moe_deferred_ : dense_deferred_;
    if (deferred.attention.dout_TD.shape.num_dims == 0)
      deferred = block.allocate_deferred(arena, T);
  };
  for (const Block& block : model_.blocks()) allocate_deferred(block);
  for (const MtpModule& module : model_.mtp_modules()) allocate_deferred(module.block());
  blocks_now_ = blocks_;
  x_now_ = x_;
}

// The same allocations, measured one kind at a time; only the gaps of alignment are not counted.
std::vector<MemoryLine> TrainingPass::memory() const {
  const int64_t T = max_rows_ * max_context_;
  std::vector<MemoryLine> lines;
  const auto add = [&](std::string what, int64_t bytes, bool saved = true) {
    if (bytes > 0) lines.push_back({std::move(what), bytes, T, saved});
  };
  const auto saved = [&](const auto& part) {
    Arena measure("measure");
    (void)part.allocate_saved(measure, T);
    return measure.used_bytes();
  };
  int64_t dense = 0, moe = 0, num_dense = 0, num_moe = 0;
  for (const Block& block : model_.blocks()) {
    (block.is_moe() ? moe : dense) += saved(block);
    ++(block.is_moe() ? num_moe : num_dense);
  }
  add(fmt::format("kept by dense blocks ({})", num_dense), dense);
  add(fmt::format("kept by MoE blocks ({})", num_moe), moe);
  int64_t modules = 0;
  for (const MtpModule& module : model_.mtp_modules())
    modules += saved(module) + saved(module.block());
  add(fmt::format("kept by MTP modules ({})", depth()), modules);
  int64_t deferred = 0;
  bool counted[2] = {};
  const auto add_deferred = [&](const Block& block) {
    if (std::exchange(counted[block.is_moe() ? 1 : 0], true)) return;
    Arena measure("measure");
    (void)block.allocate_deferred(measure, T);
    deferred += measure.used_bytes();
  };
  for (const Block& block : model_.blocks()) add_deferred(block);
  for (const MtpModule& module : model_.mtp_modules()) add_deferred(module.block());
  int64_t rest = saved_.used_bytes() - dense - moe - modules - deferred;
  add("residual stream, final norm, token ids", rest);
  add("gradients within one block's backward pass", deferred, /*saved=*/false);
  return lines;
}

// Lays out this batch: token ids, positions and labels of every depth, and the saved tensors
// narrowed to its size.
void TrainingPass::prepare(const TokenBatch& batch) {
  FATHOM_CHECK(batch.num_rows >= 1 && batch.num_rows <= max_rows_, "{} rows, at most {}",
               batch.num_rows, max_rows_);
  FATHOM_CHECK(batch.context >= 1 && batch.context <= max_context_, "context {}, at most {}",
               batch.context, max_context_);
  FATHOM_CHECK_GE(batch.row_length, batch.context);
  const int64_t V = model_.config().vocab_size;
  for (int64_t k = 0; k <= depth(); ++k) {
    Depth& d = depths_[static_cast<size_t>(k)];
    const int64_t S = depth_tokens(batch, k);
    FATHOM_CHECK_GE(S, 1, "rows of {} tokens are too short for MTP depth {}", batch.row_length, k);
    int32_t* labels = d.labels.as<int32_t>();
    int32_t* next = d.next_tokens.as<int32_t>();
    int32_t* positions = d.positions.as<int32_t>();
    int32_t* first_key = d.first_key.as<int32_t>();
    for (int64_t b = 0; b < batch.num_rows; ++b) {
      for (int64_t i = 0; i < S; ++i) {
        const int64_t t = b * S + i, source = b * batch.context + i;
        next[t] = batch.tokens[b * batch.row_length + i + k];
        FATHOM_CHECK(next[t] >= 0 && next[t] < V, "token id {} in a vocabulary of {}", next[t], V);
        labels[t] = label_at(batch, k, b, i);
        positions[t] =
            batch.positions != nullptr ? batch.positions[source] : static_cast<int32_t>(i);
        first_key[t] = batch.first_key != nullptr ? batch.first_key[source] : 0;
      }
    }
    d.rows = {.num_rows = batch.num_rows,
              .row_tokens = S,
              .positions_T = positions,
              .first_key_T = batch.first_key != nullptr ? first_key : nullptr,
              .cos_sin_SR = model_.cos_sin_SR()};
    if (k > 0) {
      d.module_now = first_rows(d.module, d.rows.num_tokens());
      const Block& block = model_.mtp_modules()[static_cast<size_t>(k - 1)].block();
      d.block_now = block.narrow(d.block, d.rows.num_tokens());
      d.deferred_now = block.narrow(deferred_of(block), d.rows.num_tokens());
    }
  }
  const int64_t T = batch.num_rows * batch.context;
  for (size_t i = 0; i < x_.size(); ++i) x_now_[i] = x_[i].rows(0, T);
  deferred_now_.resize(blocks_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = model_.blocks()[i];
    blocks_now_[i] = block.narrow(blocks_[i], T);
    deferred_now_[i] = block.narrow(deferred_of(block), T);
  }
  rstd_now_ = rstd_T_.rows(0, T);
  hidden_now_ = hidden_TD_.rows(0, T);
  dhidden_now_ = dhidden_TD_.rows(0, T);
  dx_now_ = dx_TD_.rows(0, T);
}

BalanceTerm TrainingPass::balance_term(const LossScales& scales, const RowLayout& rows) const {
  return {.weight = scales.balance,
          .span_tokens = scales.balance_batch_wise ? rows.num_tokens() : rows.row_tokens,
          .from_routing = scales.balance_from_routing};
}

void TrainingPass::observe_block(Context& ctx, const Block& block, const Block::Saved& saved,
                                 const RowLayout& rows, const LossScales& scales, LossSums& sums,
                                 int64_t* expert_counts) const {
  const BalanceTerm term = balance_term(scales, rows);
  sums.balance +=
      block.moe().balance_loss_value(ctx, saved.moe, term.span_tokens, term.from_routing);
  if (expert_counts != nullptr) block.moe().count_experts(saved.moe, expert_counts);
}

TensorView TrainingPass::previous_hidden(int64_t k) const {
  if (k > 1) return depths_[static_cast<size_t>(k - 1)].module_now.z_TD;
  return model_.config().mtp_hidden == MtpHidden::kPostNorm ? hidden_now_ : x_now_.back();
}

TensorView TrainingPass::previous_gradient(int64_t k) const {
  if (k > 1) return depths_[static_cast<size_t>(k - 1)].module_now.dz_TD;
  return model_.config().mtp_hidden == MtpHidden::kPostNorm ? dhidden_now_ : dx_now_;
}

void TrainingPass::forward_main(Context& ctx, const LossScales& scales, LossSums& sums,
                                int64_t* expert_counts) {
  const ModelParameters& w = model_.parameters();
  const Depth& main = depths_[0];
  embedding_forward(ctx, w.embedding_VD, main.next_tokens.as<int32_t>(), x_now_[0]);
  ctx.observe("embedding", -1, x_now_[0]);
  for (size_t i = 0; i < model_.blocks().size(); ++i) {
    const Block& block = model_.blocks()[i];
    block.forward(ctx, main.rows, x_now_[i], blocks_now_[i], deferred_now_[i], x_now_[i + 1]);
    if (!block.is_moe()) continue;
    observe_block(ctx, block, blocks_now_[i], main.rows, scales, sums, expert_counts);
    if (expert_counts != nullptr) expert_counts += model_.config().n_routed_experts;
  }
  rms_norm_forward(ctx, {.x_TD = x_now_.back(),
                         .w_D = w.final_norm_D,
                         .eps = model_.config().rms_norm_eps,
                         .y_TD = hidden_now_,
                         .rstd_T = rstd_now_});
  ctx.observe("hidden", -1, hidden_now_);
}

void TrainingPass::forward_mtp(Context& ctx, int64_t k, const LossScales& scales, LossSums& sums,
                               int64_t* expert_counts) {
  const MtpModule& module = model_.mtp_modules()[static_cast<size_t>(k - 1)];
  const Depth& d = depths_[static_cast<size_t>(k)];
  const Depth& previous = depths_[static_cast<size_t>(k - 1)];
  module.join_forward(ctx, d.rows, model_.parameters().embedding_VD, d.next_tokens.as<int32_t>(),
                      previous_hidden(k), previous.rows.row_tokens, d.module_now);
  module.block().forward(ctx, d.rows, d.module_now.x_TD, d.block_now, d.deferred_now,
                         d.module_now.z_TD);
  if (module.block().is_moe())
    observe_block(ctx, module.block(), d.block_now, d.rows, scales, sums, expert_counts);
  module.head_norm_forward(ctx, d.module_now);
}

// The MoE layers of the MTP modules count behind the main model's.
static int64_t* mtp_counts(const ModelConfig& config, const Model& model, int64_t k,
                           int64_t* expert_counts) {
  if (expert_counts == nullptr) return nullptr;
  int64_t before = k - 1;
  for (const Block& block : model.blocks()) before += block.is_moe() ? 1 : 0;
  return expert_counts + before * config.n_routed_experts;
}

LossSums TrainingPass::forward(Context& ctx, const TokenBatch& batch, const LossScales& scales,
                               int64_t* expert_counts) {
  prepare(batch);
  LossSums sums = count_labels(model_.config(), batch);
  forward_main(ctx, scales, sums, expert_counts);
  const TensorView head_VD = model_.parameters().head_VD;
  sums.main = head_loss(
      ctx, model_.policy(),
      {.hidden_TD = hidden_now_, .head_VD = head_VD, .labels_T = depths_[0].labels.as<int32_t>()});
  for (int64_t k = 1; k <= depth(); ++k) {
    const Depth& d = depths_[static_cast<size_t>(k)];
    forward_mtp(ctx, k, scales, sums, mtp_counts(model_.config(), model_, k, expert_counts));
    sums.mtp[k - 1] = head_loss(ctx, model_.policy(),
                                {.hidden_TD = d.module_now.hidden_TD,
                                 .head_VD = head_VD,
                                 .labels_T = d.labels.as<int32_t>()});
  }
  return sums;
}

void TrainingPass::logits(Context& ctx, const TokenBatch& batch, const TensorView& logits_TV,
                          const std::vector<TensorView>& mtp_logits) {
  prepare(batch);
  LossSums unused;
  forward_main(ctx, {}, unused, nullptr);
  const TensorView head_VD = model_.parameters().head_VD;
  head_logits(ctx, hidden_now_, head_VD, logits_TV);
  for (int64_t k = 1; k <= static_cast<int64_t>(mtp_logits.size()); ++k) {
    forward_mtp(ctx, k, {}, unused, nullptr);
    head_logits(ctx, depths_[static_cast<size_t>(k)].module_now.hidden_TD, head_VD,
                mtp_logits[static_cast<size_t>(k - 1)]);
  }
}

const ModelParameters& TrainingPass::gradient_views(ParameterSet& gradients) {
  if (gradient_set_ != &gradients) {
    gradient_views_ = ModelParameters::of(gradients, model_.config());
    gradient_set_ = &gradients;
  }
  return gradient_views_;
}

LossSums TrainingPass::forward_backward(Context& ctx, const TokenBatch& batch,
                                        const LossScales& scales, ParameterSet& gradients,
                                        int64_t* expert_counts) {
  g_ = &gradient_views(gradients);
  prepare(batch);
  LossSums sums = count_labels(model_.config(), batch);
  const Policy& policy = model_.policy();
  const TensorView head_VD = model_.parameters().head_VD;

  forward_main(ctx, scales, sums, expert_counts);
  sums.main = head_loss(ctx, policy,
                        {.hidden_TD = hidden_now_,
                         .head_VD = head_VD,
                         .labels_T = depths_[0].labels.as<int32_t>(),
                         .scale = scales.main,
                         .dhidden_TD = dhidden_now_,
                         .dhead_VD = g_->head_VD});
  if (scales.main == 0) fill_zero(ctx, dhidden_now_);
  // The gradient that a pre-norm MTP input leaves lies in dx before the final norm adds its own.
  fill_zero(ctx, dx_now_);

  for (int64_t k = 1; k <= depth(); ++k) {
    const Depth& d = depths_[static_cast<size_t>(k)];
    const MtpModule& module = model_.mtp_modules()[static_cast<size_t>(k - 1)];
    forward_mtp(ctx, k, scales, sums, mtp_counts(model_.config(), model_, k, expert_counts));
    Scratch::Mark mark(ctx.scratch());
    TensorView dhidden =
        ctx.scratch().allocate(policy.residual, d.module_now.hidden_TD.shape, "mtp.dhidden_TD");
    sums.mtp[k - 1] = head_loss(ctx, policy,
                                {.hidden_TD = d.module_now.hidden_TD,
                                 .head_VD = head_VD,
                                 .labels_T = d.labels.as<int32_t>(),
                                 .scale = scales.mtp[k - 1],
                                 .dhidden_TD = dhidden,
                                 .dhead_VD = g_->head_VD});
    if (scales.mtp[k - 1] != 0) {
      module.head_norm_backward(ctx, d.module_now, dhidden,
                                g_->mtp_modules[static_cast<size_t>(k - 1)]);
    } else {
      fill_zero(ctx, d.module_now.dz_TD);
    }
  }
  // A module matters if it or a deeper one has a loss.
  bool matters = false;
  for (int64_t k = depth(); k >= 1; --k) {
    matters = matters || scales.mtp[k - 1] != 0;
    if (matters) backward_mtp(ctx, k, scales);
  }
  backward_main(ctx, scales);
  return sums;
}

void TrainingPass::backward_mtp(Context& ctx, int64_t k, const LossScales& scales) {
  const MtpModule& module = model_.mtp_modules()[static_cast<size_t>(k - 1)];
  const MtpParameters& g = g_->mtp_modules[static_cast<size_t>(k - 1)];
  const Depth& d = depths_[static_cast<size_t>(k)];
  const Depth& previous = depths_[static_cast<size_t>(k - 1)];
  const TensorView dz_TD = d.module_now.dz_TD;
  module.block().backward_input(ctx, d.rows, d.module_now.x_TD, d.block_now, d.deferred_now,
                                balance_term(scales, d.rows), dz_TD, g.block, dz_TD);
  module.block().backward_weight(ctx, d.block_now, d.deferred_now, g.block);
  module.join_backward(ctx, d.rows, dz_TD, d.next_tokens.as<int32_t>(), previous_hidden(k),
                       previous.rows.row_tokens, d.module_now, g, g_->embedding_VD,
                       previous_gradient(k));
  module.join_backward_weight(ctx, d.module_now, g);
}

void TrainingPass::backward_main(Context& ctx, const LossScales& scales) {
  const RowLayout& rows = depths_[0].rows;
  rms_norm_backward(ctx, {.x_TD = x_now_.back(),
                          .w_D = model_.parameters().final_norm_D,
                          .rstd_T = rstd_now_,
                          .dy_TD = dhidden_now_,
                          .dx_TD = dx_now_,
                          .accumulate_dx = true,
                          .dw_D = g_->final_norm_D});
  for (size_t i = model_.blocks().size(); i-- > 0;) {
    const Block& block = model_.blocks()[i];
    block.backward_input(ctx, rows, x_now_[i], blocks_now_[i], deferred_now_[i],
                         balance_term(scales, rows), dx_now_, g_->blocks[i], dx_now_);
    block.backward_weight(ctx, blocks_now_[i], deferred_now_[i], g_->blocks[i]);
  }
  embedding_backward(ctx, dx_now_, depths_[0].next_tokens.as<int32_t>(), g_->embedding_VD);
}

}  // namespace fathom
