#include "parallel/two_hop_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>

namespace fathom {
namespace {

constexpr uint32_t kAcross = 1, kInside = 2, kChoices = 3, kMasks = 4, kBackInside = 7,
                   kBackAcross = 8;

int64_t matrix_row_bytes(const TensorView& view) { return view.dim(1) * dtype_bytes(view.dtype); }

std::byte* row_at(const TensorView& view, int64_t row) {
  return static_cast<std::byte*>(view.data) + row * view.stride[0] * dtype_bytes(view.dtype);
}

// The listed rows, one behind the other.
void pack(const TensorView& from, const std::vector<int32_t>& rows, std::vector<std::byte>& to) {
  const auto bytes = static_cast<size_t>(matrix_row_bytes(from));
  to.resize(rows.size() * bytes);
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(to.data() + i * bytes, row_at(from, rows[i]), bytes);
}

std::vector<int64_t> sizes_of(const std::vector<std::vector<int32_t>>& lists) {
  std::vector<int64_t> sizes;
  for (const auto& list : lists) sizes.push_back(static_cast<int64_t>(list.size()));
  return sizes;
}

int64_t sum_of(std::span<const int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

// Runs f(type of sums, pointer type of rows) for the formats that are summed.
template <typename F>
void with_row_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF64:
      return f(double{}, double{});
    case DType::kF32:
      return f(float{}, float{});
    case DType::kBF16:
      return f(float{}, bf16{});
    default:
      FATHOM_CHECK(false, "combining rows of {}", dtype_name(dtype));
  }
}

// to[rows[i]] += from[i], both wide.
template <typename Sum, typename T>
void add_rows(const T* from, const std::vector<int32_t>& rows, int64_t width, Sum* to) {
  for (size_t i = 0; i < rows.size(); ++i) {
    Sum* sum = to + static_cast<int64_t>(rows[i]) * width;
    const T* row = from + static_cast<int64_t>(i) * width;
    for (int64_t d = 0; d < width; ++d) sum[d] += static_cast<Sum>(row[d]);
  }
}

template <typename Sum, typename T>
void round_rows(const Sum* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
}

}  // namespace

TwoHopExchange::TwoHopExchange(const Communicator& experts, int64_t num_experts)
    : OneHopExchange(experts, num_experts) {
  while (per_node_ < experts.size() && experts.node_of(per_node_) == experts.node_of(0))
    ++per_node_;
  num_nodes_ = experts.size() / per_node_;
  bool even = num_nodes_ * per_node_ == experts.size();
  for (int r = 0; even && r < experts.size(); ++r) {
    even = experts.node_of(r) == experts.node_of(node_of_rank(r) * per_node_) &&
           (r % per_node_ != 0 || r == 0 || experts.node_of(r) != experts.node_of(r - 1));
  }
  if (!even || per_node_ > 64) {
    throw_bad_input({.where = "expert parallelism",
                     .found = "ranks spread unevenly over the machines",
                     .expected = "equally many on each (at most 64), machine by machine",
                     .hint = "one-hop exchange takes any placement"});
  }
}

std::shared_ptr<ExchangeLayout> TwoHopExchange::make_layout() const {
  return std::make_shared<Layout>();
}

void TwoHopExchange::plan(Context& ctx, const RoutedRows& rows, Half half) const {
  Layout& layout = layout_of(rows);
  OneHopExchange::plan(ctx, rows, half);
  if (sends(half)) plan_sources(rows, layout);
  if (!receives(half)) return;
  plan_forwarder(layout);
  plan_receiver(rows, layout);
}

