// The model over the inference cache: new tokens of many sequences in one call. A token's logits
// have the same bits whatever else is in the call and however a sequence was cut into calls.
#pragma once

#include <cstdint>
#include <span>

#include "model/cache_layout.h"
#include "model/model.h"

namespace fathom {

// Consecutive new tokens of one sequence, behind `num_cached` that its pages hold. A sequence may
// come in several entries of one call, in ascending order; entries that are expanded (see
// CachedSequence) stand behind all others.
struct SequenceInput {
  std::span<const int32_t> tokens;
  std::byte* const* pages = nullptr;  // for all its tokens, the new ones included
  int64_t num_pages = 0;
  int64_t num_cached = 0;
  int64_t num_logits = 1;  // of the last so many of these tokens
  bool expanded = false;
};

struct CachedOutputs {
  TensorView logits_LV;  // small dtype: the entries' logits, one behind the other
  // What the MTP modules read, a row for each new token, [T, D] in the dtype that
  // mtp_hidden_dtype() names; may be empty.
  TensorView hidden_TD;
  int64_t* expert_counts = nullptr;  // [moe layers, E] +=; may be null
  // [moe layers, T, A], the main model's: which experts each new token took, in the order of their
  // scores; may be null.
  int32_t* expert_choices = nullptr;
};

// Runs the new tokens through the main model, appending to the cache.
// Weights in a mapped file that was cut short are an Error that names it.
void forward_cached(Context& ctx, const Model& model, const CacheLayout& layout,
                    std::span<const SequenceInput> sequences, const CachedOutputs& outputs);

// Runs one MTP module (SPEC C.6). An entry's token i is the one that follows position num_cached +
// i; its row of previous_TD is the hidden state of that position: outputs.hidden_TD of the main
// model, or of the module before. outputs.hidden_TD: rows for the next depth, residual dtype.
void forward_mtp_cached(Context& ctx, const Model& model, const CacheLayout& layout,
                        int64_t module_idx, std::span<const SequenceInput> sequences,
                        const TensorView& previous_TD, const CachedOutputs& outputs);

// Of the main model's hidden states: before or behind its final norm (mtp_hidden).
DType mtp_hidden_dtype(const Model& model);

}  // namespace fathom
