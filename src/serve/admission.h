// Who goes to the engine next. Requests wait here, not in the engine's queue, each key in a line of
// its own; the key that has been served least goes first (virtual token counter: Sheng et al.,
// "Fairness in Serving Large Language Models", OSDI 2024). A key that comes back after a pause gets
// no credit for it.
//
// One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <unordered_map>

namespace fathom::serve {

class Admission {
 public:
  Admission(int64_t max_running, int64_t max_waiting)
      : max_running_(max_running), max_waiting_(max_waiting) {}

  struct Place {
    int64_t id = 0;
  };
  // Calls `start` now or later, never after remove(). `num_sequences` of the engine's places and
  // `prompt_tokens` of work. ApiError 503 when too many wait.
  Place add(const std::string& key, int64_t num_sequences, int64_t prompt_tokens,
            std::function<void()> start);
  // Of one that is still waiting; else nothing happens.
  void remove(Place place);
  // Of one that was started.
  void finished(const std::string& key, int64_t num_sequences, int64_t output_tokens);

  // More or fewer places from now on; what runs stays.
  void set_max_running(int64_t places);

  int64_t max_running() const { return max_running_; }
  int64_t num_waiting() const { return num_waiting_; }
  int64_t num_running() const { return num_running_; }

 private:
  struct Waiting {
    int64_t id, num_sequences, prompt_tokens;
    std::function<void()> start;
  };
  struct Line {
    std::list<Waiting> waiting;
    int64_t num_running = 0;
    double served = 0;  // tokens, an output token counting as much as two of a prompt
  };
  void start_next();

  int64_t max_running_;
  const int64_t max_waiting_;
  std::unordered_map<std::string, Line> lines_;  // of keys with something waiting or running
  int64_t next_id_ = 1, num_waiting_ = 0, num_running_ = 0;
  double floor_ = 0;  // what the least served active key had when it was last served
  bool starting_ = false;
};

}  // namespace fathom::serve
