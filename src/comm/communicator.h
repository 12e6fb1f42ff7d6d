// A group of ranks over a transport: point-to-point messages and collectives, in the group's own
// numbering. Collectives are built here from messages alone, so every backend computes the same
// bits: a sum over ranks is always the same tree, neighbours first,
//
//   ((x_0 + x_1) + (x_2 + x_3)) + ((x_4 + x_5) + ...)
//
// computed once, by the rank that owns the element, and handed to the others. A power of two of
// ranks thus adds like any smaller power of two whose ranks had added their halves themselves.
//
// Collectives of one group are called by all its members in the same order.
#pragma once

#include <cstring>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "comm/transport.h"

namespace fathom {

struct CommOptions {
  // How long a rank waits for another before it gives up and names the one that is missing.
  double timeout_seconds = 600;
};

// A message that is on its way; wait() before its buffer is read.
struct Receive {
  int64_t handle = -1;
  int from = -1;  // rank of the transport
  uint32_t tag = 0;
};

class Communicator {
 public:
  static constexpr uint32_t kMaxTag = (1u << 20) - 2;

  // All ranks of the transport, which outlives the communicator.
  explicit Communicator(Transport& transport, const CommOptions& options = {});
  // The group of `members` (ranks of this communicator; own among them), numbered in that order.
  // Groups that share a pair of ranks and are used at the same time need different contexts.
  Communicator group(const std::vector<int>& members, uint32_t context) const;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(members_.size()); }
  Transport& transport() const { return *transport_; }
  int transport_rank(int member) const { return members_[static_cast<size_t>(member)]; }
  int node_of(int member) const {
    return transport_->topology().node_of[static_cast<size_t>(transport_rank(member))];
  }
  const CommOptions& options() const { return options_; }

  // Never waits; tag at most kMaxTag.
  template <typename T>
  void send(int to, uint32_t tag, std::span<const T> values) const {
    send_bytes(to, tag, std::as_bytes(values));
  }
  template <typename T>
  Receive start_receive(int from, uint32_t tag, std::span<T> values) const {
    return start_receive_bytes(from, tag, std::as_writable_bytes(values));
  }
  void wait(const Receive& receive) const;
  bool has_come(const Receive& receive) const { return transport_->has_come(receive.handle); }
  template <typename T>
  void receive(int from, uint32_t tag, std::span<T> values) const {
    wait(start_receive(from, tag, values));
  }

  void barrier() const;
  template <typename T>
  void broadcast(int root, std::span<T> values) const {
    broadcast_bytes(root, std::as_writable_bytes(values));
  }
  // `mine` of every rank, one behind the other in `all`; counts by rank. mine may lie in its place.
  template <typename T>
  void all_gather(std::span<const T> mine, std::span<const int64_t> counts, std::span<T> all) const;
  // Elements [sum of counts before the rank, + its count) of the sum of all ranks' `all`.
  template <typename T>
  void reduce_scatter(std::span<const T> all, std::span<const int64_t> counts,
                      std::span<T> mine) const;
  // Sum in place: the same bits on every rank.
  template <typename T>
  void all_reduce(std::span<T> values) const;
  template <typename T>
  T all_reduce_one(T value) const {
    all_reduce(std::span<T>(&value, 1));
    return value;
  }
  // send_counts[r] elements to each rank r, one behind the other; what arrives lies likewise.
  template <typename T>
  void all_to_all(std::span<const T> to_send, std::span<const int64_t> send_counts,
                  std::span<T> received, std::span<const int64_t> receive_counts) const;
  // One value to and from each rank.
  std::vector<int64_t> exchange_counts(std::span<const int64_t> to_send) const;
  // The texts of all ranks, by rank.
  std::vector<std::string> gather_text(const std::string& mine) const;

  // parts[0] becomes the sum in the order above.
  template <typename T>
  static void tree_sum(std::span<const std::span<T>> parts);

 private:
  static constexpr uint32_t kCollectiveTag = kMaxTag + 1;

  void send_bytes(int to, uint32_t tag, std::span<const std::byte> bytes) const;
  Receive start_receive_bytes(int from, uint32_t tag, std::span<std::byte> bytes) const;
  void broadcast_bytes(int root, std::span<std::byte> bytes) const;
  [[noreturn]] void report_missing(const Receive& receive, double seconds) const;
  std::vector<int64_t> even_counts(int64_t total) const;

  Transport* transport_;
  CommOptions options_;
  uint32_t context_ = 0;
  std::vector<int> members_;  // ranks of the transport
  int rank_ = 0;
};

