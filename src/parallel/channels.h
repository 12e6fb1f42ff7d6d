// The report's communication kernels (section 3.2.2; SYSTEMS row 76), simulated: the processors
// that a GPU gives to communication form channels, each with roles of its own. Dispatch: send over
// the network; forward from the network into the machine; receive inside the machine. Combine, the
// same way back: send inside the machine; add up what its ranks sent and send the sum over the
// network; receive and add. Roles are joined by bounded queues, so that a slow one holds others up
// and, in a wrong order, for ever.
//
// It answers whether channels can block each other, what part of the slower link they use, and how
// large a chunk should be. It moves no rows: those are in two_hop_exchange.h.
#pragma once

#include <cstdint>

namespace fathom {

// Of one rank: what leaves it. A role spends `handling` on each chunk itself; a free place in a
// queue is seen by its writer one latency after it was made.
struct ChannelLinks {
  double network_bytes_per_second = 50e9, network_latency = 5e-6;
  double machine_bytes_per_second = 160e9, machine_latency = 1e-6;
  double handling = 0.3e-6;
};

struct ChannelConfig {
  int num_nodes = 8, ranks_per_node = 8, num_channels = 10;
  int64_t tokens_per_rank = 4096;
  int64_t experts_per_token = 8, nodes_per_token = 4;
  int64_t dispatch_row_bytes = 7168, combine_row_bytes = 14336;
  int64_t chunk_rows = 8, queue_chunks = 8;
  bool dispatch = true, combine = true;  // both: at the same time, over the same links
  // Negative control: combining senders take one machine's tokens after the other's, forwarders
  // take them in turn.
  bool senders_disagree = false;
  ChannelLinks links;
};

struct ChannelResult {
  bool finished = false;  // false: every role waits for another
  double seconds = 0;
  double network_bytes = 0, machine_bytes = 0;  // of the rank that sends most
  // Of the time, at the link's full rate.
  double network_share = 0, machine_share = 0;
};

// Tokens choose nodes and experts evenly (counter-based random numbers). An Error for sizes that do
// not go.
ChannelResult simulate_channels(const ChannelConfig& config);

// The chunk, a power of two, with which `config` is done first when each queue has room for
// queue_rows rows, whatever the chunk.
int64_t tune_chunk_rows(ChannelConfig config, int64_t queue_rows);

}  // namespace fathom
