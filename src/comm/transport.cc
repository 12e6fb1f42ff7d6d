#include "comm/transport.h"

#include <algorithm>
#include <limits>

namespace fathom {

Topology Topology::uniform(int num_ranks, int ranks_per_node) {
  FATHOM_CHECK_GE(num_ranks, 1);
  Topology topology;
  for (int rank = 0; rank < num_ranks; ++rank)
    topology.node_of.push_back(ranks_per_node > 0 ? rank / ranks_per_node : 0);
  return topology;
}

int Topology::num_nodes() const { return 1 + *std::max_element(node_of.begin(), node_of.end()); }

Traffic Traffic::operator-(const Traffic& before) const {
  Traffic difference = *this;
  for (int i = 0; i < kNumLinkClasses; ++i) {
    difference.bytes[i] -= before.bytes[i];
    difference.messages[i] -= before.messages[i];
  }
  return difference;
}

std::optional<SlowRank> find_slow_rank(std::span<const PeerStatus> ranks,
                                       double at_least_seconds) {
  SlowRank slow{.seconds = std::numeric_limits<double>::infinity()};
  for (size_t r = 0; r < ranks.size(); ++r) {
    const bool computes = ranks[r].waiting_for < 0;
    if (ranks[r].ended || ranks[r].seconds < at_least_seconds || (computes && slow.rank >= 0))
      return std::nullopt;
    if (computes) slow.rank = static_cast<int>(r);
    slow.seconds = std::min(slow.seconds, ranks[r].seconds);
  }
  if (slow.rank < 0 || ranks.size() == 1) return std::nullopt;
  return slow;
}

std::string describe_slow(const SlowRank& slow) {
  return fmt::format("all ranks have waited for {:.0f} s, in the end for rank {}, which computes",
                     slow.seconds, slow.rank);
}

std::string describe_hung(const SlowRank& hung) {
  return fmt::format(
      "rank {} has computed for {:.0f} s while all others wait for it: it hangs; ending the job",
      hung.rank, hung.seconds);
}

LinkClass Transport::link_to(int to) const {
  if (to == rank()) return LinkClass::kSelf;
  const auto& node_of = topology_.node_of;
  return node_of[static_cast<size_t>(to)] == node_of[static_cast<size_t>(rank())]
             ? LinkClass::kNode
             : LinkClass::kNetwork;
}

void Transport::send(int to, uint32_t tag, std::span<const std::byte> bytes) {
  FATHOM_CHECK(to >= 0 && to < size(), "rank {} of {}", to, size());
  const auto link = static_cast<int>(link_to(to));
  {
    const std::lock_guard lock(traffic_mutex_);
    traffic_.bytes[link] += static_cast<int64_t>(bytes.size());
    ++traffic_.messages[link];
  }
  post_send(to, tag, bytes);
}

}  // namespace fathom
