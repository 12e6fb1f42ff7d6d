#include "serve/latency_control.h"

#include <algorithm>
#include <limits>

namespace fathom::serve {
namespace {

constexpr int64_t kBegin = 4;  // running at once before anything is known
constexpr double kWindowSeconds = 0.25;
constexpr int64_t kWindowTokens = 16;
// A window's mean against the target: above kTooSlow fewer may run, below kRoom one more, below
// kFar twice as many. The 99th of a hundred replies is slower than the mean, hence not 1.
constexpr double kTooSlow = 0.9, kAim = 0.8, kRoom = 0.75, kFar = 0.4;
constexpr size_t kSlowStart = 3;        // counted from the slowest, which may have been an accident
constexpr int64_t kFixedTokens = 64;    // what a start costs beside its prompt, as tokens
constexpr double kShareOfTarget = 0.9;  // of the first token's, what is left is for surprises

}  // namespace

LatencyControl::LatencyControl(const LatencyTargets& targets, int64_t max_running)
    : targets_(targets),
      most_(max_running),
      limit_(targets.token_seconds > 0 ? std::min(kBegin, max_running) : max_running) {}

double LatencyControl::longest_wait(int64_t prompt_tokens) const {
  if (targets_.first_token_seconds <= 0) return std::numeric_limits<double>::infinity();
  return kShareOfTarget * targets_.first_token_seconds -
         slow_start_ * static_cast<double>(prompt_tokens + kFixedTokens);
}

void LatencyControl::saw_tokens(double now, double seconds, int64_t tokens, int64_t num_running) {
  if (targets_.token_seconds <= 0) return;
  if (window_began_ < 0) window_began_ = now;
  window_seconds_ += seconds;
  window_tokens_ += tokens;
  if (now - window_began_ >= kWindowSeconds && window_tokens_ >= kWindowTokens)
    end_window(now, num_running);
}

void LatencyControl::end_window(double now, int64_t num_running) {
  const double load =
      window_seconds_ / static_cast<double>(window_tokens_) / targets_.token_seconds;
  if (load > kTooSlow) {
    const double fewer = static_cast<double>(std::min(limit_, num_running)) * kAim / load;
    limit_ = std::max<int64_t>(1, static_cast<int64_t>(fewer));
  } else if (num_running >= limit_ && load < kRoom) {
    // Only what was used tells anything about more.
    limit_ = std::min(most_, load < kFar ? 2 * limit_ : limit_ + 1);
  }
  window_began_ = now;
  window_seconds_ = 0;
  window_tokens_ = 0;
}

void LatencyControl::saw_first_token(double seconds, int64_t prompt_tokens) {
  starts_[next_start_++ % starts_.size()] =
      seconds / static_cast<double>(prompt_tokens + kFixedTokens);
  auto sorted = starts_;
  const auto slow = sorted.end() - kSlowStart;
  std::nth_element(sorted.begin(), slow, sorted.end());
  slow_start_ = *slow;
}

}  // namespace fathom::serve
