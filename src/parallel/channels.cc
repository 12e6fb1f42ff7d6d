#include "parallel/channels.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>
#include <queue>
#include <vector>

#include "core/error.h"
#include "core/random.h"

namespace fathom {
namespace {

// Rows of one source rank for one node, and how many of them each rank there gets.
struct Chunk {
  int64_t rows = 0;
  std::vector<int64_t> rows_of;  // by rank in the node
};

struct Link {
  double bytes_per_second, latency;
  double free_at = 0, bytes = 0;

  // When the last byte is at the other end.
  double send(double now, double num_bytes) {
    free_at = std::max(free_at, now) + num_bytes / bytes_per_second;
    bytes += num_bytes;
    return free_at + latency;
  }
};

class Role;

// From one role to another: places are taken when a chunk is sent.
struct Queue {
  struct Entry {
    double visible;
    const Chunk* chunk;
  };
  std::deque<Entry> entries;
  int64_t free_places = 0;
  double back_latency = 0;  // of news of a free place
  Role* reader = nullptr;
  Role* writer = nullptr;

  bool has(double now) const { return !entries.empty() && entries.front().visible <= now; }
  // Wherever it lies: places may be read in any order.
  std::deque<Entry>::iterator find(const Chunk* chunk, double now) {
    return std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
      return entry.chunk == chunk && entry.visible <= now;
    });
  }
};

// step() does what can be done at `now` and returns whether it did something; it is asked again
// after `handling`, or when one of its queues has changed.
class Role {
 public:
  virtual ~Role() = default;
  virtual bool step(double now) = 0;
  virtual bool done() const = 0;
  double busy_until = 0;
};

class ChannelSimulation {
 public:
  explicit ChannelSimulation(const ChannelConfig& config) : c_(config) {
    const int num_ranks = c_.num_nodes * c_.ranks_per_node;
    for (int r = 0; r < num_ranks; ++r) {
      network_.push_back({c_.links.network_bytes_per_second, c_.links.network_latency});
      machine_.push_back({c_.links.machine_bytes_per_second, c_.links.machine_latency});
    }
    lay_out();
    if (c_.dispatch) add_roles(/*combine=*/false);
    if (c_.combine) add_roles(/*combine=*/true);
  }

  ChannelResult run() {
    for (const auto& role : roles_) wake(role.get(), 0);
    double now = 0;
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now = event.time;
      if (event.freed != nullptr) ++event.freed->free_places;
      if (now < event.role->busy_until || !event.role->step(now)) continue;
      event.role->busy_until = now + c_.links.handling;
      wake(event.role, event.role->busy_until);
    }
    ChannelResult result{.seconds = now};
    result.finished =
        std::all_of(roles_.begin(), roles_.end(), [](const auto& role) { return role->done(); });
    for (size_t r = 0; r < network_.size(); ++r) {
      result.network_bytes = std::max(result.network_bytes, network_[r].bytes);
      result.machine_bytes = std::max(result.machine_bytes, machine_[r].bytes);
    }
    result.network_share = result.network_bytes / (c_.links.network_bytes_per_second * now);
    result.machine_share = result.machine_bytes / (c_.links.machine_bytes_per_second * now);
    return result;
  }

 private:
  class Sender;
  class Forwarder;
  class Receiver;
  class MachineSender;
  class Adder;
  struct Event {
    double time;
    int64_t number;  // ties: first come
    Role* role;
    Queue* freed;
    bool operator>(const Event& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };

  void wake(Role* role, double time, Queue* freed = nullptr) {
    events_.push({time, next_event_++, role, freed});
  }
  int rank_at(int node, int place) const { return node * c_.ranks_per_node + place; }
  int node_of(int rank) const { return rank / c_.ranks_per_node; }
  int place_of(int rank) const { return rank % c_.ranks_per_node; }
  std::vector<Chunk>& chunks(int source, int channel, int node) {
    return chunks_[static_cast<size_t>((source * c_.num_channels + channel) * c_.num_nodes + node)];
  }
  Queue* new_queue(double back_latency) {
    queues_.push_back(std::make_unique<Queue>());
    queues_.back()->free_places = c_.queue_chunks;
    queues_.back()->back_latency = back_latency;
    return queues_.back().get();
  }
  void push(Queue* queue, const Chunk* chunk, double visible) {
    --queue->free_places;
    queue->entries.push_back({visible, chunk});
    wake(queue->reader, visible);
  }
  void pop(Queue* queue, double now) { take(queue, queue->entries.begin(), now); }
  void take(Queue* queue, std::deque<Queue::Entry>::iterator entry, double now) {
    queue->entries.erase(entry);
    wake(queue->writer, now + queue->back_latency, queue);
  }
  // Inside one's own machine the network is not used.
  double over_network(int from, int to_node, double now, int64_t bytes) {
    if (node_of(from) == to_node) return now;
    return network_[static_cast<size_t>(from)].send(now, static_cast<double>(bytes));
  }
  double over_machine(int from, int to_place, double now, int64_t bytes) {
    if (place_of(from) == to_place) return now;
    return machine_[static_cast<size_t>(from)].send(now, static_cast<double>(bytes));
  }
  void lay_out();
  void add_roles(bool combine);

  const ChannelConfig& c_;
  std::vector<Link> network_, machine_;
  std::vector<std::vector<Chunk>> chunks_;  // [source, channel, node]
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<std::unique_ptr<Role>> roles_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  int64_t next_event_ = 0;
};

