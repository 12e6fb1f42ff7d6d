// Passes whose rows travel between ranks, arranged so that something is computed meanwhile (report
// section 3.2.1, figure 4). Rows are on their way four times in a pair of blocks; with one link, in
// this order:
//
//   link      B combine         F dispatch       B dispatch       F combine
//   compute   F attention, W    B experts, W     F experts, W     B attention, W
//
// What is sent in one column is received at the end of it. When the column's own work is done
// before that, weight gradients (W) of this block and of the one before are computed, piece by
// piece, until the rows are there: which pieces run where depends on time, their order does not,
// so results have the bits of passes that wait.
#include <algorithm>

#include "model/stage_pass.h"

namespace fathom {

void StagePass::WeightQueue::add(const Entry& entry) {
  FATHOM_CHECK_LT(num, 2, "weight gradients of more than two blocks");
  entries[num++] = entry;
}

void StagePass::WeightQueue::complete_last() {
  entries[num - 1].available = entries[num - 1].block->num_weight_pieces();
}

bool StagePass::WeightQueue::run_one(Context& ctx) {
  if (num == 0 || entries[0].next == entries[0].available) return false;
  Entry& e = entries[0];
  e.block->backward_weight_piece(ctx, e.next++, *e.saved, e.deferred, *e.gradients);
  if (e.next == e.block->num_weight_pieces()) {
    std::swap(entries[0], entries[1]);
    --num;
  }
  return true;
}

void StagePass::WeightQueue::finish_older(Context& ctx) {
  while (num > 1) run_one(ctx);
}

void StagePass::WeightQueue::finish(Context& ctx) {
  while (run_one(ctx)) {
  }
}

// One block of the forward pass, in the columns above.
struct StagePass::ForwardBlocks {
  StagePass& stage;
  Slot& slot;
  Counts& counts;

  const Block& block(size_t i) const { return stage.block(i); }
  const Block::Saved& saved(size_t i) const { return slot.blocks_now[i]; }
  void attention(Context& ctx, size_t i) const {
    block(i).attention_forward(ctx, slot.depths[0].rows, slot.x_now[i], saved(i),
                               stage.deferred_of_block(slot, i), Half::kSend);
  }
  void send_to_experts(Context& ctx, size_t i, WeightQueue& meanwhile) const {
    meanwhile.run_until(ctx, [&] { return block(i).routing_has_come(saved(i)); });
    block(i).finish_routing(ctx, saved(i));
    block(i).dispatch_forward(ctx, saved(i), stage.deferred_of_block(slot, i), Half::kSend);
  }
  void experts(Context& ctx, size_t i, WeightQueue& meanwhile) const {
    meanwhile.run_until(ctx, [&] { return block(i).rows_have_come(saved(i), Way::kToExperts); });
    const Block::Deferred deferred = stage.deferred_of_block(slot, i);
    block(i).dispatch_forward(ctx, saved(i), deferred, Half::kReceive);
    block(i).experts_forward(ctx, saved(i), deferred, slot.x_now[i + 1]);
    block(i).combine_forward(ctx, saved(i), deferred, slot.x_now[i + 1], Half::kSend);
  }
  void end(Context& ctx, size_t i, WeightQueue& meanwhile) const {
    meanwhile.run_until(ctx, [&] { return block(i).rows_have_come(saved(i), Way::kToTokens); });
    block(i).combine_forward(ctx, saved(i), stage.deferred_of_block(slot, i), slot.x_now[i + 1],
                             Half::kReceive);
    if (block(i).is_moe())
      stage.observe_block(ctx, block(i), saved(i), slot.depths[0].rows, slot.scales, counts);
  }
};

struct StagePass::BackwardBlocks {
  StagePass& stage;
  Slot& slot;
  const ModelParameters& g;
  WeightQueue& weights;

