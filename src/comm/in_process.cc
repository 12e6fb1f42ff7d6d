#include "comm/in_process.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "runtime/cpu.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

// Who waits between two parts of a step keeps its processor for so long, where no other rank needs
// it: a processor that was halted comes back late and with cold caches, and what is computed first
// after that takes a third longer.
constexpr std::chrono::microseconds kSpinning{500};

struct Message {
  std::vector<std::byte> bytes;
  Clock::time_point visible;
};

// What one rank has been sent and what it is doing.
struct Inbox {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::pair<int, uint32_t>, std::deque<Message>> messages;  // by (from, tag)
  std::atomic<int> waiting_for{-1};
  std::atomic<Clock::rep> since{Clock::now().time_since_epoch().count()};
  std::atomic<bool> ended{false};

  void now_waits_for(int rank) {
    waiting_for = rank;
    since = Clock::now().time_since_epoch().count();
  }
  PeerStatus status() const {
    const Clock::time_point began{Clock::duration(since.load())};
    return {.waiting_for = waiting_for,
            .seconds = std::chrono::duration<double>(Clock::now() - began).count(),
            .ended = ended};
  }
};

struct World {
  explicit World(int num_ranks) {
    for (int r = 0; r < num_ranks; ++r) inboxes.push_back(std::make_unique<Inbox>());
    has_processor_each = num_ranks <= cpu_info().num_cpus;
  }
  // The first failure counts; everybody who waits hears of it.
  void fail(int rank, const std::string& reason) {
    {
      const std::lock_guard lock(mutex);
      if (failed_rank >= 0) return;
      failed_rank = rank;
      failure = fmt::format("rank {} ended: {}", rank, reason);
    }
    any_failed = true;
    for (const auto& inbox : inboxes) {
      const std::lock_guard lock(inbox->mutex);
      inbox->changed.notify_all();
    }
  }

  std::vector<std::unique_ptr<Inbox>> inboxes;
  bool has_processor_each = false;
  std::mutex mutex;
  std::atomic<bool> any_failed{false};
  int failed_rank = -1;
  std::string failure;
};

class InProcessTransport final : public Transport {
 public:
  InProcessTransport(World& world, Topology topology, int rank, const InProcessOptions& options)
      : Transport(std::move(topology)), world_(world), rank_(rank), options_(options) {}

  int rank() const override { return rank_; }

  int64_t start_receive(int from, uint32_t tag, std::span<std::byte> bytes) override {
    const std::lock_guard lock(own_);
    receives_[next_receive_] = {from, tag, bytes};
    return next_receive_++;
  }

