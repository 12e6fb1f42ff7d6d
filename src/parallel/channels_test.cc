// SYSTEMS row 76 (and 75's cost of experts): channels of the report's cluster, simulated.
#include "parallel/channels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace fathom {
namespace {

// The report's cluster at a quarter of a step's tokens: eight nodes of eight, 50 and 160 GB/s. Half
// of each node will do where only the network matters.
ChannelConfig cluster() {
  ChannelConfig config;
  config.tokens_per_rank = 1024;
  return config;
}

// Rows of one rank that cross the network: a node of the token's is another one's 7 times of 8.
double network_rows(const ChannelConfig& c) {
  return static_cast<double>(c.tokens_per_rank * c.nodes_per_token) *
         static_cast<double>(c.num_nodes - 1) / static_cast<double>(c.num_nodes);
}

TEST(Channels, UseTheSlowerLinkInFull) {
  for (const bool combine : {false, true}) {
    ChannelConfig config = cluster();
    config.ranks_per_node = 4;
    config.dispatch = !combine;
    config.combine = combine;
    const ChannelResult result = simulate_channels(config);
    EXPECT_TRUE(result.finished);
    const double row =
        static_cast<double>(combine ? config.combine_row_bytes : config.dispatch_row_bytes);
    EXPECT_NEAR(result.network_bytes / (network_rows(config) * row), 1, 0.05);  // the busiest rank
    EXPECT_GE(result.network_share, 0.95) << (combine ? "combine" : "dispatch");
    EXPECT_LE(result.network_share, 1);
    EXPECT_LT(result.machine_share, result.network_share);
  }
}

TEST(Channels, DispatchAndCombineTogetherUseItToo) {
  ChannelConfig config = cluster();
  config.ranks_per_node = 4;
  config.tokens_per_rank = 512;
  const ChannelResult result = simulate_channels(config);
  EXPECT_TRUE(result.finished);
  EXPECT_GE(result.network_share, 0.95);
}

// 160 / 50 GB/s: up to 3.2 ranks of a node get a row in the time in which it crosses the network.
// Filling and draining, which more experts make longer, is in both of a difference's terms.
TEST(Channels, ThirteenExpertsCostWhatEightDo) {
  ChannelConfig config = cluster();
  config.combine = false;
  const auto results = [&](int64_t experts) {
    config.experts_per_token = experts;
    config.tokens_per_rank = 256;
    const ChannelResult half = simulate_channels(config);
    config.tokens_per_rank = 512;
    const ChannelResult all = simulate_channels(config);
    return std::pair(all.seconds - half.seconds, all.network_bytes);
  };
  const auto [eight, bytes_of_eight] = results(8);
  const auto [thirteen, bytes_of_thirteen] = results(13);
  EXPECT_NEAR(thirteen / eight, 1, 0.05);
  EXPECT_NEAR(bytes_of_thirteen / bytes_of_eight, 1, 0.02);
  // More: the machine's own link is the slower one.
  config.tokens_per_rank = 128;
  const auto seconds = [&](int64_t experts) {
    config.experts_per_token = experts;
    return simulate_channels(config).seconds;
  };
  EXPECT_GT(seconds(32) / seconds(8), 1.3);
}

// Queues of one place, links of other speeds, nodes and ranks of odd numbers: slow, never stuck.
TEST(Channels, NeverBlockEachOther) {
  ChannelConfig config;
  config.tokens_per_rank = 61;
  config.queue_chunks = 1;
  for (const int nodes : {1, 2, 3, 5}) {
    for (const int ranks : {1, 3, 4}) {
      for (const double network : {5e9, 1e12}) {
        for (const int64_t rows : {1, 7, 64}) {
          config.num_nodes = nodes;
          config.ranks_per_node = ranks;
          config.nodes_per_token = std::min<int64_t>(nodes, 4);
          config.links.network_bytes_per_second = network;
          config.chunk_rows = rows;
          const ChannelResult result = simulate_channels(config);
          EXPECT_TRUE(result.finished) << nodes << " x " << ranks << ", chunks of " << rows;
        }
      }
    }
  }
}

// What makes it so is the order: senders that take one machine's tokens after the other's fill a
// forwarder's queue with what it does not want yet, while it waits for what another would send
// next.
TEST(Channels, SendersThatDisagreeBlockEachOther) {
  ChannelConfig config = cluster();
  config.tokens_per_rank = 512;
  config.dispatch = false;
  config.queue_chunks = 2;
  config.senders_disagree = true;
  EXPECT_FALSE(simulate_channels(config).finished);
  config.queue_chunks = 1 << 20;  // room for everything: nobody has to wait for a place
  EXPECT_TRUE(simulate_channels(config).finished);
}

// Small chunks cost the roles' time, large ones wait for a place: queues hold sixteen rows.
TEST(Channels, TheChunkIsTuned) {
  ChannelConfig config = cluster();
  config.num_nodes = 4;
  config.ranks_per_node = 2;
  config.num_channels = 4;
  config.tokens_per_rank = 512;
  config.combine = false;
  config.links.network_latency = 20e-6;
  const auto seconds_with = [&](int64_t chunk) {
    ChannelConfig c = config;
    c.chunk_rows = chunk;
    c.queue_chunks = 16 / chunk;
    return simulate_channels(c).seconds;
  };
  const double best = seconds_with(tune_chunk_rows(config, 16));
  for (const int64_t chunk : {1, 2, 4, 8, 16}) EXPECT_LE(best, seconds_with(chunk));
  EXPECT_LT(best, 0.95 * seconds_with(1));
  EXPECT_LT(best, seconds_with(16));
}

}  // namespace
}  // namespace fathom