// Each token to nodes_per_token nodes and experts_per_token ranks of them, evenly; a rank twice
// gets its row once. Tokens are dealt out to channels.
void ChannelSimulation::lay_out() {
  const int num_ranks = c_.num_nodes * c_.ranks_per_node;
  chunks_.resize(static_cast<size_t>(num_ranks * c_.num_channels * c_.num_nodes));
  const auto places = static_cast<size_t>(c_.ranks_per_node);
  std::vector<int> nodes(static_cast<size_t>(c_.num_nodes));
  for (int source = 0; source < num_ranks; ++source) {
    const Random random(11, RandomPurpose::kTest, static_cast<uint64_t>(source));
    uint64_t draw = 0;
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(random.uniform(draw++) * static_cast<double>(n));
    };
    for (int64_t t = 0; t < c_.tokens_per_rank; ++t) {
      const int channel = static_cast<int>(t % c_.num_channels);
      for (int n = 0; n < c_.num_nodes; ++n) nodes[static_cast<size_t>(n)] = n;
      for (int64_t m = 0; m < c_.nodes_per_token; ++m) {
        const auto at = static_cast<size_t>(m);
        std::swap(nodes[at], nodes[at + static_cast<size_t>(below(c_.num_nodes - m))]);
        std::vector<Chunk>& list = chunks(source, channel, nodes[at]);
        if (list.empty() || list.back().rows == c_.chunk_rows)
          list.push_back({0, std::vector<int64_t>(places, 0)});
        Chunk& chunk = list.back();
        ++chunk.rows;
        std::vector<bool> has(places, false);
        const int64_t experts = c_.experts_per_token / c_.nodes_per_token +
                                (m < c_.experts_per_token % c_.nodes_per_token ? 1 : 0);
        for (int64_t e = 0; e < experts; ++e)
          has[static_cast<size_t>(below(c_.ranks_per_node))] = true;
        for (size_t p = 0; p < places; ++p) chunk.rows_of[p] += has[p] ? 1 : 0;
      }
    }
  }
}

