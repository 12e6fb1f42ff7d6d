#include "infer/constraint/mask_cache.h"

#include <algorithm>

#include "core/error.h"
#include "infer/token_mask.h"

namespace fathom {
namespace {
uint64_t child_key(int32_t context, int32_t target) {
  return static_cast<uint64_t>(context) << 32 | static_cast<uint32_t>(target);
}
void add_words(std::span<uint64_t> words, std::span<const uint64_t> more) {
  for (size_t i = 0; i < more.size(); ++i) words[i] |= more[i];
}
}  // namespace

MaskCache::MaskCache(std::shared_ptr<const ConstraintVocabulary> vocabulary, int64_t max_bytes)
    : vocabulary_(std::move(vocabulary)), max_bytes_(max_bytes) {
  place_ends_.resize(static_cast<size_t>(vocabulary_->max_token_bytes()) + 1);
  frame_ends_.resize(place_ends_.size());
}

MaskCache::Nodes MaskCache::all_nodes() const {
  return {1, vocabulary_->nodes()[0].subtree_end, 0};
}

// Sets the bits of the tokens among `part` that can be read from `start`, where all that stands
// above has been read. With `returns`, nodes are noted where a place on the start's own stack may
// return; the part must then be the whole tree.
void MaskCache::walk(AutomatonRun& run, const Nodes& part, AutomatonRun::Place start,
                     std::span<uint64_t> words, std::vector<int32_t>* returns) {
  const auto nodes = vocabulary_->nodes();
  const auto tokens = vocabulary_->tokens();
  const AutomatonRun::Mark before = run.mark();
  run.push_place(start);
  place_ends_[static_cast<size_t>(part.root_depth)] = run.mark().num_places;
  frame_ends_[static_cast<size_t>(part.root_depth)] = run.mark().num_frames;
  const auto note_return = [&](int32_t node, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (run.place(i).stack == AutomatonRun::kUnknown &&
          run.automaton().is_end(run.place(i).state)) {
        if (nodes[static_cast<size_t>(node)].subtree_end > node + 1) returns->push_back(node);
        return;
      }
    }
  };
  if (returns != nullptr) note_return(0, before.num_places, run.mark().num_places);
  for (int32_t i = part.begin; i < part.end;) {
    const auto& node = nodes[static_cast<size_t>(i)];
    const auto depth = static_cast<size_t>(node.depth);
    const size_t begin =
        node.depth - 1 == part.root_depth ? before.num_places : place_ends_[depth - 2];
    const size_t end = place_ends_[depth - 1];
    run.release({end, frame_ends_[depth - 1]});
    run.step(begin, end, node.byte);
    place_ends_[depth] = run.mark().num_places;
    frame_ends_[depth] = run.mark().num_frames;
    if (place_ends_[depth] == end) {
      i = node.subtree_end;
      continue;
    }
    for (int32_t t = node.token_begin; t < node.token_begin + node.num_tokens; ++t) {
      const auto id = static_cast<size_t>(tokens[static_cast<size_t>(t)]);
      words[id / 64] |= uint64_t{1} << (id % 64);
    }
    if (returns != nullptr) note_return(i, end, place_ends_[depth]);
    ++i;
  }
  run.release(before);
}

void MaskCache::keep_behind(const std::vector<int32_t>& returns, StateMask& mask) const {
  const auto nodes = vocabulary_->nodes();
  const auto for_each_child = [&](auto&& body) {
    for (const int32_t node : returns) {
      const int32_t end = nodes[static_cast<size_t>(node)].subtree_end;
      for (int32_t child = node + 1; child < end;
           child = nodes[static_cast<size_t>(child)].subtree_end)
        body(child, nodes[static_cast<size_t>(child)].byte);
    }
  };
  for_each_child([&](int32_t, uint8_t byte) { ++mask.behind_begin[size_t{byte} + 1]; });
  for (size_t b = 0; b < 256; ++b) mask.behind_begin[b + 1] += mask.behind_begin[b];
  mask.behind.resize(static_cast<size_t>(mask.behind_begin[256]));
  std::array<int32_t, 257> at = mask.behind_begin;
  for_each_child(
      [&](int32_t child, uint8_t byte) { mask.behind[static_cast<size_t>(at[byte]++)] = child; });
}

MaskCache::StateMask& MaskCache::state_mask(AutomatonRun& run, int32_t state) {
  const auto [it, is_new] = states_.try_emplace(state);
  StateMask& mask = it->second;
  if (!is_new) return mask;
  try {
    mask.words.resize(static_cast<size_t>(TokenMask::num_words(vocabulary_->num_ids())));
    run.account() = {.limited = false, .budget = run.account().budget, .deepest = 0};
    std::vector<int32_t> returns;
    walk(run, all_nodes(), {state, AutomatonRun::kUnknown}, mask.words, &returns);
    keep_behind(returns, mask);
  } catch (...) {
    states_.erase(state);
    throw;
  }
  mask.deepest = run.account().deepest;
  mask.contexts = static_cast<int32_t>(contexts_.size());
  contexts_.emplace_back();
  bytes_ += static_cast<int64_t>(mask.words.size() * 8 + mask.behind.size() * 4);
  ++statistics_.states_walked;
  return mask;
}

