#include "parallel/one_hop_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace fathom {
namespace {

std::span<std::byte> bytes_of(const TensorView& view) {
  FATHOM_CHECK(view.contiguous(), "{}", to_string(view));
  return {static_cast<std::byte*>(view.data), static_cast<size_t>(view.num_bytes())};
}

int64_t row_bytes_of(const TensorView& view) {
  return view.shape.num_dims == 1 ? dtype_bytes(view.dtype) : view.dim(1) * dtype_bytes(view.dtype);
}

constexpr uint32_t kToExperts = 5, kToTokens = 6, kCounts = 9;

uint32_t tag_of(Way way) { return way == Way::kToExperts ? kToExperts : kToTokens; }

// v_TA and its values in dispatch order.
void move_values(const TensorView& v_TA, const RoutedRows& rows, const TensorView& by_row,
                 bool to_dispatch_order) {
  const int32_t* position = rows.position_TA.as<int32_t>();
  const auto bytes = static_cast<size_t>(dtype_bytes(v_TA.dtype));
  auto* a = static_cast<std::byte*>(v_TA.data);
  auto* b = static_cast<std::byte*>(by_row.data);
  for (int64_t i = 0; i < v_TA.num_elements(); ++i) {
    std::byte* in_order = b + static_cast<size_t>(position[i]) * bytes;
    std::byte* by_token = a + static_cast<size_t>(i) * bytes;
    std::memcpy(to_dispatch_order ? in_order : by_token, to_dispatch_order ? by_token : in_order,
                bytes);
  }
}

}  // namespace

OneHopExchange::OneHopExchange(const Communicator& experts, int64_t num_experts)
    : comm_(experts), num_experts_(num_experts) {
  FATHOM_CHECK_EQ(num_experts % experts.size(), 0, "experts over {} ranks", experts.size());
}

int64_t OneHopExchange::Layout::num_received() const {
  return std::accumulate(receive_counts.begin(), receive_counts.end(), int64_t{0});
}

OneHopExchange::Layout& OneHopExchange::layout_of(const RoutedRows& rows) {
  FATHOM_CHECK(rows.layout != nullptr, "rows without a layout");
  return static_cast<Layout&>(*rows.layout);
}

std::shared_ptr<ExchangeLayout> OneHopExchange::make_layout() const {
  return std::make_shared<Layout>();
}

int64_t OneHopExchange::max_rows(int64_t num_tokens, int64_t experts_per_token,
                                 int64_t num_experts) const {
  return comm_.size() * num_tokens * std::min(experts_per_token, num_experts);
}

OneHopExchange::Transfer OneHopExchange::take_spare(const Layout& layout, Way way,
                                                    int64_t num_bytes) const {
  Transfer transfer;
  if (!spare_.empty()) {
    transfer = std::move(spare_.back());
    spare_.pop_back();
  }
  transfer.layout = &layout;
  transfer.way = way;
  transfer.receives.clear();
  transfer.first_hop.clear();
  transfer.passed_on = true;
  transfer.num_bytes = static_cast<size_t>(num_bytes);
  if (transfer.bytes.size() < transfer.num_bytes) transfer.bytes.resize(transfer.num_bytes);
  return transfer;
}

void OneHopExchange::give_back(Transfer transfer) const { spare_.push_back(std::move(transfer)); }

void OneHopExchange::started(Transfer transfer) const {
  const bool must_be_watched = !transfer.passed_on || !comm_.transport().moves_by_itself();
  {
    const std::lock_guard lock(mutex_);
    under_way_.push_back(std::move(transfer));
  }
  if (must_be_watched) progress_.wake();
}

void OneHopExchange::begin(const Layout& layout, Way way, std::span<const std::byte> rows,
                           const std::vector<int64_t>& to, const std::vector<int64_t>& from,
                           int64_t row_bytes) const {
  Transfer transfer = take_spare(
      layout, way, std::accumulate(from.begin(), from.end(), int64_t{0}) * row_bytes);
  size_t out = 0, in = 0;
  for (int r = 0; r < comm_.size(); ++r) {
    const auto leaving = static_cast<size_t>(to[static_cast<size_t>(r)] * row_bytes);
    const auto coming = static_cast<size_t>(from[static_cast<size_t>(r)] * row_bytes);
    const auto room = std::span(transfer.bytes).subspan(in, coming);
    if (r == comm_.rank()) {
      if (coming > 0) std::memcpy(room.data(), rows.data() + out, coming);
    } else {
      if (coming > 0) transfer.receives.push_back(comm_.start_receive(r, tag_of(way), room));
      if (leaving > 0) comm_.send(r, tag_of(way), rows.subspan(out, leaving));
    }
    out += leaving;
    in += coming;
  }
  started(std::move(transfer));
}

auto OneHopExchange::find(const Layout& layout, Way way) const -> std::deque<Transfer>::iterator {
  return std::find_if(under_way_.begin(), under_way_.end(), [&](const Transfer& t) {
    return t.layout == &layout && t.way == way;
  });
}

