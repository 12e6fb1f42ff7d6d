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
#include <vector>

#include "comm/communicator.h"
#include "model/token_exchange.h"

namespace fathom {

class OneHopExchange : public TokenExchange {
 public:
  // `experts` lives as long as the exchange; num_experts of all ranks together.
  OneHopExchange(const Communicator& experts, int64_t num_experts);

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

 private:
  // Rows on their way here. Receives are posted when the own rows are sent, so that a transport
  // can move bytes while this rank computes; the rows that stay are copied then.
  struct Transfer {
    const Layout* layout = nullptr;
    Way way = Way::kToExperts;
    std::vector<std::byte> bytes;  // by source rank; at least as many as come
    size_t num_bytes = 0;
    std::vector<Receive> receives;
  };
  // counts[r] rows to and from each rank.
  void begin(const Layout& layout, Way way, std::span<const std::byte> rows,
             const std::vector<int64_t>& to, const std::vector<int64_t>& from,
             int64_t row_bytes) const;
  // The oldest such transfer when all of it is here; to be given back to spare_.
  Transfer finish(const Layout& layout, Way way) const;

  // Rows of own pairs in dispatch order to where their experts are, and back.
  void send_to_experts(const TensorView& own, const Layout& layout) const;
  void receive_at_experts(const Layout& layout, const TensorView& arrived) const;
  void send_back(Context& ctx, const TensorView& arrived, const Layout& layout) const;
  static TensorView rows_of(Transfer& transfer, DType dtype, const Shape& shape);
  void by_source_and_back(const Layout& layout, std::byte* by_source, std::byte* by_expert,
                          int64_t row_bytes, bool to_expert) const;

  // Of the one thread that this rank is.
  mutable std::deque<Transfer> under_way_;
  mutable std::vector<Transfer> spare_;
};

}  // namespace fathom