  const Block& block(size_t i) const { return stage.block(i); }
  const Block::Saved& saved(size_t i) const { return slot.blocks_now[i]; }
  const BlockParameters& gradients(size_t i) const {
    return g.blocks[stage.range_.first_block + i];
  }
  void begin(Context& ctx, size_t i) const {
    block(i).combine_backward(ctx, saved(i), stage.deferred_of_block(slot, i),
                              stage.gradient_of(slot), Half::kSend);
  }
  void experts(Context& ctx, size_t i, const TensorView& dz_TD) const {
    weights.run_until(ctx, [&] { return block(i).rows_have_come(saved(i), Way::kToExperts); });
    const Block::Deferred deferred = stage.deferred_of_block(slot, i);
    block(i).combine_backward(ctx, saved(i), deferred, stage.gradient_of(slot), Half::kReceive);
    block(i).experts_backward_input(ctx, saved(i), deferred, dz_TD);
    block(i).dispatch_backward(ctx, saved(i), deferred, dz_TD, Half::kSend);
    weights.add({&block(i), &saved(i), deferred, &gradients(i), /*next=*/0,
                 block(i).num_early_weight_pieces()});
  }
  void attention(Context& ctx, size_t i, const TensorView& dz_TD) const {
    weights.run_until(ctx, [&] { return block(i).rows_have_come(saved(i), Way::kToTokens); });
    const RowLayout& rows = slot.depths[0].rows;
    const TensorView dx_TD = stage.gradient_of(slot);
    const Block::Deferred deferred = stage.deferred_of_block(slot, i);
    block(i).dispatch_backward(ctx, saved(i), deferred, dz_TD, Half::kReceive);
    block(i).attention_backward_input(ctx, rows, slot.x_now[i], saved(i), deferred,
                                      stage.balance_term(slot.scales, rows), dz_TD, dx_TD,
                                      gradients(i), dx_TD);
    weights.complete_last();
    weights.finish_older(ctx);  // the next block takes their memory
  }
  void alone(Context& ctx, size_t i, bool begun) const {
    Scratch::Mark mark(ctx.scratch());
    const TensorView dz_TD = dz(ctx);
    if (!begun) begin(ctx, i);
    experts(ctx, i, dz_TD);
    attention(ctx, i, dz_TD);
  }
  TensorView dz(Context& ctx) const {
    return ctx.scratch().allocate(stage.model_.policy().residual, stage.gradient_of(slot).shape,
                                  "block.dz_TD");
  }
};

void StagePass::begin_backward(Context& ctx, int slot, const ModelParameters& g) {
  FATHOM_CHECK(limits_.travels, "no memory for weight gradients that wait");
  FATHOM_CHECK(begun_ == nullptr, "a backward pass that did not go on");
  weights_.finish(ctx);  // of the pass before, when it was here
  Slot& b = slots_[index(slot)];
  begun_ = &b;
  backward_begin(ctx, b, g, /*with_weight=*/true);
  if (range_.num_blocks > 0)
    BackwardBlocks{*this, b, g, weights_}.begin(ctx, range_.num_blocks - 1);
}

void StagePass::finish_weights(Context& ctx) { weights_.finish(ctx); }

LossSums StagePass::overlapped(Context& ctx, StagePass& fs, int forward_slot, StagePass& bs,
                               int backward_slot, const ModelParameters& g, int64_t* expert_counts,
                               double* balance_by_layer,
                               const std::function<void()>& gradient_ready) {
  FATHOM_CHECK(&fs != &bs, "one stage has memory for one pass at a time");
  Slot &f = fs.slots_[index(forward_slot)], &b = bs.slots_[index(backward_slot)];
  if (bs.begun_ != &b) bs.begin_backward(ctx, backward_slot, g);
  bs.begun_ = nullptr;
  fs.weights_.finish(ctx);
  Counts counts{.experts = expert_counts, .balance_by_layer = balance_by_layer};
  WeightQueue& weights = bs.weights_;
  const ForwardBlocks forward{fs, f, counts};
  const BackwardBlocks backward{bs, b, g, weights};
  fs.forward_embedding(ctx, f);
  const size_t num_f = fs.range_.num_blocks, num_b = bs.range_.num_blocks;
  const size_t num_pairs = std::min(num_f, num_b);
  for (size_t i = 0; i < num_pairs; ++i) {
    const size_t j = num_b - 1 - i;
    Scratch::Mark mark(ctx.scratch());
    const TensorView dz_TD = backward.dz(ctx);
    if (i > 0) backward.begin(ctx, j);
    if (i > 0) forward.end(ctx, i - 1, weights);
    forward.attention(ctx, i);
    forward.send_to_experts(ctx, i, weights);
    backward.experts(ctx, j, dz_TD);
    forward.experts(ctx, i, weights);
    backward.attention(ctx, j, dz_TD);
  }
  // The stages of a rank may have different numbers of blocks.
  const auto end_of_pairs = [&] {
    if (num_pairs > 0) forward.end(ctx, num_pairs - 1, weights);
  };
  if (num_b > num_pairs) end_of_pairs();
  for (size_t j = num_b - num_pairs; j-- > 0;) backward.alone(ctx, j, /*begun=*/j + 1 == num_b);
  bs.backward_end(ctx, b, g);
  if (gradient_ready) gradient_ready();
  if (num_b == num_pairs) end_of_pairs();
  for (size_t i = num_pairs; i < num_f; ++i) fs.forward_block(ctx, f, i, counts);
  fs.forward_end(ctx, f, &g, counts);
  return counts.sums;
}

// Alone: a block's weight gradients while its own rows and the next block's travel.
void StagePass::backward_travelling(Context& ctx, Slot& slot, const ModelParameters& g) {
  weights_.finish(ctx);
  const BackwardBlocks backward{*this, slot, g, weights_};
  backward_begin(ctx, slot, g, /*with_weight=*/true);
  for (size_t i = range_.num_blocks; i-- > 0;) backward.alone(ctx, i, /*begun=*/false);
  weights_.finish(ctx);
  backward_end(ctx, slot, g);
}

}  // namespace fathom
