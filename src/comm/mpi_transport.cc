#include "comm/mpi_transport.h"

#include <cstdlib>

#ifdef FATHOM_MPI
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#endif

namespace fathom {

bool started_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

#ifndef FATHOM_MPI

std::unique_ptr<Transport> join_mpi(int, const MpiWatch&) {
  fail(ErrorKind::kUsage,
       "started by mpirun, but this program was built without MPI: install libopenmpi-dev and "
       "build again, or use --ranks");
}

#else

namespace {

using Clock = std::chrono::steady_clock;

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw CommError(fmt::format("{}: {}", call, text));
}

// MPI counts in int; longer messages go in pieces, which one tag keeps in order.
constexpr size_t kPieceBytes = size_t{1} << 30;

template <typename F>
void for_pieces(size_t num_bytes, F&& f) {
  size_t begin = 0;
  do {
    const size_t count = std::min(kPieceBytes, num_bytes - begin);
    f(begin, static_cast<int>(count));
    begin += count;
  } while (begin < num_bytes);
}

Topology find_topology(int ranks_per_node) {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (ranks_per_node > 0) return Topology::uniform(size, ranks_per_node);
  // The lowest rank of each machine stands for it.
  MPI_Comm machine;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine),
            "MPI_Comm_split_type");
  int rank = 0, lowest = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  check_mpi(MPI_Allreduce(&rank, &lowest, 1, MPI_INT, MPI_MIN, machine), "MPI_Allreduce");
  MPI_Comm_free(&machine);
  std::vector<int> lowest_of(static_cast<size_t>(size));
  check_mpi(MPI_Allgather(&lowest, 1, MPI_INT, lowest_of.data(), 1, MPI_INT, MPI_COMM_WORLD),
            "MPI_Allgather");
  Topology topology;
  std::vector<int> nodes;  // by number, their lowest ranks
  for (const int first : lowest_of) {
    auto found = std::find(nodes.begin(), nodes.end(), first);
    if (found == nodes.end()) found = nodes.insert(nodes.end(), first);
    topology.node_of.push_back(static_cast<int>(found - nodes.begin()));
  }
  return topology;
}

// What a rank says of itself.
struct Beat {
  int32_t waiting_for = -1;
  int32_t ended = 0;
  double seconds = 0;
};