const MaskCache::Context& MaskCache::context(AutomatonRun& run, AutomatonRun::Place place,
                                             const StateMask& mask) {
  int32_t at = mask.contexts;
  int32_t stack = place.stack;
  const auto target_of = [&](int32_t s) {
    return s >= 0 ? run.frame(s).target : AutomatonRun::kBottom;
  };
  while (contexts_[static_cast<size_t>(at)].words == nullptr) {
    const auto it = context_children_.find(child_key(at, target_of(stack)));
    if (it == context_children_.end()) break;
    at = it->second;
    if (stack >= 0) stack = run.frame(stack).parent;
  }
  if (contexts_[static_cast<size_t>(at)].words != nullptr)
    return contexts_[static_cast<size_t>(at)];

  const int32_t depth = run.depth(place.stack);
  auto words = std::make_unique<Words>(mask.words);
  run.account() = {
      .limited = false, .budget = run.account().budget, .shallowest = depth, .deepest = 0};
  if (place.stack >= 0) {
    const AutomatonRun::Frame top = run.frame(place.stack);
    // Most of what lies behind a return is refused by its first byte. Finding those bytes looks at
    // as many frames as refusing each of them would.
    ByteSet first;
    run.add_first_bytes({top.target, top.parent}, first);
    int32_t stack = top.parent;
    for (int32_t target = top.target; run.automaton().is_end(target) && stack >= 0;
         stack = run.frame(stack).parent)
      target = run.frame(stack).target;
    const bool meets_bottom = stack < 0 && run.can_end({top.target, top.parent});
    run.account().shallowest = meets_bottom ? -1 : run.depth(stack);
    const auto nodes = vocabulary_->nodes();
    for (size_t b = 0; b < 256; ++b) {
      if (!first.contains(static_cast<uint8_t>(b))) continue;
      for (auto i = static_cast<size_t>(mask.behind_begin[b]);
           i < static_cast<size_t>(mask.behind_begin[b + 1]); ++i) {
        const auto& node = nodes[static_cast<size_t>(mask.behind[i])];
        walk(run, {mask.behind[i], node.subtree_end, node.depth - 1}, {top.target, top.parent},
             *words, nullptr);
      }
    }
  } else {
    run.account().shallowest = -1;
  }
  ++statistics_.contexts_walked;
  bytes_ += static_cast<int64_t>(words->size() * 8);
  // The key: one frame for each that was taken off, and the bottom if it was met.
  const int32_t num_looked_at = depth - run.account().shallowest;
  const int32_t deepest = run.account().deepest - depth;
  at = mask.contexts;
  stack = place.stack;
  for (int32_t i = 0; i < num_looked_at; ++i) {
    const auto [it, is_new] = context_children_.try_emplace(child_key(at, target_of(stack)),
                                                            static_cast<int32_t>(contexts_.size()));
    if (is_new) contexts_.emplace_back();
    at = it->second;
    if (stack >= 0) stack = run.frame(stack).parent;
  }
  Context& result = contexts_[static_cast<size_t>(at)];
  result.words = std::move(words);
  result.deepest = deepest;
  return result;
}

void MaskCache::add_tokens(AutomatonRun& run, AutomatonRun::Place place,
                           std::span<uint64_t> words) {
  FATHOM_CHECK_EQ(static_cast<int64_t>(words.size()), TokenMask::num_words(vocabulary_->num_ids()));
  if (bytes_ > max_bytes_) {
    states_.clear();
    contexts_.clear();
    context_children_.clear();
    bytes_ = 0;
  }
  const int32_t depth = run.depth(place.stack);
  const int32_t state = run.automaton().twin(place.state);
  StateMask& mask = state_mask(run, state);
  bool fits = depth + mask.deepest <= run.max_stack();
  if (fits && mask.behind.empty()) return add_words(words, mask.words);
  if (fits) {
    const Context& found = context(run, {state, place.stack}, mask);
    fits = depth + found.deepest <= run.max_stack();
    if (fits) return add_words(words, *found.words);
  }
  // Near the limit of the stack what is allowed depends on the depth: found for this place alone.
  ++statistics_.uncached_walks;
  run.account() = {.limited = true, .budget = run.account().budget};
  walk(run, all_nodes(), place, words, nullptr);
}

}  // namespace fathom
