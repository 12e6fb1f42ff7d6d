// Expert parallelism across machines (report section 3.2.2; SPEC C.9, "normal" mode): a token's row
// crosses the network once for every machine that holds one of its experts, to the rank of the same
// place there, which forwards it inside the machine once to every rank that needs it. Results come
// back the same way: each rank sums its experts' rows of a token (slots ascending), the forwarder
// sums its machine's ranks (ascending), the token's rank sums machines (ascending); what travels
// is rounded to the rows' format, sums are fp32.
//
// The dispatch of gradients is dispatch, their combine is combine: one layout serves both passes.
// Of a transfer in halves all is asked for when the first hop is sent; the forwarder's part is done
// by its progress thread when that hop has come, while the ranks compute.
//
// Gate weights and their gradients (4 bytes a choice) go straight, as in the one-hop form.
#pragma once

#include "parallel/one_hop_exchange.h"

namespace fathom {

class TwoHopExchange final : public OneHopExchange {
 public:
  // The communicator's ranks lie machine by machine, equally many on each: an Error otherwise.
  TwoHopExchange(const Communicator& experts, int64_t num_experts);
  ~TwoHopExchange() override { stop_progress(); }

  std::shared_ptr<ExchangeLayout> make_layout() const override;
  void plan(Context& ctx, const RoutedRows& rows, Half half) const override;
  void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                const TensorView& x_UD, Half half) const override;
  void combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows, const TensorView& y_TD,
               bool accumulate, Half half) const override;

  int num_nodes() const { return num_nodes_; }

 private:
  // A rank here has three parts: source of its own tokens, forwarder for the ranks of its place on
  // all machines, and receiver for its experts. `rows` are lists of row numbers of the part before.
  struct Layout : OneHopExchange::Layout {
    std::vector<std::vector<int32_t>> tokens_of_node;  // source: tokens that go to each machine
    std::vector<int64_t> from_node;                    // forwarder: rows of each machine's source
    std::vector<std::vector<int32_t>> forwarded;       // forwarder: by rank in the machine
    std::vector<int64_t> from_forwarder;               // receiver: rows of each forwarder
    std::vector<int32_t> unique_row;                   // receiver: of each row by expert
    std::vector<int32_t> expert_rows;   // receiver: rows by expert of each unique row, slots
    std::vector<int64_t> expert_begin;  // ascending; [unique rows + 1]
  };
  static Layout& layout_of(const RoutedRows& rows) {
    return static_cast<Layout&>(OneHopExchange::layout_of(rows));
  }
  // Posts the second hop's receives: counts[i] rows from each of `from`.
  void ask_for(Transfer& transfer, std::span<const int> from, std::span<const int64_t> counts,
               uint32_t tag) const;
  void ask_for_first_hop(Transfer& transfer, std::span<const int> from,
                         std::span<const int64_t> counts, uint32_t tag) const;
  void pass_on(Transfer& transfer) const override;
  void send_expert_sums(const TensorView& x_UD, const Layout& layout) const;
  void plan_sources(const RoutedRows& rows, Layout& layout) const;
  void plan_forwarder(Layout& layout) const;
  void plan_receiver(const RoutedRows& rows, Layout& layout) const;

  int node_of_rank(int rank) const { return rank / per_node_; }
  int place() const { return comm_.rank() % per_node_; }
  int rank_at(int node, int place) const { return node * per_node_ + place; }
  // Whom this rank's two hops touch: the ranks of its machine, and those of its place.
  std::vector<int> ranks_here() const;
  std::vector<int> ranks_of_place() const;

  int num_nodes_ = 1;
  int per_node_ = 1;  // ranks
};

}  // namespace fathom
