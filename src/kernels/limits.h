// What this machine could do at most, beside the arithmetic peak (peak.h): how fast memory is read
// and how long two threads take to answer each other. Found by short probes, because a virtual
// machine changes both within seconds; every speed that Fathom prints is a share of one of these.
#pragma once

#include "core/arena.h"
#include "runtime/context.h"

namespace fathom {

// Bytes per second that all threads of a Context together move between processor and memory that no
// cache holds. Holds 256 MiB.
class BandwidthProbe {
 public:
  enum class Kind { kRead, kUpdate };  // update: read and written in place, both counted
  BandwidthProbe();
  // The best pass of those that `seconds` allow, at least two.
  double measure(Context& ctx, Kind kind, double seconds);

 private:
  Arena memory_;
  TensorView words_;
};
double measure_read_bandwidth(Context& ctx, double seconds);  // with a probe of its own

// Seconds for a cache line to go to another processor and back: the best of a few short runs; 0
// where this process may use one processor only. About 0.1 us within a socket; ten times that says
// that the processors lie on different sockets.
double measure_round_trip();

struct MachineLimits {
  int threads = 0;
  double fp32_flops = 0, bf16_flops = 0, int8_ops = 0;  // per second; int8 0 without VNNI
  double read_bytes = 0;                                // per second
};
MachineLimits measure_limits(Context& ctx);  // about 0.3 s

}  // namespace fathom