// Dispatch, first role: own tokens to the rank of this place on each node, nodes in turn.
class ChannelSimulation::Sender final : public Role {
 public:
  Sender(ChannelSimulation& s, int rank, int channel) : s_(s), rank_(rank), channel_(channel) {
    next_.resize(static_cast<size_t>(s.c_.num_nodes));
  }
  std::vector<Queue*> out;  // by node
  bool step(double now) override {
    for (size_t tried = 0; tried < out.size(); ++tried, turn_ = (turn_ + 1) % out.size()) {
      const auto& list = s_.chunks(rank_, channel_, static_cast<int>(turn_));
      if (next_[turn_] == list.size() || out[turn_]->free_places == 0) continue;
      const Chunk& chunk = list[next_[turn_]++];
      s_.push(out[turn_], &chunk,
              s_.over_network(rank_, static_cast<int>(turn_), now,
                              chunk.rows * s_.c_.dispatch_row_bytes));
      turn_ = (turn_ + 1) % out.size();
      return true;
    }
    return false;
  }
  bool done() const override {
    for (size_t n = 0; n < next_.size(); ++n) {
      if (next_[n] != s_.chunks(rank_, channel_, static_cast<int>(n)).size()) return false;
    }
    return true;
  }

 private:
  ChannelSimulation& s_;
  int rank_, channel_;
  std::vector<size_t> next_;
  size_t turn_ = 0;
};

// Dispatch, second role: what came for this machine, to each rank that needs it.
class ChannelSimulation::Forwarder final : public Role {
 public:
  Forwarder(ChannelSimulation& s, int rank) : s_(s), rank_(rank) {}
  std::vector<Queue*> in, out;  // by node of the source; by place of the receiver
  bool step(double now) override {
    place_.resize(in.size());
    for (size_t tried = 0; tried < in.size(); ++tried, turn_ = (turn_ + 1) % in.size()) {
      if (!in[turn_]->has(now)) continue;
      const Chunk& chunk = *in[turn_]->entries.front().chunk;
      size_t& place = place_[turn_];
      while (place < out.size() && chunk.rows_of[place] == 0) ++place;
      if (place < out.size()) {
        if (out[place]->free_places == 0) continue;
        s_.push(out[place], &chunk,
                s_.over_machine(rank_, static_cast<int>(place), now,
                                chunk.rows_of[place] * s_.c_.dispatch_row_bytes));
        ++place;
        return true;
      }
      place = 0;
      s_.pop(in[turn_], now);
      return true;
    }
    return false;
  }
  bool done() const override {
    return std::all_of(in.begin(), in.end(), [](const Queue* q) { return q->entries.empty(); });
  }

 private:
  ChannelSimulation& s_;
  int rank_;
  std::vector<size_t> place_;
  size_t turn_ = 0;
};

// Last role of both: takes what is there, senders in turn.
class ChannelSimulation::Receiver final : public Role {
 public:
  explicit Receiver(ChannelSimulation& s) : s_(s) {}
  std::vector<Queue*> in;
  bool step(double now) override {
    for (size_t tried = 0; tried < in.size(); ++tried, turn_ = (turn_ + 1) % in.size()) {
      if (!in[turn_]->has(now)) continue;
      s_.pop(in[turn_], now);
      turn_ = (turn_ + 1) % in.size();
      return true;
    }
    return false;
  }
  bool done() const override {
    return std::all_of(in.begin(), in.end(), [](const Queue* q) { return q->entries.empty(); });
  }

 private:
  ChannelSimulation& s_;
  size_t turn_ = 0;
};

// The order in which a forwarder of `place` in `node` adds up chunks: sources' nodes in turn.
struct Turns {
  std::vector<size_t> next;
  size_t turn = 0;

  // The list that is next, by node of the source; -1: none is left.
  template <typename SizeOf>
  int take(SizeOf&& size_of, bool in_turn) {
    for (size_t tried = 0; tried < next.size(); ++tried) {
      const size_t n = turn;
      if (next[n] == size_of(static_cast<int>(n))) {
        turn = (turn + 1) % next.size();
        continue;
      }
      if (in_turn) turn = (turn + 1) % next.size();
      return static_cast<int>(n);
    }
    return -1;
  }
};