// Tells forwarders which ranks each row is for, and receivers which experts.
void TwoHopExchange::plan_sources(const RoutedRows& rows, Layout& layout) const {
  const int64_t T = rows.idx_TA.dim(0), A = rows.idx_TA.dim(1), here = num_experts_here();
  const int32_t* idx = rows.idx_TA.as<int32_t>();
  const auto ranks = static_cast<size_t>(comm_.size()), nodes = static_cast<size_t>(num_nodes_);
  std::vector<std::vector<uint64_t>> masks(nodes);
  std::vector<std::vector<int32_t>> choices(ranks);  // [tokens of the rank, A]: local, or -1
  layout.tokens_of_node.assign(nodes, {});
  std::vector<uint64_t> mask(nodes);
  for (int64_t t = 0; t < T; ++t) {
    std::fill(mask.begin(), mask.end(), 0);
    for (int64_t a = 0; a < A; ++a) {
      const auto rank = static_cast<int>(idx[t * A + a] / here);
      mask[static_cast<size_t>(node_of_rank(rank))] |= uint64_t{1} << (rank % per_node_);
    }
    for (int n = 0; n < num_nodes_; ++n) {
      const auto node = static_cast<size_t>(n);
      if (mask[node] == 0) continue;
      layout.tokens_of_node[node].push_back(static_cast<int32_t>(t));
      masks[node].push_back(mask[node]);
      for (int p = 0; p < per_node_; ++p) {
        if ((mask[node] >> p & 1) == 0) continue;
        const int rank = rank_at(n, p);
        for (int64_t a = 0; a < A; ++a) {
          const int64_t local = idx[t * A + a] - rank * here;
          choices[static_cast<size_t>(rank)].push_back(
              local >= 0 && local < here ? static_cast<int32_t>(local) : -1);
        }
      }
    }
  }
  for (int n = 0; n < num_nodes_; ++n) {
    const auto& list = masks[static_cast<size_t>(n)];
    const auto count = static_cast<int64_t>(list.size());
    comm_.send(rank_at(n, place()), kMasks, std::span<const int64_t>(&count, 1));
    comm_.send(rank_at(n, place()), kMasks, std::span<const uint64_t>(list));
  }
  for (int r = 0; r < comm_.size(); ++r) {
    const auto& list = choices[static_cast<size_t>(r)];
    const auto count = static_cast<int64_t>(list.size());
    comm_.send(r, kChoices, std::span<const int64_t>(&count, 1));
    comm_.send(r, kChoices, std::span<const int32_t>(list));
  }
}

// Rows arrive machine by machine.
void TwoHopExchange::plan_forwarder(Layout& layout) const {
  const auto nodes = static_cast<size_t>(num_nodes_);
  layout.from_node.assign(nodes, 0);
  layout.forwarded.assign(static_cast<size_t>(per_node_), {});
  int32_t row = 0;
  for (int n = 0; n < num_nodes_; ++n) {
    int64_t count = 0;
    comm_.receive(rank_at(n, place()), kMasks, std::span<int64_t>(&count, 1));
    std::vector<uint64_t> list(static_cast<size_t>(count));
    comm_.receive(rank_at(n, place()), kMasks, std::span<uint64_t>(list));
    layout.from_node[static_cast<size_t>(n)] = count;
    for (const uint64_t ranks_of_row : list) {
      for (int p = 0; p < per_node_; ++p) {
        if ((ranks_of_row >> p & 1) != 0) layout.forwarded[static_cast<size_t>(p)].push_back(row);
      }
      ++row;
    }
  }
}

// Unique rows arrive by forwarder, then machine of the source, then token; they are used by expert,
// then source rank, then token.
void TwoHopExchange::plan_receiver(const RoutedRows& rows, Layout& layout) const {
  const int64_t A = rows.idx_TA.dim(1);
  const auto ranks = static_cast<size_t>(comm_.size());
  std::vector<std::vector<int32_t>> choices(ranks);
  layout.from_forwarder.assign(static_cast<size_t>(per_node_), 0);
  for (int s = 0; s < comm_.size(); ++s) {
    int64_t count = 0;
    comm_.receive(s, kChoices, std::span<int64_t>(&count, 1));
    auto& list = choices[static_cast<size_t>(s)];
    list.resize(static_cast<size_t>(count));
    comm_.receive(s, kChoices, std::span<int32_t>(list));
    layout.from_forwarder[static_cast<size_t>(s % per_node_)] += count / A;
  }
  std::vector<int64_t> first_unique(ranks);  // of each source
  int64_t num_unique = 0;
  for (int p = 0; p < per_node_; ++p) {
    for (int n = 0; n < num_nodes_; ++n) {
      const auto source = static_cast<size_t>(rank_at(n, p));
      first_unique[source] = num_unique;
      num_unique += static_cast<int64_t>(choices[source].size()) / A;
    }
  }
  layout.unique_row.assign(static_cast<size_t>(rows.num_rows()), -1);
  layout.expert_begin.assign(static_cast<size_t>(num_unique + 1), 0);
  layout.expert_rows.clear();
  const int64_t* offsets = rows.offsets.as<int64_t>();
  std::vector<int64_t> next(offsets, offsets + num_experts_here());
  // The row by expert of each choice, in the order of use: sources, tokens.
  std::vector<std::vector<int32_t>> row_of(ranks);
  for (size_t s = 0; s < ranks; ++s) {
    row_of[s].assign(choices[s].size(), -1);
    for (size_t i = 0; i < choices[s].size(); ++i) {
      const int32_t expert = choices[s][i];
      if (expert < 0) continue;
      const int64_t row = next[static_cast<size_t>(expert)]++;
      row_of[s][i] = static_cast<int32_t>(row);
      layout.unique_row[static_cast<size_t>(row)] =
          static_cast<int32_t>(first_unique[s] + static_cast<int64_t>(i) / A);
    }
  }
  for (int p = 0; p < per_node_; ++p) {
    for (int n = 0; n < num_nodes_; ++n) {
      const auto source = static_cast<size_t>(rank_at(n, p));
      for (size_t i = 0; i < row_of[source].size(); ++i) {
        if (row_of[source][i] >= 0) layout.expert_rows.push_back(row_of[source][i]);
        if ((static_cast<int64_t>(i) + 1) % A == 0) {
          const int64_t unique = first_unique[source] + static_cast<int64_t>(i) / A;
          layout.expert_begin[static_cast<size_t>(unique + 1)] =
              static_cast<int64_t>(layout.expert_rows.size());
        }
      }
    }
  }
}