template <typename T>
void Communicator::tree_sum(std::span<const std::span<T>> parts) {
  for (size_t step = 1; step < parts.size(); step *= 2) {
    for (size_t i = 0; i + step < parts.size(); i += 2 * step) {
      T* to = parts[i].data();
      const T* from = parts[i + step].data();
      for (size_t e = 0; e < parts[i].size(); ++e) to[e] += from[e];
    }
  }
}

template <typename T>
void Communicator::all_gather(std::span<const T> mine, std::span<const int64_t> counts,
                              std::span<T> all) const {
  FATHOM_CHECK_EQ(static_cast<int>(counts.size()), size());
  FATHOM_CHECK_EQ(static_cast<int64_t>(mine.size()), counts[static_cast<size_t>(rank_)]);
  for (int r = 0; r < size(); ++r) {
    if (r != rank_) send(r, kCollectiveTag, mine);
  }
  int64_t begin = 0;
  for (int r = 0; r < size(); ++r) {
    const auto count = static_cast<size_t>(counts[static_cast<size_t>(r)]);
    const std::span<T> part = all.subspan(static_cast<size_t>(begin), count);
    if (r != rank_) {
      receive(r, kCollectiveTag, part);
    } else if (count > 0 && part.data() != mine.data()) {
      std::memcpy(part.data(), mine.data(), mine.size_bytes());
    }
    begin += static_cast<int64_t>(count);
  }
  FATHOM_CHECK_EQ(begin, static_cast<int64_t>(all.size()));
}

template <typename T>
void Communicator::reduce_scatter(std::span<const T> all, std::span<const int64_t> counts,
                                  std::span<T> mine) const {
  FATHOM_CHECK_EQ(static_cast<int>(counts.size()), size());
  int64_t begin = 0, my_begin = 0;
  for (int r = 0; r < size(); ++r) {
    const int64_t count = counts[static_cast<size_t>(r)];
    const auto part = all.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    if (r != rank_) {
      send(r, kCollectiveTag, part);
    } else {
      my_begin = begin;
    }
    begin += count;
  }
  FATHOM_CHECK_EQ(begin, static_cast<int64_t>(all.size()));
  FATHOM_CHECK_EQ(static_cast<int64_t>(mine.size()), counts[static_cast<size_t>(rank_)]);
  std::vector<T> copies(mine.size() * static_cast<size_t>(size()));
  std::vector<std::span<T>> parts;
  for (int r = 0; r < size(); ++r) {
    parts.push_back(
        std::span<T>(copies).subspan(mine.size() * static_cast<size_t>(r), mine.size()));
    if (r != rank_) {
      receive(r, kCollectiveTag, parts.back());
    } else if (!mine.empty()) {
      std::memcpy(parts.back().data(), all.data() + my_begin, mine.size_bytes());
    }
  }
  tree_sum<T>(parts);
  if (!mine.empty()) std::memcpy(mine.data(), parts[0].data(), mine.size_bytes());
}

template <typename T>
void Communicator::all_reduce(std::span<T> values) const {
  if (size() == 1) return;
  const std::vector<int64_t> counts = even_counts(static_cast<int64_t>(values.size()));
  std::vector<T> mine(static_cast<size_t>(counts[static_cast<size_t>(rank_)]));
  reduce_scatter<T>(values, counts, mine);
  all_gather<T>(mine, counts, values);
}

template <typename T>
void Communicator::all_to_all(std::span<const T> to_send, std::span<const int64_t> send_counts,
                              std::span<T> received,
                              std::span<const int64_t> receive_counts) const {
  size_t begin = 0, own_begin = 0;
  for (int r = 0; r < size(); ++r) {
    const auto count = static_cast<size_t>(send_counts[static_cast<size_t>(r)]);
    if (r == rank_) {
      own_begin = begin;
    } else if (count > 0) {
      send(r, kCollectiveTag, to_send.subspan(begin, count));
    }
    begin += count;
  }
  FATHOM_CHECK_EQ(begin, to_send.size());
  begin = 0;
  for (int r = 0; r < size(); ++r) {
    const auto count = static_cast<size_t>(receive_counts[static_cast<size_t>(r)]);
    const std::span<T> part = received.subspan(begin, count);
    if (r == rank_) {
      FATHOM_CHECK_EQ(send_counts[static_cast<size_t>(r)], receive_counts[static_cast<size_t>(r)]);
      if (count > 0) std::memcpy(part.data(), to_send.data() + own_begin, part.size_bytes());
    } else if (count > 0) {
      receive(r, kCollectiveTag, part);
    }
    begin += count;
  }
  FATHOM_CHECK_EQ(begin, received.size());
}

}  // namespace fathom