// Combine, first role: results of own experts to the forwarders of this machine, for each in the
// order in which it adds; forwarders in turn.
class ChannelSimulation::MachineSender final : public Role {
 public:
  MachineSender(ChannelSimulation& s, int rank, int channel)
      : s_(s), rank_(rank), channel_(channel) {
    waiting_.resize(static_cast<size_t>(s.c_.ranks_per_node));
    turns_of_.resize(waiting_.size());
    for (Turns& turns : turns_of_) turns.next.resize(static_cast<size_t>(s.c_.num_nodes));
    for (size_t p = 0; p < waiting_.size(); ++p) advance(p);
  }
  std::vector<Queue*> out;  // by place of the forwarder
  bool step(double now) override {
    for (size_t tried = 0; tried < out.size(); ++tried, turn_ = (turn_ + 1) % out.size()) {
      const Chunk* chunk = waiting_[turn_];
      if (chunk == nullptr || out[turn_]->free_places == 0) continue;
      s_.push(out[turn_], chunk,
              s_.over_machine(rank_, static_cast<int>(turn_), now,
                              own_rows(*chunk) * s_.c_.combine_row_bytes));
      advance(turn_);
      turn_ = (turn_ + 1) % out.size();
      return true;
    }
    return false;
  }
  bool done() const override {
    return std::all_of(waiting_.begin(), waiting_.end(),
                       [](const Chunk* chunk) { return chunk == nullptr; });
  }

 private:
  int64_t own_rows(const Chunk& chunk) const {
    return chunk.rows_of[static_cast<size_t>(s_.place_of(rank_))];
  }
  void advance(size_t place) {
    Turns& turns = turns_of_[place];
    const auto list_of = [&](int n) -> const std::vector<Chunk>& {
      return s_.chunks(s_.rank_at(n, static_cast<int>(place)), channel_, s_.node_of(rank_));
    };
    while (true) {
      const int n =
          turns.take([&](int node) { return list_of(node).size(); }, !s_.c_.senders_disagree);
      if (n < 0) break;
      const Chunk& chunk = list_of(n)[turns.next[static_cast<size_t>(n)]++];
      if (own_rows(chunk) == 0) continue;
      waiting_[place] = &chunk;
      return;
    }
    waiting_[place] = nullptr;
  }

  ChannelSimulation& s_;
  int rank_, channel_;
  std::vector<const Chunk*> waiting_;  // by place of the forwarder
  std::vector<Turns> turns_of_;
  size_t turn_ = 0;
};

// Combine, second role: the sum over this machine's ranks, to the rank that the tokens are of.
class ChannelSimulation::Adder final : public Role {
 public:
  Adder(ChannelSimulation& s, int rank, int channel) : s_(s), rank_(rank), channel_(channel) {
    turns_.next.resize(static_cast<size_t>(s.c_.num_nodes));
    advance();
  }
  std::vector<Queue*> in, out;  // by place of the sender; by node of the source
  bool step(double now) override {
    if (current_ == nullptr || out[static_cast<size_t>(node_)]->free_places == 0) return false;
    for (size_t p = 0; p < in.size(); ++p) {
      if (current_->rows_of[p] == 0) continue;
      if (in[p]->find(current_, now) == in[p]->entries.end()) return false;
    }
    for (size_t p = 0; p < in.size(); ++p) {
      if (current_->rows_of[p] > 0) s_.take(in[p], in[p]->find(current_, now), now);
    }
    s_.push(out[static_cast<size_t>(node_)], current_,
            s_.over_network(rank_, node_, now, current_->rows * s_.c_.combine_row_bytes));
    advance();
    return true;
  }
  bool done() const override { return current_ == nullptr; }

 private:
  void advance() {
    const auto list_of = [&](int n) -> const std::vector<Chunk>& {
      return s_.chunks(s_.rank_at(n, s_.place_of(rank_)), channel_, s_.node_of(rank_));
    };
    node_ = turns_.take([&](int n) { return list_of(n).size(); }, true);
    current_ = node_ < 0 ? nullptr : &list_of(node_)[turns_.next[static_cast<size_t>(node_)]++];
  }

