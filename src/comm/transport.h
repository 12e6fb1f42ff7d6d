// The communicator seam: tagged messages between the ranks of one job. Everything above it
// (collectives, groups, token exchange, pipelines) is written once, in communicator.h, over these
// calls; a backend only moves bytes. Three exist: ranks as threads of one process (in_process.h),
// MPI (mpi_transport.h), and one that moves nothing, for dry runs (fake_transport.h).
//
// Messages between one pair of ranks under one tag arrive in the order they were sent. Sending
// never waits: the bytes are copied. So a schedule cannot deadlock on the order of its sends; what
// a rank waits for is always another rank's data.
//
// A rank may call from two threads, its own and its progress thread (progress_thread.h).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace fathom {

// Another rank died, hangs, or sent what was not expected. The message names the rank.
class CommError : public Error {
 public:
  explicit CommError(const std::string& message) : Error(ErrorKind::kIo, message) {}
};

// Which ranks share a machine. `virtual nodes`: declared rather than found, so that one machine can
// stand for eight.
struct Topology {
  std::vector<int> node_of;  // by rank; nodes are numbered from 0

  static Topology uniform(int num_ranks, int ranks_per_node);  // 0: all on one node
  int num_nodes() const;
};

enum class LinkClass { kSelf, kNode, kNetwork };
inline constexpr int kNumLinkClasses = 3;

// What a rank has sent so far, by the link that it went over.
struct Traffic {
  int64_t bytes[kNumLinkClasses] = {};
  int64_t messages[kNumLinkClasses] = {};

  int64_t network_bytes() const { return bytes[static_cast<int>(LinkClass::kNetwork)]; }
  int64_t node_bytes() const { return bytes[static_cast<int>(LinkClass::kNode)]; }
  Traffic operator-(const Traffic& before) const;
  bool operator==(const Traffic&) const = default;
};

// What a rank is doing, as far as others can see.
struct PeerStatus {
  int waiting_for = -1;  // a rank; -1: it computes
  double seconds = 0;    // since that began
  bool ended = false;    // it will never send again
};

// A rank for which all others wait while it computes; `seconds`: how long they all have, at least.
struct SlowRank {
  int rank = -1;
  double seconds = 0;
};
// nullopt when none has been waited for so long.
std::optional<SlowRank> find_slow_rank(std::span<const PeerStatus> ranks, double at_least_seconds);

// What is said of it, when it is found and when it hangs.
std::string describe_slow(const SlowRank& slow);
std::string describe_hung(const SlowRank& hung);

class Transport {
 public:
  explicit Transport(Topology topology) : topology_(std::move(topology)) {}
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  virtual int rank() const = 0;
  int size() const { return static_cast<int>(topology_.node_of.size()); }
  const Topology& topology() const { return topology_; }
  LinkClass link_to(int to) const;

  void send(int to, uint32_t tag, std::span<const std::byte> bytes);
  // Receives into `bytes`, whose size must be the message's. The handle is good for one wait that
  // succeeds; the bytes must stay until then.
  virtual int64_t start_receive(int from, uint32_t tag, std::span<std::byte> bytes) = 0;
  // True when the message is there; false when `timeout` has passed. CommError when it never will.
  virtual bool wait(int64_t receive, std::chrono::duration<double> timeout) = 0;
  // Whether wait() would return at once: for who has other work to do meanwhile. Of receives under
  // one tag, only the first that has not been waited for may be asked about.
  virtual bool has_come(int64_t receive) = 0;
  // nullopt: this backend cannot know.
  virtual std::optional<PeerStatus> status_of(int) { return std::nullopt; }
  // Ends the job on all ranks; the others see `reason`, who started it `exit_status`.
  virtual void abort(const std::string& reason, int exit_status) = 0;

  // Whether messages arrive while nobody calls. MPI moves long ones only inside its own calls.
  virtual bool moves_by_itself() const { return true; }

  Traffic traffic() const {
    const std::lock_guard lock(traffic_mutex_);
    return traffic_;
  }

 protected:
  virtual void post_send(int to, uint32_t tag, std::span<const std::byte> bytes) = 0;

 private:
  Topology topology_;
  mutable std::mutex traffic_mutex_;
  Traffic traffic_;
};

}  // namespace fathom