std::vector<int> TwoHopExchange::ranks_here() const {
  std::vector<int> ranks;
  for (int p = 0; p < per_node_; ++p) ranks.push_back(rank_at(node_of_rank(comm_.rank()), p));
  return ranks;
}

std::vector<int> TwoHopExchange::ranks_of_place() const {
  std::vector<int> ranks;
  for (int n = 0; n < num_nodes_; ++n) ranks.push_back(rank_at(n, place()));
  return ranks;
}

void TwoHopExchange::ask_for(Transfer& transfer, std::span<const int> from,
                             std::span<const int64_t> counts, uint32_t tag) const {
  const auto row_bytes = static_cast<size_t>(transfer.width * dtype_bytes(transfer.dtype));
  size_t begin = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const size_t size = static_cast<size_t>(counts[i]) * row_bytes;
    transfer.receives.push_back(
        comm_.start_receive(from[i], tag, std::span(transfer.bytes).subspan(begin, size)));
    begin += size;
  }
}

void TwoHopExchange::ask_for_first_hop(Transfer& transfer, std::span<const int> from,
                                       std::span<const int64_t> counts, uint32_t tag) const {
  const auto row_bytes = static_cast<size_t>(transfer.width * dtype_bytes(transfer.dtype));
  const size_t total = static_cast<size_t>(sum_of(counts)) * row_bytes;
  if (transfer.passing.size() < total) transfer.passing.resize(total);
  size_t begin = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const size_t size = static_cast<size_t>(counts[i]) * row_bytes;
    transfer.first_hop.push_back(
        comm_.start_receive(from[i], tag, std::span(transfer.passing).subspan(begin, size)));
    begin += size;
  }
  transfer.passed_on = false;
}

// To experts: each row to the ranks of this machine that need it. To tokens: the sums over this
// machine's ranks, ascending, to the machines that the rows came from.
void TwoHopExchange::pass_on(Transfer& transfer) const {
  const auto& layout = static_cast<const Layout&>(*transfer.layout);
  const int64_t width = transfer.width;
  if (transfer.way == Way::kToExperts) {
    const TensorView passing(transfer.passing.data(), transfer.dtype,
                             Shape{sum_of(layout.from_node), width}, "exchange.passing");
    std::vector<std::byte> packed;
    const std::vector<int> here = ranks_here();
    for (size_t p = 0; p < here.size(); ++p) {
      pack(passing, layout.forwarded[p], packed);
      comm_.send(here[p], kInside, std::span<const std::byte>(packed));
    }
    return;
  }
  with_row_type(transfer.dtype, [&]<typename Sum, typename Row>(Sum, Row) {
    std::vector<Sum> sums(static_cast<size_t>(sum_of(layout.from_node) * width), Sum(0));
    const auto* rows = reinterpret_cast<const Row*>(transfer.passing.data());
    for (const auto& list : layout.forwarded) {
      add_rows(rows, list, width, sums.data());
      rows += static_cast<int64_t>(list.size()) * width;
    }
    std::vector<Row> rounded(sums.size());
    round_rows(sums.data(), static_cast<int64_t>(sums.size()), rounded.data());
    size_t begin = 0;
    const std::vector<int> places = ranks_of_place();
    for (size_t n = 0; n < places.size(); ++n) {
      const auto count = static_cast<size_t>(layout.from_node[n] * width);
      comm_.send(places[n], kBackAcross, std::span<const Row>(rounded).subspan(begin, count));
      begin += count;
    }
  });
}