class MpiTransport final : public Transport {
 public:
  MpiTransport(Topology topology, const MpiWatch& watch)
      : Transport(std::move(topology)), watch_(watch), heard_(static_cast<size_t>(size())) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    if (!watch_.on_silence || size() == 1) return;
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &beats_), "MPI_Comm_dup");
    for (Heard& heard : heard_) heard.when = Clock::now();
    watcher_ = std::thread([this] { keep_watch(); });
  }
  ~MpiTransport() override {
    if (watcher_.joinable()) {
      {
        const std::lock_guard lock(stop_mutex_);
        stopping_ = true;
      }
      stop_.notify_all();
      watcher_.join();
      MPI_Barrier(MPI_COMM_WORLD);  // every beat has been sent
      listen();
      MPI_Wait(&beat_request_, MPI_STATUS_IGNORE);
    }
    for (Sent& sent : sent_) MPI_Wait(&sent.request, MPI_STATUS_IGNORE);
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  bool moves_by_itself() const override { return false; }

  int64_t start_receive(int from, uint32_t tag, std::span<std::byte> bytes) override {
    const std::lock_guard lock(mpi_);
    Posted& posted = receives_[next_receive_];
    for_pieces(bytes.size(), [&](size_t begin, int count) {
      MPI_Request& request = posted.requests.emplace_back();
      check_mpi(MPI_Irecv(bytes.data() + begin, count, MPI_BYTE, from, static_cast<int>(tag),
                          MPI_COMM_WORLD, &request),
                "MPI_Irecv");
    });
    posted.num_bytes = bytes.size();
    posted.from = from;
    return next_receive_++;
  }

  bool wait(int64_t receive, std::chrono::duration<double> timeout) override {
    Posted& posted = posted_as(receive);
    const Clock::time_point begin = Clock::now();
    const Clock::time_point deadline = begin + std::chrono::duration_cast<Clock::duration>(timeout);
    const Clock::time_point end_of_spinning = has_processor_each_ ? begin + kSpinning : begin;
    std::vector<MPI_Status> statuses(posted.requests.size());
    bool told = false;
    for (int64_t round = 0;; ++round) {
      {
        const std::lock_guard lock(mpi_);
        int done = 0;
        check_mpi(MPI_Testall(static_cast<int>(posted.requests.size()), posted.requests.data(),
                              &done, statuses.data()),
                  "MPI_Testall");
        if (done != 0) break;
        reap();
      }
      if (round >= 64) polled_ = Clock::now().time_since_epoch().count();
      if (round == 64) now_waits_for(posted.from);
      told |= round == 64;
      if ((round & 15) == 15 && Clock::now() >= deadline) return false;
      // Long messages move in pieces, one for each look: a rank that sleeps between them makes them
      // slow. But ranks may outnumber processors: then whoever waits gives its own away and sleeps.
      if (round < 64 || Clock::now() < end_of_spinning) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
    if (told) now_waits_for(-1);
    size_t received = 0;
    for (const MPI_Status& status : statuses) {
      int count = 0;
      MPI_Get_count(&status, MPI_BYTE, &count);
      received += static_cast<size_t>(count);
    }
    FATHOM_CHECK_EQ(received, posted.num_bytes, "bytes of a message to rank {}", rank_);
    const std::lock_guard lock(mpi_);
    receives_.erase(receive);
    return true;
  }

  bool has_come(int64_t receive) override {
    const std::lock_guard lock(mpi_);
    for (const MPI_Request& request : receives_.at(receive).requests) {
      int done = 0;
      check_mpi(MPI_Request_get_status(request, &done, MPI_STATUS_IGNORE),
                "MPI_Request_get_status");
      if (done == 0) return false;
    }
    return true;
  }

  std::optional<PeerStatus> status_of(int rank) override {
    if (!watches(rank) || !watcher_.joinable()) return std::nullopt;
    const std::lock_guard lock(mpi_);
    const Beat& beat = heard_[static_cast<size_t>(rank)].beat;
    return PeerStatus{beat.waiting_for, beat.seconds, beat.ended != 0};
  }

  void abort(const std::string&, int exit_status) override {
    MPI_Abort(MPI_COMM_WORLD, exit_status);
  }

 protected:
  void post_send(int to, uint32_t tag, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(mpi_);
    since_ = Clock::now().time_since_epoch().count();
    reap();
    for_pieces(bytes.size(), [&](size_t begin, int count) {
      Sent& sent = sent_.emplace_back();
      sent.bytes.assign(bytes.begin() + static_cast<std::ptrdiff_t>(begin),
                        bytes.begin() + static_cast<std::ptrdiff_t>(begin) + count);
      check_mpi(MPI_Isend(sent.bytes.data(), count, MPI_BYTE, to, static_cast<int>(tag),
                          MPI_COMM_WORLD, &sent.request),
                "MPI_Isend");
    });
  }

 private:
  struct Sent {
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct Posted {
    std::vector<MPI_Request> requests;
    size_t num_bytes = 0;
    int from = -1;
  };
  // The last word of a rank that is watched.
  struct Heard {
    Beat beat;
    Clock::time_point when;
  };

  Posted& posted_as(int64_t receive) {
    const std::lock_guard lock(mpi_);
    const auto found = receives_.find(receive);
    FATHOM_CHECK(found != receives_.end(), "a receive that was waited for before");
    return found->second;
  }

  void now_waits_for(int rank) {
    if (waiting_for_.exchange(rank) != rank) since_ = Clock::now().time_since_epoch().count();
  }
  bool watches(int rank) const { return rank_ == 0 ? rank != 0 : rank_ == 1 && rank == 0; }

  void keep_watch() {
    std::unique_lock stop_lock(stop_mutex_);
    while (true) {
      {
        const std::lock_guard lock(mpi_);
        say();
        listen();
      }
      for (int r = 0; r < size(); ++r) {
        const Heard& heard = heard_[static_cast<size_t>(r)];
        const std::chrono::duration<double> silent = Clock::now() - heard.when;
        if (!watches(r) || heard.beat.ended != 0 || silent.count() < watch_.silence_seconds)
          continue;
        watch_.on_silence(
            fmt::format("rank {} has been silent for {:.1f} s: it was stopped or its machine is "
                        "gone; ending the job",
                        r, silent.count()));
        MPI_Abort(MPI_COMM_WORLD, 1);
      }
      look_for_slow_rank();
      if (stopping_) return;  // having said so
      stop_.wait_for(stop_lock, std::chrono::milliseconds(500), [this] { return stopping_; });
    }
  }
  void say() {
    int done = 1;
    if (beat_request_ != MPI_REQUEST_NULL) MPI_Test(&beat_request_, &done, MPI_STATUS_IGNORE);
    if (done == 0) return;
    const PeerStatus status = own_status();
    own_beat_ = {
        .waiting_for = status.waiting_for, .ended = stopping_ ? 1 : 0, .seconds = status.seconds};
    MPI_Isend(&own_beat_, sizeof own_beat_, MPI_BYTE, rank_ == 0 ? 1 : 0, 0, beats_,
              &beat_request_);
  }
  void listen() {
    while (true) {
      int there = 0;
      MPI_Status status;
      MPI_Iprobe(MPI_ANY_SOURCE, 0, beats_, &there, &status);
      if (there == 0) return;
      Heard& heard = heard_[static_cast<size_t>(status.MPI_SOURCE)];
      MPI_Recv(&heard.beat, sizeof heard.beat, MPI_BYTE, status.MPI_SOURCE, 0, beats_,
               MPI_STATUS_IGNORE);
      heard.when = Clock::now();
    }
  }
  // What this rank does. Its own thread says so itself while it waits, many times a second: when it
  // stops saying so, it was stopped while it waited.
  PeerStatus own_status() const {
    const auto seconds_since = [](Clock::rep time) {
      return std::chrono::duration<double>(Clock::now() - Clock::time_point{Clock::duration(time)})
          .count();
    };
    PeerStatus status{.waiting_for = waiting_for_, .seconds = seconds_since(since_)};
    const double since_poll = seconds_since(polled_);
    if (status.waiting_for >= 0 && since_poll > kStoppedSeconds)
      status = {.waiting_for = -1, .seconds = since_poll};
    return status;
  }
  // On rank 0: everybody waits, but for one.
  void look_for_slow_rank() {
    if (rank_ != 0 || !watch_.on_slow) return;
    std::vector<PeerStatus> ranks{own_status()};
    for (size_t r = 1; r < heard_.size(); ++r) {
      const Beat& beat = heard_[r].beat;
      ranks.push_back({beat.waiting_for, beat.seconds, beat.ended != 0});
    }
    const std::optional<SlowRank> slow = find_slow_rank(ranks, watch_.slow_seconds);
    if (!slow) return;
    if (slow->seconds >= watch_.hang_seconds) {
      watch_.on_silence(describe_hung(*slow));
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (slow->rank == slow_named_) return;
    slow_named_ = slow->rank;
    watch_.on_slow(describe_slow(*slow));
  }

  static constexpr double kStoppedSeconds = 1;

  // As many ranks on this machine as processors, or fewer; not those that mpirun bound this one to.
  static bool one_rank_a_processor() {
    const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    return here != nullptr && std::atol(here) <= ::sysconf(_SC_NPROCESSORS_ONLN);
  }

  static constexpr std::chrono::milliseconds kSpinning{5};
  const bool has_processor_each_ = one_rank_a_processor();
  MpiWatch watch_;
  std::mutex mpi_;  // one thread at a time calls MPI
  MPI_Comm beats_ = MPI_COMM_NULL;
  MPI_Request beat_request_ = MPI_REQUEST_NULL;
  Beat own_beat_;
  std::vector<Heard> heard_;
  std::atomic<int> waiting_for_{-1};
  std::atomic<Clock::rep> since_{Clock::now().time_since_epoch().count()};
  std::atomic<Clock::rep> polled_{0};  // while it waits: when it last looked
  int slow_named_ = -1;
  std::mutex stop_mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread watcher_;

  // Lets go of the copies whose messages have left.
  void reap() {
    while (!sent_.empty()) {
      int done = 0;
      check_mpi(MPI_Test(&sent_.front().request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done == 0) return;
      sent_.pop_front();
    }
  }

  int rank_ = 0;
  std::deque<Sent> sent_;
  std::unordered_map<int64_t, Posted> receives_;
  int64_t next_receive_ = 0;
};

}  // namespace

std::unique_ptr<Transport> join_mpi(int ranks_per_node, const MpiWatch& watch) {
  int provided = 0;
  // The rank's own thread, its progress thread and its watch take turns; compute threads never call
  // MPI.
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    throw CommError("this MPI does not let two threads of a process take turns");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  void* highest = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &highest, &found);
  if (found == 0 || *static_cast<int*>(highest) < (1 << 30) - 1)
    throw CommError("this MPI has tags of less than 30 bits");
  return std::make_unique<MpiTransport>(find_topology(ranks_per_node), watch);
}

#endif

}  // namespace fathom
