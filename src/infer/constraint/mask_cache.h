// Which tokens may come at a place of an automaton, remembered.
//
// Most tokens are decided by the state alone, whatever the stack; that is found once for each
// state, in one walk over the vocabulary's tree (the split of XGrammar, Dong et al. 2024). The rest
// run past the end of the rule and go on in its callers: those walks, of small parts of the tree,
// are remembered by the state and by as many frames as they looked at, so that places in different
// depths of the same structure share them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "infer/constraint/automaton_run.h"
#include "infer/constraint/vocabulary.h"

namespace fathom {

class MaskCache {
 public:
  // Not for two threads at a time. max_bytes bounds what is remembered; beyond it all is forgotten.
  MaskCache(std::shared_ptr<const ConstraintVocabulary> vocabulary, int64_t max_bytes);

  // Sets the bits of the tokens that may come at `place`, beside those that are set already. Uses
  // `run` as a work space and leaves it as it was. Error: the budget of run.account() is spent.
  void add_tokens(AutomatonRun& run, AutomatonRun::Place place, std::span<uint64_t> words);

  struct Statistics {
    int64_t states_walked = 0;
    int64_t contexts_walked = 0;
    int64_t uncached_walks = 0;  // near the limit of the stack
  };
  const Statistics& statistics() const { return statistics_; }

 private:
  using Words = std::vector<uint64_t>;
  struct StateMask {
    Words words;
    // The children of those nodes of the tree where the rule may be complete: what lies from there
    // on is for the callers. By their byte: behind[behind_begin[b] .. behind_begin[b + 1]).
    std::vector<int32_t> behind;
    std::array<int32_t, 257> behind_begin{};
    int32_t deepest = 0;  // frames in use or needed on top of the place's own
    int32_t contexts = -1;
  };
  // A tree over the targets of frames, from the top of the stack down.
  struct Context {
    int32_t deepest = 0;
    std::unique_ptr<Words> words;  // null: depends on the next frame
  };

  StateMask& state_mask(AutomatonRun& run, int32_t state);
  const Context& context(AutomatonRun& run, AutomatonRun::Place place, const StateMask& mask);
  // The nodes [begin, end) of the tree: one or all of the subtrees below a node at root_depth.
  struct Nodes {
    int32_t begin, end, root_depth;
  };
  Nodes all_nodes() const;
  void walk(AutomatonRun& run, const Nodes& part, AutomatonRun::Place start,
            std::span<uint64_t> words, std::vector<int32_t>* returns);
  void keep_behind(const std::vector<int32_t>& returns, StateMask& mask) const;

  std::shared_ptr<const ConstraintVocabulary> vocabulary_;
  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::unordered_map<int32_t, StateMask> states_;
  std::vector<Context> contexts_;
  std::unordered_map<uint64_t, int32_t> context_children_;
  Statistics statistics_;
  std::vector<size_t> place_ends_;
  std::vector<size_t> frame_ends_;
};

}  // namespace fathom
