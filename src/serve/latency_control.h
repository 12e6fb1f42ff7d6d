// Waiting times under a target: how many sequences may run at once, and how long a request may wait
// before it is better told to come back. Throughput and latency hold together only if a server that
// is asked for more than it can do says so, instead of serving everyone late.
//
// Times of tokens grow with the number of sequences, by how much depends on the model and the
// machine: so the number is found by trying. It doubles while tokens are far from the target, grows
// by one while there is room, and shrinks in proportion where they are too slow; one always runs.
// What was let in stays in.
//
// One thread. Times are seconds of any clock that does not go back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fathom::serve {

struct LatencyTargets {
  double first_token_seconds = 0;  // from the request to its first token; 0: no target
  double token_seconds = 0;        // between tokens, as a mean over a reply; 0: none
};

class LatencyControl {
 public:
  LatencyControl(const LatencyTargets& targets, int64_t max_running);

  // How many may run now.
  int64_t max_running() const { return limit_; }
  // How long a request may wait before it is started, so that its first token comes in time.
  // Negative: it will not, however soon it is started. Without a target: forever.
  double longest_wait(int64_t prompt_tokens) const;

  // What was seen: `tokens` tokens of a sequence, `seconds` after the ones before; a first token,
  // `seconds` after its request was started.
  void saw_tokens(double now, double seconds, int64_t tokens, int64_t num_running);
  void saw_first_token(double seconds, int64_t prompt_tokens);

 private:
  void end_window(double now, int64_t num_running);

  const LatencyTargets targets_;
  const int64_t most_;
  int64_t limit_;
  // Of the window in progress.
  double window_began_ = -1, window_seconds_ = 0;
  int64_t window_tokens_ = 0;
  // Of the last starts: seconds for a token of the prompt, in turns.
  std::array<double, 32> starts_{};
  size_t next_start_ = 0;
  double slow_start_ = 0;  // the slower ones of them
};

}  // namespace fathom::serve
