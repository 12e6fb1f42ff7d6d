// Expert parallelism, the form with few steps (DeepEP's "low latency"; SPEC C.9): one message for
// every (token, expert), straight to the rank of the expert, and its result straight back to the
// token's rank, which sums them. No row is sent for two experts at once, so it moves more bytes
// than the two-hop form (two_hop_exchange.h); but the sums are those of one process, bit for bit.
//
// Rank r of the communicator holds the experts [r, r + 1) * E / ranks. Rows that arrive lie by
// expert, then by source rank, then by token: the order of one process that had the tokens of all
// ranks, one rank's behind the other's.
#pragma once

#include <deque>
#include <mutex>
#include <vector>

#include "comm/communicator.h"
#include "comm/progress_thread.h"
#include "model/token_exchange.h"

namespace fathom {

class OneHopExchange : public TokenExchange {
 public:
  // `experts` lives as long as the exchange; num_experts of all ranks together.
  OneHopExchange(const Communicator& experts, int64_t num_experts);
  ~OneHopExchange() override { progress_.stop(); }

  std::shared_ptr<ExchangeLayout> make_layout() const override;
  int64_t max_rows(int64_t num_tokens, int64_t experts_per_token,
                   int64_t num_experts) const override;
  void plan(Context& ctx, const RoutedRows& rows, Half half) const override;
  bool plan_has_come(const RoutedRows& rows) const override;
  bool has_come(const RoutedRows& rows, Way way) const override;
  void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                const TensorView& x_UD, Half half) const override;
  void combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows, const TensorView& y_TD,
               bool accumulate, Half half) const override;
  void dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                       const TensorView& v_U, Half half) const override;
  void combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                      const TensorView& v_TA, Half half) const override;

 protected:
  struct Layout : ExchangeLayout {
    std::vector<int64_t> own_offsets;     // [E + 1]: own (token, slot) pairs by expert
    std::vector<int64_t> arriving;        // [ranks, experts here]: rows of each source
    std::vector<int64_t> send_counts;     // by rank
    std::vector<int64_t> receive_counts;  // by rank
    std::vector<Receive> planning;        // of other ranks' counts
    int64_t num_sent() const { return own_offsets.back(); }
    int64_t num_received() const;
  };
  static Layout& layout_of(const RoutedRows& rows);

  int64_t num_experts_here() const { return num_experts_ / comm_.size(); }
  const Communicator& comm_;
  int64_t num_experts_;

  // Rows on their way here. Receives are posted when the own rows are sent, so that a transport
  // can move bytes while this rank computes; the rows that stay are copied then.
  struct Transfer {
    const Layout* layout = nullptr;
    Way way = Way::kToExperts;
    std::vector<std::byte> bytes;  // by source rank; at least as many as come
    size_t num_bytes = 0;
    std::vector<Receive> receives;
    // In two hops, what is passed on by this rank before: rows of this format.
    bool passed_on = true;
    std::vector<std::byte> passing;
    std::vector<Receive> first_hop;
    DType dtype = DType::kU8;
    int64_t width = 0;
  };
  // An empty one, with room for what comes.
  Transfer take_spare(const Layout& layout, Way way, int64_t num_bytes) const;
  void give_back(Transfer transfer) const;
  // Now it is under way.
  void started(Transfer transfer) const;
  // The oldest such transfer when all of it is here; to be given back.
  Transfer finish(const Layout& layout, Way way) const;
  // Of a transfer whose first hop is here; by this rank's thread or its progress thread, one of
  // them at a time and in the order of the transfers.
  virtual void pass_on(Transfer& transfer) const { (void)transfer; }
  // Before what pass_on() needs goes away.
  void stop_progress() { progress_.stop(); }

 private:
  // counts[r] rows to and from each rank.
  void begin(const Layout& layout, Way way, std::span<const std::byte> rows,
             const std::vector<int64_t>& to, const std::vector<int64_t>& from,
             int64_t row_bytes) const;
  std::deque<Transfer>::iterator find(const Layout& layout, Way way) const;
  bool all_have_come(const std::vector<Receive>& receives) const;
  void complete_first_hop(Transfer& transfer) const;
  // What can be passed on now, oldest first; false when something has to wait.
  bool pass_on_what_came() const;
  bool poll() const;

  // Rows of own pairs in dispatch order to where their experts are, and back.
  void send_to_experts(const TensorView& own, const Layout& layout) const;
  void receive_at_experts(const Layout& layout, const TensorView& arrived) const;
  void send_back(Context& ctx, const TensorView& arrived, const Layout& layout) const;
  static TensorView rows_of(Transfer& transfer, DType dtype, const Shape& shape);
  void by_source_and_back(const Layout& layout, std::byte* by_source, std::byte* by_expert,
                          int64_t row_bytes, bool to_expert) const;

  // Of what is under way: this rank's thread adds and takes away, the progress thread passes on.
  mutable std::mutex mutex_;
  mutable std::deque<Transfer> under_way_;
  mutable std::vector<Transfer> spare_;
  mutable ProgressThread progress_{[this] { return poll(); }};  // last: it uses all the others
};

}  // namespace fathom
