#include "model/stage_pass.h"

#include <algorithm>
#include <utility>

#include "model/head.h"

namespace fathom {

StagePass::StagePass(const Model& model, const StageRange& range, const StageMemory& limits)
    : model_(model),
      range_(range),
      limits_(limits),
      memory_(measured_arena("saved activations", [this](Arena& arena) { allocate(arena); })) {
  FATHOM_CHECK_LE(model.config().num_nextn_predict_layers, kMaxMtpDepth);
  FATHOM_CHECK_LE(limits.max_context, model.max_positions(), "context beyond the rotation table");
}

int64_t StagePass::depth() const {
  return range_.is_last ? static_cast<int64_t>(model_.mtp_modules().size()) : 0;
}

void StagePass::allocate(Arena& arena) {
  const Policy& policy = model_.policy();
  const int64_t T = limits_.max_rows * limits_.max_context;
  slots_.assign(index(limits_.num_slots), {});
  for (Slot& slot : slots_) allocate_slot(arena, slot);
  dx_TD_ = arena.allocate(policy.residual, Shape{T, model_.config().hidden_size}, "dx_TD");
  for (size_t turn = 0; turn < 3; ++turn) dense_deferred_[turn] = moe_deferred_[turn] = {};
  bool allocated[2][3] = {};  // by kind of block, turn
  const auto allocate_shared = [&](const Block& block, size_t turn) {
    const size_t kind = block.is_moe() ? 1 : 0;
    if (!std::exchange(allocated[kind][turn], true))
      (block.is_moe() ? moe_deferred_ : dense_deferred_)[turn] = block.allocate_deferred(arena, T);
  };
  for (size_t i = 0; i < range_.num_blocks; ++i) allocate_shared(block(i), turn_of_block(i));
  for (int64_t k = 1; k <= depth(); ++k) allocate_shared(module(k).block(), turn_of_module());
  put_off_.assign(index(limits_.num_put_off), {});
  for (PutOff& put_off : put_off_) {
    for (size_t i = 0; i < range_.num_blocks; ++i)
      put_off.blocks.push_back(block(i).allocate_deferred(arena, T));
    for (int64_t k = 1; k <= depth(); ++k)
      put_off.modules.push_back(module(k).block().allocate_deferred(arena, T));
  }
}

void StagePass::allocate_slot(Arena& arena, Slot& slot) {
  const Policy& policy = model_.policy();
  const int64_t T = limits_.max_rows * limits_.max_context;
  const Shape wide{T, model_.config().hidden_size};
  slot.depths.assign(index(depth() + 1), {});
  for (DepthLayout& d : slot.depths) d.allocate(arena, T);
  for (size_t i = 0; i < range_.num_blocks; ++i) {
    slot.x.push_back(arena.allocate(policy.residual, wide, "x_TD"));
    slot.blocks.push_back(block(i).allocate_saved(arena, T));
  }
  slot.x.push_back(arena.allocate(policy.residual, wide, "x_TD"));
  if (range_.is_last) {
    slot.rstd_T = arena.allocate(policy.small, Shape{T}, "final.rstd_T");
    slot.hidden_TD = arena.allocate(policy.activations, wide, "final.hidden_TD");
    slot.dhidden_TD = arena.allocate(policy.residual, wide, "final.dhidden_TD");
  }
  for (int64_t k = 1; k <= depth(); ++k) {
    Module& m = slot.modules.emplace_back();
    m.saved = module(k).allocate_saved(arena, T);
    m.block = module(k).block().allocate_saved(arena, T);
    m.now = m.saved;
    m.block_now = m.block;
  }
  slot.blocks_now = slot.blocks;
  slot.x_now = slot.x;
}

// The same allocations, measured one kind at a time; only the gaps of alignment are not counted.
std::vector<MemoryLine> StagePass::memory() const {
  const int64_t T = limits_.max_rows * limits_.max_context;
  std::vector<MemoryLine> lines;
  const auto add = [&](std::string what, int64_t bytes, bool saved = true) {
    if (bytes > 0) lines.push_back({std::move(what), bytes, T, saved});
  };
  const auto saved = [&](const auto& part) {
    Arena measure("measure");
    (void)part.allocate_saved(measure, T);
    return measure.used_bytes() * limits_.num_slots;
  };
  const auto deferred = [&](const Block& part) {
    Arena measure("measure");
    (void)part.allocate_deferred(measure, T);
    return measure.used_bytes();
  };
  int64_t dense = 0, moe = 0, num_dense = 0, num_moe = 0, modules = 0, shared = 0, put_off = 0;
  bool counted[2][3] = {};
  const auto add_deferred = [&](const Block& part, size_t turn) {
    put_off += deferred(part) * limits_.num_put_off;
    if (!std::exchange(counted[part.is_moe() ? 1 : 0][turn], true)) shared += deferred(part);
  };
  for (size_t i = 0; i < range_.num_blocks; ++i) {
    (block(i).is_moe() ? moe : dense) += saved(block(i));
    ++(block(i).is_moe() ? num_moe : num_dense);
    add_deferred(block(i), turn_of_block(i));
  }
  for (int64_t k = 1; k <= depth(); ++k) {
    modules += saved(module(k)) + saved(module(k).block());
    add_deferred(module(k).block(), turn_of_module());
  }
  add(fmt::format("kept by dense blocks ({})", num_dense), dense);
  add(fmt::format("kept by MoE blocks ({})", num_moe), moe);
  add(fmt::format("kept by MTP modules ({})", depth()), modules);
  add("residual stream, final norm, token ids",
      memory_.used_bytes() - dense - moe - modules - shared - put_off);
  add("gradients within one block's backward pass", shared, /*saved=*/false);
  add("weight gradients that are put off", put_off, /*saved=*/false);
  return lines;
}

void StagePass::begin(int slot_idx, const TokenBatch& batch, const LossScales& scales) {
  FATHOM_CHECK(batch.num_rows >= 1 && batch.num_rows <= limits_.max_rows, "{} rows, at most {}",
               batch.num_rows, limits_.max_rows);
  FATHOM_CHECK(batch.context >= 1 && batch.context <= limits_.max_context, "context {}, at most {}",
               batch.context, limits_.max_context);
  FATHOM_CHECK_GE(batch.row_length, batch.context);
  Slot& slot = slots_[index(slot_idx)];
  FATHOM_CHECK_EQ(slot.put_off, -1, "a slot whose weight gradients are not computed yet");
  slot.scales = scales;
  const int64_t T = batch.num_rows * batch.context;
  for (int64_t k = 0; k <= depth(); ++k)
    slot.depths[index(k)].fill(batch, k, model_.config().vocab_size, model_.cos_sin_SR());
  for (size_t i = 0; i < slot.x.size(); ++i) slot.x_now[i] = slot.x[i].rows(0, T);
  for (size_t i = 0; i < range_.num_blocks; ++i)
    slot.blocks_now[i] = block(i).narrow(slot.blocks[i], T);
  for (int64_t k = 1; k <= depth(); ++k) {
    Module& m = slot.modules[index(k - 1)];
    const int64_t tokens = slot.depths[index(k)].rows.num_tokens();
    m.now = first_rows(m.saved, tokens);
    m.block_now = module(k).block().narrow(m.block, tokens);
  }
  if (!range_.is_last) return;
  slot.rstd_now = slot.rstd_T.rows(0, T);
  slot.hidden_now = slot.hidden_TD.rows(0, T);
  slot.dhidden_now = slot.dhidden_TD.rows(0, T);
}

TensorView StagePass::gradient(int slot) const { return gradient_of(slots_[index(slot)]); }

TensorView StagePass::hidden(int slot, int64_t depth) const {
  const Slot& s = slots_[index(slot)];
  return depth == 0 ? s.hidden_now : s.modules[index(depth - 1)].now.hidden_TD;
}

Block::Deferred StagePass::deferred_of_block(const Slot& slot, size_t i) const {
  const Block::Deferred& deferred = slot.put_off < 0 ? shared_deferred(block(i), turn_of_block(i))
                                                     : put_off_[index(slot.put_off)].blocks[i];
  return block(i).narrow(deferred, slot.x_now[0].dim(0));
}

Block::Deferred StagePass::deferred_of_module(const Slot& slot, int64_t k) const {
  const Block& block = module(k).block();
  const Block::Deferred& deferred = slot.put_off < 0
                                        ? shared_deferred(block, turn_of_module())
                                        : put_off_[index(slot.put_off)].modules[index(k - 1)];
  return block.narrow(deferred, slot.depths[index(k)].rows.num_tokens());
}

BalanceTerm StagePass::balance_term(const LossScales& scales, const RowLayout& rows) const {
  return {.weight = scales.balance,
          .span_tokens = scales.balance_batch_wise ? rows.num_tokens() : rows.row_tokens,
          .from_routing = scales.balance_from_routing};
}

void StagePass::observe_block(Context& ctx, const Block& block, const Block::Saved& saved,
                              const RowLayout& rows, const LossScales& scales,
                              Counts& counts) const {
  const BalanceTerm term = balance_term(scales, rows);
  const double value =
      block.moe().balance_loss_value(ctx, saved.moe, term.span_tokens, term.from_routing);
  counts.sums.balance += value;
  int64_t before = 0;  // MoE layers, in the order of moe_layers()
  for (int64_t layer = 0; layer < block.layer_idx(); ++layer)
    before += model_.config().is_moe_layer(layer) ? 1 : 0;
  if (counts.balance_by_layer != nullptr) counts.balance_by_layer[before] = value;
  if (counts.experts == nullptr) return;
  block.moe().count_experts(saved.moe, counts.experts + before * model_.config().n_routed_experts);
}

// What feeds module k (1-based), and where its gradient goes.
TensorView StagePass::previous_hidden(const Slot& slot, int64_t k) const {
  if (k > 1) return slot.modules[index(k - 2)].now.z_TD;
  return model_.config().mtp_hidden == MtpHidden::kPostNorm ? slot.hidden_now : slot.x_now.back();
}

TensorView StagePass::previous_gradient(const Slot& slot, int64_t k) const {
  if (k > 1) return slot.modules[index(k - 2)].now.dz_TD;
  return model_.config().mtp_hidden == MtpHidden::kPostNorm ? slot.dhidden_now : gradient_of(slot);
}

LossSums StagePass::forward(Context& ctx, int slot_idx, const ModelParameters* gradients,
                            int64_t* expert_counts, double* balance_by_layer) {
  Slot& slot = slots_[index(slot_idx)];
  Counts counts{.experts = expert_counts, .balance_by_layer = balance_by_layer};
  forward_embedding(ctx, slot);
  forward_blocks(ctx, slot, counts);
  forward_end(ctx, slot, gradients, counts);
  return counts.sums;
}

void StagePass::forward_embedding(Context& ctx, Slot& slot) {
  if (!range_.is_first) return;
  embedding_forward(ctx, model_.parameters().embedding_VD, slot.depths[0].next_tokens.as<int32_t>(),
                    slot.x_now[0]);
  ctx.observe("embedding", -1, slot.x_now[0]);
}

void StagePass::forward_blocks(Context& ctx, Slot& slot, Counts& counts) {
  for (size_t i = 0; i < range_.num_blocks; ++i) forward_block(ctx, slot, i, counts);
}

void StagePass::forward_block(Context& ctx, Slot& slot, size_t i, Counts& counts) {
  const RowLayout& rows = slot.depths[0].rows;
  block(i).forward(ctx, rows, slot.x_now[i], slot.blocks_now[i], deferred_of_block(slot, i),
                   slot.x_now[i + 1]);
  if (block(i).is_moe())
    observe_block(ctx, block(i), slot.blocks_now[i], rows, slot.scales, counts);
}

void StagePass::forward_end(Context& ctx, Slot& slot, const ModelParameters* g, Counts& counts) {
  if (!range_.is_last) return;
  rms_norm_forward(ctx, {.x_TD = slot.x_now.back(),
                         .w_D = model_.parameters().final_norm_D,
                         .eps = model_.config().rms_norm_eps,
                         .y_TD = slot.hidden_now,
                         .rstd_T = slot.rstd_now});
  ctx.observe("hidden", -1, slot.hidden_now);
  forward_head(ctx, slot, g, counts.sums);
  for (int64_t k = 1; k <= depth(); ++k) forward_module(ctx, slot, k, g, counts);
}

void StagePass::forward_head(Context& ctx, Slot& slot, const ModelParameters* g, LossSums& sums) {
  sums.main = head_loss(ctx, model_.policy(),
                        {.hidden_TD = slot.hidden_now,
                         .head = model_.parameters().head,
                         .labels_T = slot.depths[0].labels.as<int32_t>(),
                         .scale = g != nullptr ? slot.scales.main : 0,
                         .dhidden_TD = slot.dhidden_now,
                         .dhead_VD = g != nullptr ? g->head_VD : TensorView()});
  if (g != nullptr && slot.scales.main == 0) fill_zero(ctx, slot.dhidden_now);
}

void StagePass::forward_module(Context& ctx, Slot& slot, int64_t k, const ModelParameters* g,
                               Counts& counts) {
  Module& m = slot.modules[index(k - 1)];
  const DepthLayout& d = slot.depths[index(k)];
  const Block& block = module(k).block();
  module(k).join_forward(ctx, d.rows, model_.parameters().embedding_VD, d.next_tokens.as<int32_t>(),
                         previous_hidden(slot, k), slot.depths[index(k - 1)].rows.row_tokens,
                         m.now);
  block.forward(ctx, d.rows, m.now.x_TD, m.block_now, deferred_of_module(slot, k), m.now.z_TD);
  if (block.is_moe()) observe_block(ctx, block, m.block_now, d.rows, slot.scales, counts);
  module(k).head_norm_forward(ctx, m.now);

  const double scale = g != nullptr ? slot.scales.mtp[k - 1] : 0;
  Scratch::Mark mark(ctx.scratch());
  TensorView dhidden;
  if (scale != 0)
    dhidden =
        ctx.scratch().allocate(model_.policy().residual, m.now.hidden_TD.shape, "mtp.dhidden_TD");
  counts.sums.mtp[k - 1] = head_loss(ctx, model_.policy(),
                                     {.hidden_TD = m.now.hidden_TD,
                                      .head = model_.parameters().head,
                                      .labels_T = d.labels.as<int32_t>(),
                                      .scale = scale,
                                      .dhidden_TD = dhidden,
                                      .dhead_VD = g != nullptr ? g->head_VD : TensorView()});
  if (g == nullptr) return;
  if (scale != 0) {
    module(k).head_norm_backward(ctx, m.now, dhidden, g->mtp_modules[index(k - 1)]);
  } else {
    fill_zero(ctx, m.now.dz_TD);
  }
}

int64_t StagePass::deepest_trained(const Slot& slot) const {
  int64_t k = depth();
  while (k > 0 && slot.scales.mtp[k - 1] == 0) --k;
  return k;
}

void StagePass::backward(Context& ctx, int slot_idx, const ModelParameters& g) {
  Slot& slot = slots_[index(slot_idx)];
  if (limits_.travels) return backward_travelling(ctx, slot, g);
  backward_through(ctx, slot, g, /*with_weight=*/true);
}

void StagePass::backward_input(Context& ctx, int slot_idx, const ModelParameters& g) {
  Slot& slot = slots_[index(slot_idx)];
  const auto free = std::find_if(put_off_.begin(), put_off_.end(),
                                 [](const PutOff& put_off) { return !put_off.taken; });
  FATHOM_CHECK(free != put_off_.end(), "more than {} weight gradients put off",
               limits_.num_put_off);
  free->taken = true;
  slot.put_off = static_cast<int>(free - put_off_.begin());
  backward_through(ctx, slot, g, /*with_weight=*/false);
}

void StagePass::backward_through(Context& ctx, Slot& slot, const ModelParameters& g,
                                 bool with_weight) {
  backward_begin(ctx, slot, g, with_weight);
  for (size_t i = range_.num_blocks; i-- > 0;) backward_block(ctx, slot, i, g, with_weight);
  backward_end(ctx, slot, g);
}

void StagePass::backward_begin(Context& ctx, Slot& slot, const ModelParameters& g,
                               bool with_weight) {
  if (!range_.is_last) return;
  const TensorView dx_TD = gradient_of(slot);
  // The gradient that a pre-norm MTP input leaves lies in dx before the final norm adds its own.
  fill_zero(ctx, dx_TD);
  for (int64_t k = deepest_trained(slot); k >= 1; --k)
    backward_module(ctx, slot, k, g, with_weight);
  rms_norm_backward(ctx, {.x_TD = slot.x_now.back(),
                          .w_D = model_.parameters().final_norm_D,
                          .rstd_T = slot.rstd_now,
                          .dy_TD = slot.dhidden_now,
                          .dx_TD = dx_TD,
                          .accumulate_dx = true,
                          .dw_D = g.final_norm_D});
}

void StagePass::backward_block(Context& ctx, Slot& slot, size_t i, const ModelParameters& g,
                               bool with_weight) {
  const RowLayout& rows = slot.depths[0].rows;
  const TensorView dx_TD = gradient_of(slot);
  const Block::Deferred deferred = deferred_of_block(slot, i);
  const BlockParameters& block_g = g.blocks[range_.first_block + i];
  block(i).backward_input(ctx, rows, slot.x_now[i], slot.blocks_now[i], deferred,
                          balance_term(slot.scales, rows), dx_TD, block_g, dx_TD);
  if (with_weight) block(i).backward_weight(ctx, slot.blocks_now[i], deferred, block_g);
}

void StagePass::backward_end(Context& ctx, Slot& slot, const ModelParameters& g) {
  if (!range_.is_first) return;
  embedding_backward(ctx, gradient_of(slot), slot.depths[0].next_tokens.as<int32_t>(),
                     g.embedding_VD);
}

void StagePass::backward_module(Context& ctx, Slot& slot, int64_t k, const ModelParameters& g,
                                bool with_weight) {
  Module& m = slot.modules[index(k - 1)];
  const DepthLayout& d = slot.depths[index(k)];
  const MtpParameters& module_g = g.mtp_modules[index(k - 1)];
  const Block& block = module(k).block();
  const Block::Deferred deferred = deferred_of_module(slot, k);
  const TensorView dz_TD = m.now.dz_TD;
  block.backward_input(ctx, d.rows, m.now.x_TD, m.block_now, deferred,
                       balance_term(slot.scales, d.rows), dz_TD, module_g.block, dz_TD);
  if (with_weight) block.backward_weight(ctx, m.block_now, deferred, module_g.block);
  module(k).join_backward(ctx, d.rows, dz_TD, d.next_tokens.as<int32_t>(), previous_hidden(slot, k),
                          slot.depths[index(k - 1)].rows.row_tokens, m.now, module_g,
                          g.embedding_VD, previous_gradient(slot, k));
  if (with_weight) module(k).join_backward_weight(ctx, m.now, module_g);
}

void StagePass::backward_weight(Context& ctx, int slot_idx, const ModelParameters& g) {
  Slot& slot = slots_[index(slot_idx)];
  FATHOM_CHECK_GE(slot.put_off, 0, "no weight gradients were put off");
  for (int64_t k = deepest_trained(slot); k >= 1; --k) {
    const Module& m = slot.modules[index(k - 1)];
    const MtpParameters& module_g = g.mtp_modules[index(k - 1)];
    module(k).block().backward_weight(ctx, m.block_now, deferred_of_module(slot, k),
                                      module_g.block);
    module(k).join_backward_weight(ctx, m.now, module_g);
  }
  for (size_t i = range_.num_blocks; i-- > 0;) {
    block(i).backward_weight(ctx, slot.blocks_now[i], deferred_of_block(slot, i),
                             g.blocks[range_.first_block + i]);
  }
  put_off_[index(slot.put_off)].taken = false;
  slot.put_off = -1;
}

}  // namespace fathom