  // Receives under one tag complete in the order they were started, as MPI has it: the first one
  // waited for must be the first one started.
  bool wait(int64_t receive, std::chrono::duration<double> timeout) override {
    const Posted posted = posted_as(receive);
    Inbox& inbox = *world_.inboxes[static_cast<size_t>(rank_)];
    std::unique_lock lock(inbox.mutex);
    std::deque<Message>& queue = inbox.messages[{posted.from, posted.tag}];
    const Clock::time_point deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout);
    bool waited = false;
    const Clock::duration spinning =
        world_.has_processor_each ? Clock::duration(kSpinning) : Clock::duration(0);
    const Clock::time_point end_of_spinning = Clock::now() + spinning;
    while (queue.empty() || queue.front().visible > Clock::now()) {
      if (!waited) inbox.now_waits_for(posted.from);
      waited = true;
      const bool soon = !queue.empty() && queue.front().visible < Clock::now() + spinning;
      if ((soon || Clock::now() < end_of_spinning) && !world_.any_failed) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        continue;
      }
      const Clock::time_point until =
          queue.empty() ? deadline : std::min(deadline, queue.front().visible - spinning);
      if (queue.empty() && world_.any_failed) throw_failure();
      if (Clock::now() >= deadline) return false;  // still shown as waiting
      inbox.changed.wait_until(lock, until);
    }
    if (waited) inbox.now_waits_for(-1);
    Message message = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    {
      const std::lock_guard own_lock(own_);
      receives_.erase(receive);
    }
    FATHOM_CHECK_EQ(message.bytes.size(), posted.bytes.size(),
                    "bytes of a message from rank {} to rank {}, tag {:#x}", posted.from, rank_,
                    posted.tag);
    if (!message.bytes.empty())
      std::memcpy(posted.bytes.data(), message.bytes.data(), message.bytes.size());
    return true;
  }

  bool has_come(int64_t receive) override {
    const Posted posted = posted_as(receive);
    Inbox& inbox = *world_.inboxes[static_cast<size_t>(rank_)];
    const std::lock_guard lock(inbox.mutex);
    if (world_.any_failed) return true;  // wait() says so
    const std::deque<Message>& queue = inbox.messages[{posted.from, posted.tag}];
    return !queue.empty() && queue.front().visible <= Clock::now();
  }

  std::optional<PeerStatus> status_of(int rank) override {
    return world_.inboxes[static_cast<size_t>(rank)]->status();
  }

  void abort(const std::string& reason, int) override { world_.fail(rank_, reason); }

 protected:
  void post_send(int to, uint32_t tag, std::span<const std::byte> bytes) override {
    if (world_.any_failed) throw_failure();
    Message message{{bytes.begin(), bytes.end()}, Clock::time_point{}};
    const LinkClass link = link_to(to);
    if (link != LinkClass::kSelf) message.visible = arrival(link, bytes.size());
    Inbox& own = *world_.inboxes[static_cast<size_t>(rank_)];
    own.since = Clock::now().time_since_epoch().count();
    Inbox& inbox = *world_.inboxes[static_cast<size_t>(to)];
    const std::lock_guard lock(inbox.mutex);
    inbox.messages[{rank_, tag}].push_back(std::move(message));
    inbox.changed.notify_all();
  }

 private:
  struct Posted {
    int from;
    uint32_t tag;
    std::span<std::byte> bytes;
  };

  Posted posted_as(int64_t receive) {
    const std::lock_guard lock(own_);
    const auto found = receives_.find(receive);
    FATHOM_CHECK(found != receives_.end(), "a receive that was waited for before");
    return found->second;
  }

  [[noreturn]] void throw_failure() {
    const std::lock_guard lock(world_.mutex);
    throw CommError(world_.failure);
  }

  Clock::time_point arrival(LinkClass link, size_t num_bytes) {
    const EmulatedLink& emulated = link == LinkClass::kNode ? options_.node : options_.network;
    if (emulated.latency_seconds == 0 && emulated.bytes_per_second == 0) return Clock::time_point{};
    const auto seconds = [](double s) {
      return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
    };
    const std::lock_guard lock(own_);
    Clock::time_point& free = link_free_[static_cast<int>(link)];
    free = std::max(free, Clock::now());
    Clock::duration leaving{0};
    if (emulated.bytes_per_second > 0)
      leaving = seconds(static_cast<double>(num_bytes) / emulated.bytes_per_second);
    free += leaving;
    const Clock::time_point left =
        num_bytes <= EmulatedLink::kPacketBytes ? Clock::now() + leaving : free;
    return left + seconds(emulated.latency_seconds);
  }

  World& world_;
  int rank_;
  InProcessOptions options_;
  std::mutex own_;  // of what follows
  std::unordered_map<int64_t, Posted> receives_;
  int64_t next_receive_ = 0;
  Clock::time_point link_free_[kNumLinkClasses] = {};
};

// Looks at all ranks twice a second, as long as it lives.
class Watch {
 public:
  Watch(const World& world, const ThreadWatch& watch) : world_(world), watch_(watch) {
    if (watch_.on_slow) thread_ = std::thread([this] { look(); });
  }
  ~Watch() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    stop_.notify_all();
    thread_.join();
  }

 private:
  void look() {
    int named = -1;
    std::unique_lock lock(mutex_);
    while (!stop_.wait_for(lock, std::chrono::milliseconds(500), [this] { return stopping_; })) {
      std::vector<PeerStatus> ranks;
      for (const auto& inbox : world_.inboxes) ranks.push_back(inbox->status());
      const auto slow = find_slow_rank(ranks, watch_.slow_seconds);
      if (!slow) continue;
      if (slow->seconds >= watch_.hang_seconds) watch_.on_hang(describe_hung(*slow));
      if (slow->rank == named) continue;
      named = slow->rank;
      watch_.on_slow(describe_slow(*slow));
    }
  }

  const World& world_;
  const ThreadWatch& watch_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

void run_ranks(int num_ranks, const InProcessOptions& options,
               const std::function<void(Communicator&)>& body) {
  World world(num_ranks);
  const Topology topology = Topology::uniform(num_ranks, options.ranks_per_node);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(num_ranks));
  std::vector<std::thread> threads;
  const Watch watch(world, options.watch);
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto remember = [&](const std::string& reason) {
        errors[static_cast<size_t>(rank)] = std::current_exception();
        world.fail(rank, reason);
      };
      InProcessTransport transport(world, topology, rank, options);
      try {
        Communicator communicator(transport, options.comm);
        body(communicator);
      } catch (const std::exception& error) {
        remember(error.what());
      } catch (...) {
        remember("an exception");
      }
      world.inboxes[static_cast<size_t>(rank)]->ended = true;
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (world.failed_rank >= 0) {
    const std::exception_ptr& first = errors[static_cast<size_t>(world.failed_rank)];
    if (first != nullptr) std::rethrow_exception(first);
    throw CommError(world.failure);
  }
}

}  // namespace fathom