bool OneHopExchange::all_have_come(const std::vector<Receive>& receives) const {
  return std::all_of(receives.begin(), receives.end(),
                     [&](const Receive& receive) { return comm_.has_come(receive); });
}

void OneHopExchange::complete_first_hop(Transfer& transfer) const {
  for (const Receive& receive : transfer.first_hop) comm_.wait(receive);
  transfer.first_hop.clear();
  pass_on(transfer);
  transfer.passed_on = true;
}

bool OneHopExchange::pass_on_what_came() const {
  for (Transfer& transfer : under_way_) {
    if (transfer.passed_on) continue;
    if (!all_have_come(transfer.first_hop)) return false;
    complete_first_hop(transfer);
  }
  return true;
}

// On the progress thread. The transport moves bytes whenever it is asked.
bool OneHopExchange::poll() const {
  const std::lock_guard lock(mutex_);
  if (!pass_on_what_came()) return true;
  if (comm_.transport().moves_by_itself()) return false;
  return !std::all_of(under_way_.begin(), under_way_.end(),
                      [&](const Transfer& t) { return all_have_come(t.receives); });
}

OneHopExchange::Transfer OneHopExchange::finish(const Layout& layout, Way way) const {
  Transfer transfer;
  {
    const std::lock_guard lock(mutex_);
    const auto found = find(layout, way);
    FATHOM_CHECK(found != under_way_.end(), "rows were received that nobody sent for");
    for (auto t = under_way_.begin(); t != found + 1; ++t) {
      if (!t->passed_on) complete_first_hop(*t);
    }
    transfer = std::move(*found);
    under_way_.erase(found);
  }
  for (const Receive& receive : transfer.receives) comm_.wait(receive);
  return transfer;
}

// What came back, in dispatch order: ranks' experts lie one behind the other.
TensorView OneHopExchange::rows_of(Transfer& transfer, DType dtype, const Shape& shape) {
  const TensorView rows(transfer.bytes.data(), dtype, shape, "exchange.own");
  FATHOM_CHECK_EQ(transfer.num_bytes, static_cast<size_t>(rows.num_bytes()), "rows that came back");
  return rows;
}

bool OneHopExchange::has_come(const RoutedRows& rows, Way way) const {
  const std::lock_guard lock(mutex_);
  pass_on_what_came();
  const auto found = find(layout_of(rows), way);
  return found == under_way_.end() || (found->passed_on && all_have_come(found->receives));
}

bool OneHopExchange::plan_has_come(const RoutedRows& rows) const {
  const Layout& layout = layout_of(rows);
  return std::all_of(layout.planning.begin(), layout.planning.end(),
                     [&](const Receive& receive) { return comm_.has_come(receive); });
}

// Every rank tells every other how many rows each of its experts gets.
void OneHopExchange::plan(Context& ctx, const RoutedRows& rows, Half half) const {
  Layout& layout = layout_of(rows);
  const auto ranks = static_cast<size_t>(comm_.size());
  const auto here = static_cast<size_t>(num_experts_here());
  if (sends(half)) {
    layout.own_offsets.resize(static_cast<size_t>(num_experts_ + 1));
    plan_dispatch(ctx, {.idx_TA = rows.idx_TA,
                        .num_experts = num_experts_,
                        .offsets = layout.own_offsets.data(),
                        .token_U = rows.token_U,
                        .position_TA = rows.position_TA});
    std::vector<int64_t> leaving(static_cast<size_t>(num_experts_));
    layout.arriving.resize(leaving.size());
    layout.send_counts.assign(ranks, 0);
    layout.planning.clear();
    for (size_t e = 0; e < leaving.size(); ++e) {
      leaving[e] = layout.own_offsets[e + 1] - layout.own_offsets[e];
      layout.send_counts[e / here] += leaving[e];
    }
    for (size_t r = 0; r < ranks; ++r) {
      const auto to = std::span<const int64_t>(leaving).subspan(r * here, here);
      const auto from = std::span<int64_t>(layout.arriving).subspan(r * here, here);
      if (static_cast<int>(r) == comm_.rank()) {
        std::copy(to.begin(), to.end(), from.begin());
      } else {
        layout.planning.push_back(comm_.start_receive(static_cast<int>(r), kCounts, from));
        comm_.send(static_cast<int>(r), kCounts, to);
      }
    }
  }
  if (!receives(half)) return;
  for (const Receive& receive : layout.planning) comm_.wait(receive);
  layout.planning.clear();
  layout.receive_counts.assign(ranks, 0);
  int64_t* offsets = rows.offsets.as<int64_t>();
  std::fill(offsets, offsets + here + 1, 0);
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t e = 0; e < here; ++e) {
      layout.receive_counts[r] += layout.arriving[r * here + e];
      offsets[e + 1] += layout.arriving[r * here + e];
    }
  }
  for (size_t e = 0; e < here; ++e) offsets[e + 1] += offsets[e];
}

