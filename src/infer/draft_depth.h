// How many tokens to draft a step: as many as give the most tokens a second by what was measured so
// far. One more drafted token of each of B sequences costs a pass of the MTP module over B tokens,
// and the main model B more; it brings the chance that it and all before it are accepted. At batch
// 1 a decoding step waits for memory, so more tokens cost little; in a full batch they cost their
// share.
//
// The choice never changes what is generated (see TokenDistribution::draw), only when.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fathom {

class DraftDepth {
 public:
  static constexpr int64_t kMaxDepth = 4;

  // `max_depth` 0: never draft.
  // Without `adapt` always max_depth.
  explicit DraftDepth(int64_t max_depth, bool adapt = true);

  // For a step that decodes `num_sequences`.
  int64_t choose(int64_t num_sequences);

  // What a step of decoding alone took: the main model over num_tokens in all, and the module.
  void record_main(int64_t num_tokens, double seconds);
  void record_draft(int64_t num_sequences, int64_t depth, double seconds);
  // Whether the token drafted at `position` (from 0) was accepted, given that all before it were.
  void record_outcome(int64_t position, bool accepted);

  // What was measured, 0 where nothing was: the main model over so many tokens of a decoding step,
  // and one pass of the module for so many sequences.
  double main_seconds(int64_t num_tokens) const { return main_.at(num_tokens); }
  double draft_seconds(int64_t num_sequences) const { return draft_.at(num_sequences); }
  double acceptance(int64_t position) const { return acceptance_[static_cast<size_t>(position)]; }
  int64_t num_drafted(int64_t position) const { return drafted_[static_cast<size_t>(position)]; }
  int64_t num_accepted(int64_t position) const { return accepted_[static_cast<size_t>(position)]; }

 private:
  // Seconds by size: a running mean for each size seen, straight lines between.
  class Curve {
   public:
    Curve() {
      // Sizes that a decoding engine meets, so that a new one allocates nothing.
      sizes_.reserve(kReservedSizes);
      seconds_.reserve(kReservedSizes);
    }
    void record(int64_t size, double seconds);
    double at(int64_t size) const;
    bool empty() const { return sizes_.empty(); }

   private:
    static constexpr size_t kReservedSizes = 256;
    std::vector<int64_t> sizes_;  // ascending
    std::vector<double> seconds_;
  };

  int64_t max_depth_;
  bool adapt_;
  int64_t num_choices_ = 0;
  std::array<double, kMaxDepth> acceptance_;
  std::array<int64_t, kMaxDepth> drafted_{}, accepted_{};
  Curve main_, draft_;  // draft: one pass of the module
};

}  // namespace fathom
