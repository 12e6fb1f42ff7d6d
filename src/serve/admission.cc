#include "serve/admission.h"

#include <algorithm>
#include <utility>

#include "serve/api_error.h"

namespace fathom::serve {
namespace {

constexpr double kOutputWeight = 2;

}  // namespace

Admission::Place Admission::add(const std::string& key, int64_t num_sequences,
                                int64_t prompt_tokens, std::function<void()> start) {
  if (num_waiting_ >= max_waiting_) throw overloaded("server busy: too many requests wait", 2);
  Line& line = lines_[key];
  if (line.waiting.empty() && line.num_running == 0) line.served = std::max(line.served, floor_);
  const int64_t id = next_id_++;
  line.waiting.push_back({id, num_sequences, prompt_tokens, std::move(start)});
  ++num_waiting_;
  start_next();
  return {id};
}

void Admission::remove(Place place) {
  for (auto line = lines_.begin(); line != lines_.end(); ++line) {
    auto& waiting = line->second.waiting;
    const auto it = std::find_if(waiting.begin(), waiting.end(),
                                 [&](const Waiting& w) { return w.id == place.id; });
    if (it == waiting.end()) continue;
    waiting.erase(it);
    --num_waiting_;
    if (waiting.empty() && line->second.num_running == 0) lines_.erase(line);
    start_next();  // a large one may have held the place that a smaller one fits
    return;
  }
}

void Admission::finished(const std::string& key, int64_t num_sequences, int64_t output_tokens) {
  num_running_ -= num_sequences;
  const auto line = lines_.find(key);
  if (line != lines_.end()) {
    line->second.served += kOutputWeight * static_cast<double>(output_tokens);
    line->second.num_running -= num_sequences;
    if (line->second.waiting.empty() && line->second.num_running == 0) {
      floor_ = std::max(floor_, line->second.served);
      lines_.erase(line);
    }
  }
  start_next();
}

void Admission::set_max_running(int64_t places) {
  if (std::exchange(max_running_, places) < places) start_next();
}

void Admission::start_next() {
  if (starting_) return;  // what a start leads to is seen by the loop below
  starting_ = true;
  while (num_waiting_ > 0) {
    Line* least = nullptr;
    for (auto& [key, line] : lines_) {
      if (!line.waiting.empty() && (least == nullptr || line.served < least->served)) least = &line;
    }
    Waiting& first = least->waiting.front();
    // One that is larger than all places together runs alone.
    if (num_running_ > 0 && num_running_ + first.num_sequences > max_running_) break;
    floor_ = std::max(floor_, least->served);
    least->served += static_cast<double>(first.prompt_tokens);
    least->num_running += first.num_sequences;
    num_running_ += first.num_sequences;
    --num_waiting_;
    const auto start = std::move(first.start);
    least->waiting.pop_front();
    start();
  }
  starting_ = false;
}

}  // namespace fathom::serve