// Blocks of rows: by source rank and expert as they travel, by expert and source as they are used.
void OneHopExchange::by_source_and_back(const Layout& layout, std::byte* by_source,
                                        std::byte* by_expert, int64_t row_bytes,
                                        bool to_expert) const {
  const auto ranks = static_cast<size_t>(comm_.size());
  const auto here = static_cast<size_t>(num_experts_here());
  std::vector<int64_t> source_begin(ranks, 0);
  for (size_t r = 1; r < ranks; ++r)
    source_begin[r] = source_begin[r - 1] + layout.receive_counts[r - 1];
  int64_t row = 0;
  for (size_t e = 0; e < here; ++e) {
    for (size_t r = 0; r < ranks; ++r) {
      const int64_t count = layout.arriving[r * here + e];
      std::byte* travelling = by_source + source_begin[r] * row_bytes;
      std::byte* used = by_expert + row * row_bytes;
      if (count > 0)
        std::memcpy(to_expert ? used : travelling, to_expert ? travelling : used,
                    static_cast<size_t>(count * row_bytes));
      source_begin[r] += count;
      row += count;
    }
  }
}

void OneHopExchange::send_to_experts(const TensorView& own, const Layout& layout) const {
  begin(layout, Way::kToExperts, bytes_of(own), layout.send_counts, layout.receive_counts,
        row_bytes_of(own));
}

void OneHopExchange::receive_at_experts(const Layout& layout, const TensorView& arrived) const {
  FATHOM_CHECK_EQ(arrived.dim(0), layout.num_received(), "{}", arrived.name);
  Transfer transfer = finish(layout, Way::kToExperts);
  FATHOM_CHECK_EQ(transfer.num_bytes, bytes_of(arrived).size(), "{}", arrived.name);
  by_source_and_back(layout, transfer.bytes.data(), bytes_of(arrived).data(), row_bytes_of(arrived),
                     /*to_expert=*/true);
  give_back(std::move(transfer));
}

void OneHopExchange::send_back(Context& ctx, const TensorView& arrived,
                               const Layout& layout) const {
  Scratch::Mark mark(ctx.scratch());
  const int64_t row_bytes = row_bytes_of(arrived);
  const TensorView by_source = ctx.scratch().allocate(
      DType::kU8, Shape{layout.num_received() * row_bytes}, "exchange.by_source");
  by_source_and_back(layout, static_cast<std::byte*>(by_source.data), bytes_of(arrived).data(),
                     row_bytes, /*to_expert=*/false);
  begin(layout, Way::kToTokens, bytes_of(by_source), layout.receive_counts, layout.send_counts,
        row_bytes);
}

void OneHopExchange::dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                              const TensorView& x_UD, Half half) const {
  const Layout& layout = layout_of(rows);
  if (sends(half)) {
    Scratch::Mark mark(ctx.scratch());
    const TensorView own = ctx.scratch().allocate(x_TD.dtype, Shape{layout.num_sent(), x_TD.dim(1)},
                                                  "exchange.own_UD");
    gather_rows(ctx, x_TD, rows.token_U, own);
    send_to_experts(own, layout);
  }
  if (receives(half)) receive_at_experts(layout, x_UD);
}

void OneHopExchange::combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows,
                             const TensorView& y_TD, bool accumulate, Half half) const {
  const Layout& layout = layout_of(rows);
  if (sends(half)) send_back(ctx, x_UD, layout);
  if (!receives(half)) return;
  Transfer transfer = finish(layout, Way::kToTokens);
  const TensorView own = rows_of(transfer, x_UD.dtype, Shape{layout.num_sent(), x_UD.dim(1)});
  combine_rows(ctx, own, rows.position_TA, y_TD, accumulate);
  give_back(std::move(transfer));
}

void OneHopExchange::dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                                     const TensorView& v_U, Half half) const {
  const Layout& layout = layout_of(rows);
  if (sends(half)) {
    Scratch::Mark mark(ctx.scratch());
    const TensorView own =
        ctx.scratch().allocate(v_TA.dtype, Shape{layout.num_sent()}, "exchange.own_U");
    move_values(v_TA, rows, own, /*to_dispatch_order=*/true);
    send_to_experts(own, layout);
  }
  if (receives(half)) receive_at_experts(layout, v_U);
}

void OneHopExchange::combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                                    const TensorView& v_TA, Half half) const {
  const Layout& layout = layout_of(rows);
  if (sends(half)) send_back(ctx, v_U, layout);
  if (!receives(half)) return;
  Transfer transfer = finish(layout, Way::kToTokens);
  move_values(v_TA, rows, rows_of(transfer, v_TA.dtype, Shape{layout.num_sent()}),
              /*to_dispatch_order=*/false);
  give_back(std::move(transfer));
}

}  // namespace fathom
