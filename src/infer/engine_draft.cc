// What a step drafts for the next (SPEC C.6). With n positions in the cache and token n just
// chosen, module m (from 0) reads the hidden state of position i, the main model's or module m -
// 1's, with token i + m + 1, and guesses token i + m + 2; its last row, at position n - 1, drafts
// token n + m + 1. So all but the first module's last rows rest on drafts: their cache rows are
// computed again when the true tokens are known, for which a sequence carries one hidden row of
// each module. Behind the last module it drafts on from its own hidden states.
//
// None of this can change a reply, only how often a draft is right: where a module was not run, or
// a sequence came back from the prefix cache, rows are zeros or those of another request's tokens.
#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "infer/engine_internal.h"

namespace fathom {

int64_t Engine::num_draft_modules() const {
  return std::min(
      {model_.config().num_nextn_predict_layers, config_.max_draft, DraftDepth::kMaxDepth});
}

int64_t Engine::draft_row_bytes() const {
  return model_.config().hidden_size * dtype_bytes(model_.policy().residual);
}

void Engine::draft(Context& ctx, bool only_decoding) {
  const auto begin = EngineClock::now();
  const int64_t num_rows = gather_first_module();
  if (num_rows == 0) return;
  const auto num_sequences = static_cast<int64_t>(inputs_.size());
  run_module(ctx, 0, num_rows, mtp_hidden_dtype(model_));
  // Prompts go through all modules, which need their rows later.
  const int64_t num_modules =
      only_decoding ? std::min(step_depth_, num_draft_modules()) : num_draft_modules();
  for (int64_t m = 1; m < num_modules; ++m) {
    const int64_t rows = gather_module(m);
    if (rows == 0) break;
    run_module(ctx, m, rows, model_.policy().residual);
  }
  for (const Entry& entry : entries_) {
    for (int64_t m = num_modules; m < num_draft_modules(); ++m) {
      if (!entry.sequence->finished)
        clear_module_rows(*entry.sequence, m, entry.sequence->module_done[0]);
    }
  }
  const int64_t num_passes = draft_by_the_last_module(ctx, num_modules);
  if (only_decoding) {
    depth_.record_draft(num_sequences, num_passes,
                        std::chrono::duration<double>(EngineClock::now() - begin).count());
  }
}

// Nothing is drafted, so no module runs: zeros are what later rows will attend to.
void Engine::skip_drafting() {
  for (const Entry& entry : entries_) {
    if (entry.sequence->finished) continue;
    entry.sequence->drafts.clear();
    for (int64_t m = 0; m < num_draft_modules(); ++m)
      clear_module_rows(*entry.sequence, m, entry.begin + entry.num_kept);
  }
}

void Engine::clear_module_rows(Sequence& sequence, int64_t m, int64_t end) {
  int64_t& done = sequence.module_done[static_cast<size_t>(m)];
  const CacheRows rows =
      layout_.layer(sequence.page_data.data(), static_cast<int64_t>(sequence.page_data.size()),
                    model_.config().num_hidden_layers + m);
  for (; done < end; ++done) std::fill_n(rows.row(done), layout_.row_bytes, std::byte{0});
}

// Lists the rows that the step has kept, with the main model's hidden states of them together in
// hidden_. Returns their number.
int64_t Engine::gather_first_module() {
  const int64_t row_bytes = model_.config().hidden_size * dtype_bytes(mtp_hidden_dtype(model_));
  inputs_.clear();
  module_rows_.clear();
  int64_t num_rows = 0;
  for (Entry& entry : entries_) {
    Sequence& sequence = *entry.sequence;
    // Of a prompt the rows are wanted by those who share its pages.
    if (sequence.finished && (entry.decoding || sequence.reason == FinishReason::kError)) continue;
    const auto known = static_cast<int64_t>(sequence.tokens.size());
    entry.num_kept = std::min(entry.num_kept, known - entry.begin - 1);
    if (entry.num_kept <= 0) continue;
    sequence.drafts.clear();
    const int64_t end = entry.begin + entry.num_kept;
    const bool leads = !sequence.finished && end + 1 == known && step_depth_ > 0;
    std::copy_n(hidden_.begin() + entry.first_row * row_bytes, entry.num_kept * row_bytes,
                hidden_.begin() + num_rows * row_bytes);
    inputs_.push_back({.tokens = std::span(sequence.tokens)
                                     .subspan(static_cast<size_t>(entry.begin + 1),
                                              static_cast<size_t>(entry.num_kept)),
                       .pages = sequence.page_data.data(),
                       .num_pages = static_cast<int64_t>(sequence.page_data.size()),
                       .num_cached = entry.begin,
                       .num_logits = leads ? 1 : 0,
                       .expanded = entry.expanded});
    module_rows_.push_back({&sequence, entry.begin, end, num_rows, leads});
    sequence.module_done[0] = std::max(sequence.module_done[0], end);
    num_rows += entry.num_kept;
  }
  return num_rows;
}

// The same for module m behind module m - 1, whose hidden states are in next_hidden_: what is now
// known for good, and behind it what rests on drafts.
int64_t Engine::gather_module(int64_t m) {
  const auto module = static_cast<size_t>(m);
  const int64_t row_bytes = draft_row_bytes();
  // A prompt's two parts come together.
  std::sort(module_rows_.begin(), module_rows_.end(), [](const auto& a, const auto& b) {
    return a.sequence != b.sequence ? a.sequence->id < b.sequence->id : a.begin < b.begin;
  });
  size_t most = 0;
  for (const ModuleRows& rows : module_rows_)
    most += static_cast<size_t>(rows.end - rows.begin) + 1;
  hidden_.resize(std::max(hidden_.size(), most * static_cast<size_t>(row_bytes)));
  module_tokens_.clear();
  module_tokens_.reserve(most);  // inputs point into it
  inputs_.clear();
  int64_t num_rows = 0;
  size_t num_listed = 0;
  for (size_t i = 0; i < module_rows_.size();) {
    size_t last = i;
    while (last + 1 < module_rows_.size() &&
           module_rows_[last + 1].sequence == module_rows_[i].sequence)
      ++last;
    Sequence& sequence = *module_rows_[i].sequence;
    const auto known = static_cast<int64_t>(sequence.tokens.size());
    const int64_t first = module_rows_[i].begin, end = module_rows_[last].end;
    const bool leads = module_rows_[last].leads && m < step_depth_ &&
                       static_cast<int64_t>(sequence.drafts.size()) == m;
    const auto hidden_of = [&](int64_t position) {
      size_t part = i;
      while (position >= module_rows_[part].end) ++part;
      return next_hidden_.begin() +
             (module_rows_[part].first_row + position - module_rows_[part].begin) * row_bytes;
    };
    int64_t begin = sequence.module_done[module];
    auto& carried = sequence.carried[module];
    const bool has_carried =
        begin + 1 == first && static_cast<int64_t>(carried.size()) == row_bytes;
    if (!has_carried) begin = std::max(begin, first);
    const int64_t done = std::clamp(known - 1 - m, begin, end), to = leads ? end : done;
    ModuleRows rows{&sequence, begin, to, num_rows, leads};
    for (int64_t position = begin; position < to; ++position, ++num_rows) {
      std::copy_n(position < first ? carried.cbegin() : hidden_of(position), row_bytes,
                  hidden_.begin() + num_rows * row_bytes);
      const int64_t token = position + m + 1;
      module_tokens_.push_back(token < known ? sequence.tokens[static_cast<size_t>(token)]
                                             : sequence.drafts[static_cast<size_t>(token - known)]);
    }
    if (done >= first && done < end) {
      carried.resize(static_cast<size_t>(row_bytes));
      std::copy_n(hidden_of(done), row_bytes, carried.begin());
    }
    sequence.module_done[module] = done;
    i = last + 1;
    if (to == begin) continue;
    inputs_.push_back({.tokens = std::span(module_tokens_).last(static_cast<size_t>(to - begin)),
                       .pages = sequence.page_data.data(),
                       .num_pages = static_cast<int64_t>(sequence.page_data.size()),
                       .num_cached = begin,
                       .num_logits = leads ? 1 : 0});
    module_rows_[num_listed++] = rows;
  }
  module_rows_.resize(num_listed);
  return num_rows;
}

// Module m over inputs_, from hidden_ to next_hidden_; takes the drafts of those who lead.
void Engine::run_module(Context& ctx, int64_t m, int64_t num_rows, DType hidden_dtype) {
  const int64_t D = model_.config().hidden_size, V = model_.config().vocab_size;
  int64_t num_logits = 0;
  for (const SequenceInput& input : inputs_) num_logits += input.num_logits;
  next_hidden_.resize(
      std::max(next_hidden_.size(), static_cast<size_t>(num_rows * draft_row_bytes())));
  logits_.resize(std::max(logits_.size(), static_cast<size_t>(num_logits * V)));
  forward_mtp_cached(ctx, model_, layout_, m, inputs_,
                     TensorView(hidden_.data(), hidden_dtype, Shape{num_rows, D}, "mtp_hidden_TD"),
                     {.logits_LV = TensorView(logits_.data(), DType::kF32, Shape{num_logits, V},
                                              "draft_logits_LV"),
                      .hidden_TD = TensorView(next_hidden_.data(), model_.policy().residual,
                                              Shape{num_rows, D}, "mtp_next_TD"),
                      .expert_counts = expert_counts_.data()});
  int64_t logit = 0;
  for (const ModuleRows& rows : module_rows_) {
    if (rows.leads) choose_draft(*rows.sequence, logits_row(logit++));
  }
}

// The last module again and again, a token a pass. Returns the number of passes of all modules.
int64_t Engine::draft_by_the_last_module(Context& ctx, int64_t num_modules) {
  const int64_t row_bytes = draft_row_bytes();
  int64_t depth = num_modules;
  for (; depth < step_depth_; ++depth) {
    inputs_.clear();
    size_t num_listed = 0;
    int64_t num_rows = 0;
    hidden_.resize(std::max(hidden_.size(), module_rows_.size() * static_cast<size_t>(row_bytes)));
    for (const ModuleRows& rows : module_rows_) {
      Sequence& sequence = *rows.sequence;
      // Behind its newest row; true rows will take the places.
      const int64_t position = sequence.num_cached + depth - num_modules;
      if (!rows.leads || static_cast<int64_t>(sequence.drafts.size()) != depth ||
          position + 1 >= max_request_tokens() ||
          !ensure_pages(sequence, position + 1, /*may_preempt=*/false))
        continue;
      std::copy_n(next_hidden_.begin() + (rows.first_row + rows.end - rows.begin - 1) * row_bytes,
                  row_bytes, hidden_.begin() + num_rows * row_bytes);
      inputs_.push_back({.tokens = std::span(sequence.drafts).last(1),
                         .pages = sequence.page_data.data(),
                         .num_pages = static_cast<int64_t>(sequence.page_data.size()),
                         .num_cached = position,
                         .num_logits = 1});
      module_rows_[num_listed++] = {&sequence, position, position + 1, num_rows++, true};
    }
    module_rows_.resize(num_listed);
    if (num_rows == 0) break;
    run_module(ctx, num_modules - 1, num_rows, model_.policy().residual);
  }
  return depth;
}

// The token that plain decoding would draw there if the module were the model.
void Engine::choose_draft(Sequence& sequence, std::span<const float> logits) {
  const Request& request = sequence.request;
  try {
    builder_.build(
        request.sampling,
        {.logits = logits, .counts = request.sampling.has_penalties() ? &sequence.counts : nullptr},
        distribution_);
  } catch (const Error&) {
    return;  // a module that has gone wrong drafts nothing
  }
  const auto index = static_cast<uint64_t>(sequence.num_output()) + sequence.drafts.size();
  sequence.drafts.push_back(
      distribution_.draw(Random(request.sampling.seed, RandomPurpose::kSampling), index));
}

}  // namespace fathom
