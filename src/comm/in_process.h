// Ranks as threads of one process: for tests, for one machine, and for experiments with links that
// this machine does not have (declared nodes, injected latency and bandwidth).
#pragma once

#include <functional>

#include "comm/communicator.h"

namespace fathom {

// A link that is slower than memory. A message is seen `latency` after its last byte left; the
// bytes of one rank's messages over links of one class leave one after the other. Messages of one
// packet pass longer ones, as on a network that cuts those into packets: they still take their
// share of the link.
struct EmulatedLink {
  double latency_seconds = 0;
  double bytes_per_second = 0;  // 0: not limited
  static constexpr size_t kPacketBytes = 4096;
};

// As under MPI (mpi_transport.h): a rank for which all others wait is named, and after hang_seconds
// it hangs. A thread cannot be ended from outside, so on_hang is expected to end the process. Both
// are called on a thread of the watch; without them nobody watches.
struct ThreadWatch {
  double slow_seconds = 8;
  double hang_seconds = 600;
  std::function<void(const std::string&)> on_slow, on_hang;
};

struct InProcessOptions {
  int ranks_per_node = 0;  // 0: one node
  EmulatedLink node, network;
  CommOptions comm;
  ThreadWatch watch;
};

// Runs body(world) on num_ranks threads and waits for them. When one throws, the others end as soon
// as they wait for a message, and the first exception is rethrown here, unchanged.
void run_ranks(int num_ranks, const InProcessOptions& options,
               const std::function<void(Communicator&)>& body);

}  // namespace fathom
