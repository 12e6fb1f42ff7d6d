#include "model/forward_cached.h"

#include "core/mapped_memory.h"
#include "kernels/kernels.h"
#include "model/head.h"

namespace fathom {
namespace {

// The tokens of a call, in scratch memory.
struct Tokens {
  int64_t num_tokens = 0, num_logits = 0;
  int32_t *ids = nullptr, *positions = nullptr, *logit_rows = nullptr;
  CachedSequence* cached = nullptr;  // of one layer

  Tokens(Scratch& scratch, const Model& model, std::span<const SequenceInput> sequences) {
    for (const SequenceInput& sequence : sequences) {
      num_tokens += static_cast<int64_t>(sequence.tokens.size());
      num_logits += sequence.num_logits;
    }
    ids = scratch.allocate<int32_t>(num_tokens, "tokens_T");
    positions = scratch.allocate<int32_t>(num_tokens, "positions_T");
    logit_rows = scratch.allocate<int32_t>(num_logits, "logit_rows_L");
    cached = scratch.allocate_structs<CachedSequence>(static_cast<int64_t>(sequences.size()),
                                                      "cached_B");
    int64_t t = 0, l = 0;
    for (const SequenceInput& sequence : sequences) {
      const auto count = static_cast<int64_t>(sequence.tokens.size());
      FATHOM_CHECK(sequence.num_logits >= 0 && sequence.num_logits <= count, "{} logits of {}",
                   sequence.num_logits, count);
      FATHOM_CHECK_LE(sequence.num_cached + count, model.max_positions(),
                      "positions beyond the rotation table");
      for (int64_t i = 0; i < count; ++i, ++t) {
        ids[t] = sequence.tokens[static_cast<size_t>(i)];
        positions[t] = static_cast<int32_t>(sequence.num_cached + i);
      }
      for (int64_t i = sequence.num_logits; i > 0; --i)
        logit_rows[l++] = static_cast<int32_t>(t - i);
    }
  }

  RowLayout rows(const Model& model) const {
    return {.num_rows = num_tokens,
            .row_tokens = 1,
            .positions_T = positions,
            .cos_sin_SR = model.cos_sin_SR()};
  }
  std::span<const CachedSequence> layer(const CacheLayout& layout,
                                        std::span<const SequenceInput> sequences,
                                        int64_t layer_idx) const {
    FATHOM_CHECK_LT(layer_idx, layout.num_layers, "layers of the cache");
    for (size_t b = 0; b < sequences.size(); ++b) {
      const SequenceInput& s = sequences[b];
      new (&cached[b]) CachedSequence{layout.layer(s.pages, s.num_pages, layer_idx), s.num_cached,
                                      static_cast<int64_t>(s.tokens.size()), s.expanded};
    }
    return {cached, sequences.size()};
  }
};

// Logits of the wanted rows of x, behind a norm.
void normed_logits(Context& ctx, const Model& model, const Tokens& tokens, const TensorView& x_TD,
                   const TensorView& norm_D, const TensorView& logits_LV) {
  if (tokens.num_logits == 0) return;
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const Shape shape{tokens.num_logits, model.config().hidden_size};
  TensorView last_LD = scratch.allocate(x_TD.dtype, shape, "last_LD");
  gather_rows(ctx, x_TD,
              TensorView(tokens.logit_rows, DType::kI32, Shape{tokens.num_logits}, "logit_rows_L"),
              last_LD);
  TensorView hidden_LD = scratch.allocate(model.policy().activations, shape, "hidden_LD");
  rms_norm_forward(
      ctx, {.x_TD = last_LD, .w_D = norm_D, .eps = model.config().rms_norm_eps, .y_TD = hidden_LD});
  head_logits(ctx, model.policy(), hidden_LD, model.parameters().head, logits_LV);
  ctx.observe("logits", -1, logits_LV);
}

}  // namespace

DType mtp_hidden_dtype(const Model& model) {
  return model.config().mtp_hidden == MtpHidden::kPostNorm ? model.policy().activations
                                                           : model.policy().residual;
}

void forward_cached(Context& ctx, const Model& model, const CacheLayout& layout,
                    std::span<const SequenceInput> sequences, const CachedOutputs& outputs) {
  const ModelConfig& config = model.config();
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const Tokens tokens(scratch, model, sequences);
  const RowLayout rows = tokens.rows(model);
  TensorView x_TD = scratch.allocate(model.policy().residual,
                                     Shape{tokens.num_tokens, config.hidden_size}, "x_TD");
  embedding_forward(ctx, model.parameters().embedding_VD, tokens.ids, x_TD);
  ctx.observe("embedding", -1, x_TD);

  int64_t* counts = outputs.expert_counts;
  int32_t* choices = outputs.expert_choices;
  for (size_t i = 0; i < model.blocks().size(); ++i) {
    const Block& block = model.blocks()[i];
    block.forward_cached(ctx, tokens.layer(layout, sequences, block.layer_idx()), rows, x_TD,
                         i + 1 < model.blocks().size() ? model.blocks()[i + 1].first_read()
                                                       : NextRead{&model.parameters().head},
                         block.is_moe() ? counts : nullptr, block.is_moe() ? choices : nullptr);
    if (block.is_moe() && counts != nullptr) counts += config.n_routed_experts;
    if (block.is_moe() && choices != nullptr)
      choices += tokens.num_tokens * config.num_experts_per_tok;
    ctx.observe("block", block.layer_idx(), x_TD);
  }
  if (!outputs.hidden_TD.empty()) {
    if (config.mtp_hidden == MtpHidden::kPostNorm) {
      rms_norm_forward(ctx, {.x_TD = x_TD,
                             .w_D = model.parameters().final_norm_D,
                             .eps = config.rms_norm_eps,
                             .y_TD = outputs.hidden_TD});
    } else {
      cast(ctx, x_TD, outputs.hidden_TD);
    }
  }
  normed_logits(ctx, model, tokens, x_TD, model.parameters().final_norm_D, outputs.logits_LV);
  check_mapped_memory();
}

void forward_mtp_cached(Context& ctx, const Model& model, const CacheLayout& layout,
                        int64_t module_idx, std::span<const SequenceInput> sequences,
                        const TensorView& previous_TD, const CachedOutputs& outputs) {
  const MtpModule& module = model.mtp_modules()[static_cast<size_t>(module_idx)];
  const MtpParameters& w = model.parameters().mtp_modules[static_cast<size_t>(module_idx)];
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  const Tokens tokens(scratch, model, sequences);
  TensorView x_TD = scratch.allocate(
      model.policy().residual, Shape{tokens.num_tokens, model.config().hidden_size}, "mtp.x_TD");
  module.join_cached(ctx, model.parameters().embedding_VD, tokens.ids, previous_TD, x_TD);
  int64_t* counts = outputs.expert_counts;
  if (counts != nullptr) {
    for (int64_t i = 0; i < module.block().layer_idx(); ++i)
      counts += model.config().is_moe_layer(i) ? model.config().n_routed_experts : 0;
  }
  module.block().forward_cached(ctx, tokens.layer(layout, sequences, module.block().layer_idx()),
                                tokens.rows(model), x_TD, {&model.parameters().head},
                                module.block().is_moe() ? counts : nullptr);
  ctx.observe("block", module.block().layer_idx(), x_TD);
  if (!outputs.hidden_TD.empty()) cast(ctx, x_TD, outputs.hidden_TD);
  normed_logits(ctx, model, tokens, x_TD, w.head_norm_D, outputs.logits_LV);
  check_mapped_memory();
}

}  // namespace fathom