void TwoHopExchange::dispatch(Context&, const TensorView& x_TD, const RoutedRows& rows,
                              const TensorView& x_UD, Half half) const {
  const Layout& layout = layout_of(rows);
  if (sends(half)) {
    Transfer transfer =
        take_spare(layout, Way::kToExperts, sum_of(layout.from_forwarder) * matrix_row_bytes(x_TD));
    transfer.dtype = x_TD.dtype;
    transfer.width = x_TD.dim(1);
    const std::vector<int> places = ranks_of_place();
    ask_for_first_hop(transfer, places, layout.from_node, kAcross);
    ask_for(transfer, ranks_here(), layout.from_forwarder, kInside);
    started(std::move(transfer));
    std::vector<std::byte> packed;
    for (size_t n = 0; n < places.size(); ++n) {
      pack(x_TD, layout.tokens_of_node[n], packed);
      comm_.send(places[n], kAcross, std::span<const std::byte>(packed));
    }
  }
  if (!receives(half)) return;
  Transfer transfer = finish(layout, Way::kToExperts);
  const TensorView unique(transfer.bytes.data(), x_UD.dtype,
                          Shape{sum_of(layout.from_forwarder), x_UD.dim(1)}, "exchange.unique");
  FATHOM_CHECK_EQ(transfer.num_bytes, static_cast<size_t>(unique.num_bytes()), "{}", x_UD.name);
  FATHOM_CHECK_EQ(x_UD.dim(0), rows.num_rows(), "{}", x_UD.name);
  const auto bytes = static_cast<size_t>(matrix_row_bytes(unique));
  for (int64_t u = 0; u < x_UD.dim(0); ++u)
    std::memcpy(row_at(x_UD, u), row_at(unique, layout.unique_row[static_cast<size_t>(u)]), bytes);
  give_back(std::move(transfer));
}

void TwoHopExchange::combine(Context&, const TensorView& x_UD, const RoutedRows& rows,
                             const TensorView& y_TD, bool accumulate, Half half) const {
  const Layout& layout = layout_of(rows);
  const int64_t width = x_UD.dim(1), T = y_TD.dim(0);
  if (sends(half)) {
    Transfer transfer = take_spare(
        layout, Way::kToTokens, sum_of(sizes_of(layout.tokens_of_node)) * matrix_row_bytes(x_UD));
    transfer.dtype = x_UD.dtype;
    transfer.width = width;
    ask_for_first_hop(transfer, ranks_here(), sizes_of(layout.forwarded), kBackInside);
    ask_for(transfer, ranks_of_place(), sizes_of(layout.tokens_of_node), kBackAcross);
    started(std::move(transfer));
    send_expert_sums(x_UD, layout);
  }
  if (!receives(half)) return;
  Transfer transfer = finish(layout, Way::kToTokens);
  with_row_type(x_UD.dtype, [&]<typename Sum, typename Row>(Sum, Row) {
    // The tokens' sums over machines.
    std::vector<Sum> sums(static_cast<size_t>(T * width), Sum(0));
    const auto* arrived = reinterpret_cast<const Row*>(transfer.bytes.data());
    for (const auto& list : layout.tokens_of_node) {
      add_rows(arrived, list, width, sums.data());
      arrived += static_cast<int64_t>(list.size()) * width;
    }
    with_row_type(y_TD.dtype, [&]<typename Wide, typename Y>(Wide, Y) {
      for (int64_t t = 0; t < T; ++t) {
        auto* y = reinterpret_cast<Y*>(row_at(y_TD, t));
        const Sum* sum = sums.data() + t * width;
        for (int64_t d = 0; d < width; ++d)
          y[d] = static_cast<Y>((accumulate ? static_cast<Wide>(y[d]) : Wide(0)) +
                                static_cast<Wide>(sum[d]));
      }
    });
  });
  give_back(std::move(transfer));
}

// The experts' sums of each row that came here, back to who forwarded it.
void TwoHopExchange::send_expert_sums(const TensorView& x_UD, const Layout& layout) const {
  const int64_t width = x_UD.dim(1);
  with_row_type(x_UD.dtype, [&]<typename Sum, typename Row>(Sum, Row) {
    const int64_t num_unique = static_cast<int64_t>(layout.expert_begin.size()) - 1;
    std::vector<Sum> sums(static_cast<size_t>(num_unique * width), Sum(0));
    for (int64_t u = 0; u < num_unique; ++u) {
      for (int64_t i = layout.expert_begin[static_cast<size_t>(u)];
           i < layout.expert_begin[static_cast<size_t>(u + 1)]; ++i) {
        const auto* row =
            reinterpret_cast<const Row*>(row_at(x_UD, layout.expert_rows[static_cast<size_t>(i)]));
        for (int64_t d = 0; d < width; ++d)
          sums[static_cast<size_t>(u * width + d)] += static_cast<Sum>(row[d]);
      }
    }
    std::vector<Row> rounded(sums.size());
    round_rows(sums.data(), static_cast<int64_t>(sums.size()), rounded.data());
    size_t begin = 0;
    const std::vector<int> here = ranks_here();
    for (size_t p = 0; p < here.size(); ++p) {
      const auto count = static_cast<size_t>(layout.from_forwarder[p] * width);
      comm_.send(here[p], kBackInside, std::span<const Row>(rounded).subspan(begin, count));
      begin += count;
    }
  });
}

}  // namespace fathom
