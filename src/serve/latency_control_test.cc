// An engine made of arithmetic: a step takes some time and more for each sequence, and prompts take
// their own. What users see under a crowd that never ends, with targets and without.
#include "serve/latency_control.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <vector>

#include "core/random.h"
#include "serve/admission.h"

namespace fathom::serve {
namespace {

struct Engine {
  double step_seconds = 0.004, seconds_per_sequence = 0.001, seconds_per_prompt_token = 0.0001;
};
struct Outcome {
  std::vector<double> first, pace;  // of those served
  int64_t refused = 0, tokens = 0;
  double seconds = 0;
  double tokens_per_second() const { return static_cast<double>(tokens) / seconds; }
};

double p99(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty()
             ? 0
             : values[static_cast<size_t>(0.99 * static_cast<double>(values.size() - 1))];
}

constexpr int64_t kTokens = 50, kPrompt = 100, kMaxRunning = 64;

// Requests arrive by chance, `rate` a second for `seconds`, and are served as Generation does it.
Outcome simulate(const LatencyTargets& targets, double rate, double seconds, const Engine& engine) {
  struct Sequence {
    double arrived, started = -1, first = -1, last = -1;
    int64_t tokens = 0;
    bool refused = false;
    Admission::Place place;
  };
  LatencyControl control(targets, kMaxRunning);
  Admission queue(control.max_running(), 100'000);
  const Random random(1, RandomPurpose::kTest);
  std::deque<Sequence> all;
  std::vector<Sequence*> running, waiting, prefilling;
  double now = 0, next_arrival = 0;
  uint64_t draw = 0;
  Outcome outcome;
  while (now < seconds || queue.num_running() > 0) {
    while (next_arrival <= now && next_arrival < seconds) {
      Sequence& sequence = all.emplace_back(Sequence{.arrived = next_arrival});
      waiting.push_back(&sequence);
      sequence.place = queue.add("k", 1, kPrompt, [&, s = &sequence] {
        s->started = now;
        if (queue.num_running() > 1 && now - s->arrived > control.longest_wait(kPrompt)) {
          s->refused = true;
          return queue.finished("k", 1, 0);
        }
        prefilling.push_back(s);
      });
      next_arrival -= std::log(1 - random.uniform(draw++)) / rate;
    }
    std::erase_if(waiting, [](const Sequence* s) { return s->started >= 0; });
    std::erase_if(waiting, [&](Sequence* s) {
      if (now - s->arrived < std::max(0.0, control.longest_wait(kPrompt))) return false;
      s->refused = true;
      queue.remove(s->place);
      return true;
    });
    if (running.empty() && prefilling.empty()) {
      now = std::max(now + 1e-6, std::min(next_arrival, seconds));
      continue;
    }
    // A step: all that decode, and two prompts at most, as the engine's budget beside decoding.
    const auto prompts = static_cast<int64_t>(std::min<size_t>(prefilling.size(), 2));
    now += engine.step_seconds + engine.seconds_per_sequence * static_cast<double>(running.size()) +
           engine.seconds_per_prompt_token * static_cast<double>(prompts * kPrompt);
    std::vector<Sequence*> done;
    const auto decoding = running;
    for (int64_t i = 0; i < prompts; ++i) {
      Sequence* s = prefilling[static_cast<size_t>(i)];
      s->first = s->last = now;
      s->tokens = 1;
      control.saw_first_token(now - s->started, kPrompt);
      running.push_back(s);
    }
    prefilling.erase(prefilling.begin(), prefilling.begin() + prompts);
    for (Sequence* s : decoding) {
      control.saw_tokens(now, now - s->last, 1, queue.num_running());
      s->last = now;
      if (++s->tokens == kTokens) done.push_back(s);
    }
    if (control.max_running() != queue.max_running()) queue.set_max_running(control.max_running());
    for (Sequence* s : done) {
      std::erase(running, s);
      queue.finished("k", 1, kTokens);
    }
  }
  for (const Sequence& s : all) {
    if (s.refused || s.tokens < kTokens) {
      ++outcome.refused;
      continue;
    }
    outcome.first.push_back(s.first - s.arrived);
    outcome.pace.push_back((s.last - s.first) / static_cast<double>(kTokens - 1));
    outcome.tokens += kTokens;
  }
  outcome.seconds = now;
  return outcome;
}

// 20 ms a token is 16 sequences and no prompts; three times what those can do arrives.
TEST(LatencyControl, HoldsBothTargetsInACrowd) {
  const LatencyTargets targets{.first_token_seconds = 0.5, .token_seconds = 0.020};
  const Outcome with = simulate(targets, 48, 60, {});
  EXPECT_LE(p99(with.pace), 0.020);
  EXPECT_LE(p99(with.first), 0.5);
  EXPECT_GT(with.refused, 0);
  // 16 sequences without prompts would be 800 tokens a second.
  EXPECT_GT(with.tokens_per_second(), 0.6 * 16 / 0.020);
  // The crowd without targets: everyone is served, late and slowly. The check can see it.
  const Outcome without = simulate({}, 48, 60, {});
  EXPECT_EQ(without.refused, 0);
  EXPECT_GT(p99(without.pace), 0.020);
  EXPECT_GT(p99(without.first), 0.5);
}

TEST(LatencyControl, RefusesNobodyWhereThereIsRoom) {
  const Outcome calm = simulate({.first_token_seconds = 0.5, .token_seconds = 0.020}, 4, 60, {});
  EXPECT_EQ(calm.refused, 0);
  EXPECT_LE(p99(calm.pace), 0.020);
}

// A model that cannot be so fast: one at a time, and the others are told.
TEST(LatencyControl, OneAlwaysRuns) {
  const Outcome slow = simulate({.first_token_seconds = 0.5, .token_seconds = 0.002}, 10, 30, {});
  EXPECT_GT(slow.first.size(), 20u);
  EXPECT_GT(slow.refused, 100);
  LatencyControl control({.token_seconds = 0.002}, 64);
  for (int i = 0; i < 100; ++i) control.saw_tokens(i, 1, 16, 4);
  EXPECT_EQ(control.max_running(), 1);
}

// A standstill of everything passes: what it looked like is forgotten.
TEST(LatencyControl, AnAccidentIsForgotten) {
  LatencyControl control({.first_token_seconds = 1}, 64);
  EXPECT_GT(control.longest_wait(100), 0.8);
  for (int i = 0; i < 40; ++i) control.saw_first_token(40, 100);
  EXPECT_LT(control.longest_wait(100), 0);
  for (int i = 0; i < 32; ++i) control.saw_first_token(0.01, 100);
  EXPECT_GT(control.longest_wait(100), 0.8);
}

}  // namespace
}  // namespace fathom::serve