  ChannelSimulation& s_;
  int rank_, channel_;
  Turns turns_;
  int node_ = -1;
  const Chunk* current_ = nullptr;
};

void ChannelSimulation::add_roles(bool combine) {
  const int num_ranks = c_.num_nodes * c_.ranks_per_node;
  const auto add = [&](auto role) {
    auto* raw = role.get();
    roles_.push_back(std::move(role));
    return raw;
  };
  const auto join = [](Queue* queue, Role* from, Role* to) {
    queue->writer = from;
    queue->reader = to;
    return queue;
  };
  for (int channel = 0; channel < c_.num_channels; ++channel) {
    std::vector<Receiver*> receivers;
    for (int r = 0; r < num_ranks; ++r) receivers.push_back(add(std::make_unique<Receiver>(*this)));
    const auto connect = [&](auto& first, auto& second, bool network_first) {
      for (int r = 0; r < num_ranks; ++r) {
        for (int n = 0; n < c_.num_nodes; ++n) {
          const auto across = static_cast<size_t>(rank_at(n, place_of(r)));
          auto* from = network_first ? static_cast<Role*>(first[static_cast<size_t>(r)])
                                     : static_cast<Role*>(second[static_cast<size_t>(r)]);
          Queue* queue = new_queue(c_.links.network_latency);
          if (network_first) {
            first[static_cast<size_t>(r)]->out.push_back(join(queue, from, second[across]));
            second[across]->in.push_back(queue);
          } else {
            second[static_cast<size_t>(r)]->out.push_back(join(queue, from, receivers[across]));
            receivers[across]->in.push_back(queue);
          }
        }
        for (int p = 0; p < c_.ranks_per_node; ++p) {
          const auto inside = static_cast<size_t>(rank_at(node_of(r), p));
          Queue* queue = new_queue(c_.links.machine_latency);
          if (network_first) {
            second[static_cast<size_t>(r)]->out.push_back(
                join(queue, second[static_cast<size_t>(r)], receivers[inside]));
            receivers[inside]->in.push_back(queue);
          } else {
            first[static_cast<size_t>(r)]->out.push_back(
                join(queue, first[static_cast<size_t>(r)], second[inside]));
            second[inside]->in.push_back(queue);
          }
        }
      }
    };
    if (combine) {
      std::vector<MachineSender*> senders;
      std::vector<Adder*> adders;
      for (int r = 0; r < num_ranks; ++r) {
        senders.push_back(add(std::make_unique<MachineSender>(*this, r, channel)));
        adders.push_back(add(std::make_unique<Adder>(*this, r, channel)));
      }
      connect(senders, adders, false);
    } else {
      std::vector<Sender*> senders;
      std::vector<Forwarder*> forwarders;
      for (int r = 0; r < num_ranks; ++r) {
        senders.push_back(add(std::make_unique<Sender>(*this, r, channel)));
        forwarders.push_back(add(std::make_unique<Forwarder>(*this, r)));
      }
      connect(senders, forwarders, true);
    }
  }
}

}  // namespace

ChannelResult simulate_channels(const ChannelConfig& config) {
  FATHOM_CHECK(config.num_nodes > 0 && config.ranks_per_node > 0 && config.num_channels > 0 &&
                   config.chunk_rows > 0 && config.queue_chunks > 0,
               "channels of nothing");
  FATHOM_CHECK_LE(config.nodes_per_token, config.num_nodes);
  return ChannelSimulation(config).run();
}

int64_t tune_chunk_rows(ChannelConfig config, int64_t queue_rows) {
  int64_t best = 1;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t rows = 1; rows <= queue_rows; rows *= 2) {
    config.chunk_rows = rows;
    config.queue_chunks = queue_rows / rows;
    const ChannelResult result = simulate_channels(config);
    if (!result.finished || result.seconds >= least) continue;
    least = result.seconds;
    best = rows;
  }
  return best;
}

}  // namespace fathom
