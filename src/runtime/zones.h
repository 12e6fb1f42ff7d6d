// When a thread did what: named spans of time, for pictures of a step. Kept only where a Context
// has somewhere to put them; else a zone costs one comparison.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace fathom {

// Plain bytes, so that ranks can send theirs to each other.
struct Zone {
  char name[16] = {};  // "attention"
  char pass = ' ';     // F forward, B input gradients, W weight gradients
  bool waits = false;  // for rows that are on their way
  int32_t layer = -1;
  int32_t item = -1;          // micro-batch, filled in by who knows it
  double begin = 0, end = 0;  // seconds of the steady clock
};

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// From construction to destruction, into `zones` (null: nowhere).
class ZoneTimer {
 public:
  ZoneTimer(std::vector<Zone>* zones, std::string_view name, char pass, int64_t layer,
            bool waits = false)
      : zones_(zones) {
    if (zones_ == nullptr) return;
    name.copy(zone_.name, sizeof zone_.name - 1);
    zone_.pass = pass;
    zone_.waits = waits;
    zone_.layer = static_cast<int32_t>(layer);
    zone_.begin = steady_seconds();
  }
  ~ZoneTimer() {
    if (zones_ == nullptr) return;
    zone_.end = steady_seconds();
    zones_->push_back(zone_);
  }
  ZoneTimer(const ZoneTimer&) = delete;
  ZoneTimer& operator=(const ZoneTimer&) = delete;

 private:
  std::vector<Zone>* zones_;
  Zone zone_;
};

}  // namespace fathom
