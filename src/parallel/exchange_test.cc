// Token exchange over ranks against the exchange of one process that has the tokens of all ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <functional>
#include <set>
#include <thread>

#include "comm/in_process.h"
#include "core/random.h"
#include "kernels/test_tensor.h"
#include "parallel/two_hop_exchange.h"

namespace fathom {
namespace {

struct Case {
  int ranks = 4, per_node = 2;
  int64_t experts = 16, per_token = 4, width = 24;
  std::vector<int64_t> tokens;  // of each rank
  bool one_rank_only = false;   // all tokens go to rank 1's experts
};

// Distinct experts for token t of all tokens.
std::vector<int32_t> experts_of(const Case& c, int64_t t) {
  const Random random(5, RandomPurpose::kTest, static_cast<uint64_t>(t));
  std::vector<int32_t> all;
  const int64_t here = c.experts / c.ranks;
  for (int32_t e = 0; e < c.experts; ++e) {
    if (!c.one_rank_only || e / here == 1) all.push_back(e);
  }
  std::sort(all.begin(), all.end(), [&](int32_t a, int32_t b) {
    return random.normal(static_cast<uint64_t>(a)) < random.normal(static_cast<uint64_t>(b));
  });
  all.resize(static_cast<size_t>(c.per_token));
  return all;
}

// The tensors of one exchange: of all tokens in one process, or of one rank's.
struct Side {
  Side(const Case& c, int64_t first, int64_t count, int64_t experts_here,
       const TokenExchange& exchange, DType dtype, DType wide)
      : idx(DType::kI32, Shape{count, c.per_token}),
        position(DType::kI32, Shape{count, c.per_token}),
        token(DType::kI32, Shape{count * c.per_token}),
        offsets(DType::kI64, Shape{experts_here + 1}),
        x(dtype, Shape{count, c.width}),
        v(DType::kF32, Shape{count, c.per_token}),
        y(wide, Shape{count, c.width}),
        back(DType::kF32, Shape{count, c.per_token}) {
    const Random random(7, RandomPurpose::kTest, 1);
    for (int64_t t = 0; t < count; ++t) {
      const std::vector<int32_t> experts = experts_of(c, first + t);
      for (int64_t a = 0; a < c.per_token; ++a) {
        idx.view().as<int32_t>()[t * c.per_token + a] = experts[static_cast<size_t>(a)];
        v.set(t * c.per_token + a,
              random.normal(static_cast<uint64_t>(1000000 + (first + t) * c.per_token + a)));
      }
      for (int64_t d = 0; d < c.width; ++d) {
        x.set(t * c.width + d, random.normal(static_cast<uint64_t>((first + t) * c.width + d)));
        y.set(t * c.width + d, 0.5 + static_cast<double>(d));
      }
    }
    rows = {idx, position, token, offsets, exchange.make_layout()};
  }
  TestTensor idx, position, token, offsets, x, v, y, back;
  RoutedRows rows;
};

// What "experts" compute here: row * (1 + expert), elementwise, rounded to the row's format.
void scale_by_expert(const TensorView& rows_UD, const int64_t* offsets, int64_t experts_here,
                     int64_t first_expert) {
  for (int64_t e = 0; e < experts_here; ++e) {
    for (int64_t u = offsets[e]; u < offsets[e + 1]; ++u) {
      for (int64_t d = 0; d < rows_UD.dim(1); ++d) {
        const auto factor = static_cast<float>(1 + first_expert + e) * 0.37f;
        const int64_t i = u * rows_UD.dim(1) + d;
        if (rows_UD.dtype == DType::kBF16) {
          bf16& value = rows_UD.as<bf16>()[i];
          value = bf16(static_cast<float>(value) * factor);
        } else {
          rows_UD.as<float>()[i] *= factor;
        }
      }
    }
  }
}

using MakeExchange = std::function<std::unique_ptr<TokenExchange>(const Communicator&)>;

struct Difference {
  double combined = 0;  // largest, of what combine gives
  bool rows_equal = true, values_equal = true;
  Traffic dispatch;  // of all ranks
};

Difference compare(const Case& c, DType dtype, const MakeExchange& make) {
  int64_t total = 0;
  for (const int64_t count : c.tokens) total += count;
  Context ctx(1);
  const DType wide = DType::kF32;
  Side all(c, 0, total, c.experts, local_token_exchange(), dtype, wide);
  const TokenExchange& local = local_token_exchange();
  local.plan(ctx, all.rows);
  TestTensor rows(dtype, Shape{total * c.per_token, c.width});
  TestTensor values(DType::kF32, Shape{total * c.per_token});
  local.dispatch(ctx, all.x, all.rows, rows);
  local.dispatch_values(ctx, all.v, all.rows, values);
  TestTensor results = rows;
  scale_by_expert(results, all.offsets.view().as<int64_t>(), c.experts, 0);
  local.combine(ctx, results, all.rows, all.y, /*accumulate=*/true);
  local.combine_values(ctx, values, all.rows, all.back);

  Difference difference;
  std::mutex mutex;
  run_ranks(c.ranks, {.ranks_per_node = c.per_node}, [&](Communicator& comm) {
    Context rank_ctx(1);
    const auto exchange = make(comm);
    int64_t first = 0;
    for (int r = 0; r < comm.rank(); ++r) first += c.tokens[static_cast<size_t>(r)];
    const int64_t here = c.experts / c.ranks, first_expert = comm.rank() * here;
    Side mine(c, first, c.tokens[static_cast<size_t>(comm.rank())], here, *exchange, dtype, wide);
    for (int round = 0; round < 2; ++round) {  // a layout serves again
      exchange->plan(rank_ctx, mine.rows);
    }
    const int64_t num_rows = mine.rows.num_rows();
    TestTensor my_rows(dtype, Shape{num_rows, c.width}), my_values(DType::kF32, Shape{num_rows});
    comm.barrier();
    const Traffic before = comm.transport().traffic();
    exchange->dispatch(rank_ctx, mine.x, mine.rows, my_rows);
    const Traffic sent = comm.transport().traffic() - before;
    exchange->dispatch_values(rank_ctx, mine.v, mine.rows, my_values);
    const int64_t begin = all.offsets.view().as<int64_t>()[first_expert];
    TestTensor my_results = my_rows;
    scale_by_expert(my_results, mine.offsets.view().as<int64_t>(), here, first_expert);
    exchange->combine(rank_ctx, my_results, mine.rows, mine.y, /*accumulate=*/true);
    exchange->combine_values(rank_ctx, my_values, mine.rows, mine.back);

    const std::lock_guard lock(mutex);
    for (int i = 0; i < kNumLinkClasses; ++i) difference.dispatch.bytes[i] += sent.bytes[i];
    FATHOM_CHECK_EQ(num_rows, all.offsets.view().as<int64_t>()[first_expert + here] - begin);
    for (int64_t i = 0; i < my_rows.size(); ++i)
      difference.rows_equal &= my_rows[i] == rows[begin * c.width + i];
    for (int64_t i = 0; i < my_values.size(); ++i)
      difference.values_equal &= my_values[i] == values[begin + i];
    for (int64_t i = 0; i < mine.y.size(); ++i)
      difference.combined =
          std::max(difference.combined, std::abs(mine.y[i] - all.y[first * c.width + i]));
    for (int64_t i = 0; i < mine.back.size(); ++i)
      difference.values_equal &=
          mine.back[i] == all.back[first * c.per_token + i] && mine.back[i] == mine.v[i];
  });
  return difference;
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.ranks = 1, .per_node = 1, .tokens = {5}},
      {.ranks = 2, .per_node = 1, .tokens = {7, 3}},
      {.ranks = 2, .per_node = 2, .tokens = {1, 0}},
      {.ranks = 4, .per_node = 2, .tokens = {9, 0, 4, 30}},
      {.ranks = 4, .per_node = 1, .experts = 4, .per_token = 3, .tokens = {2, 2, 2, 2}},
      {.ranks = 8,
       .per_node = 4,
       .experts = 32,
       .per_token = 6,
       .tokens = {8, 8, 8, 8, 8, 8, 8, 8}},
      {.ranks = 4, .per_node = 2, .tokens = {3, 5, 2, 4}, .one_rank_only = true}};
  return all;
}

TEST(OneHopExchange, IsTheExchangeOfOneProcessBitForBit) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Difference d = compare(c, dtype, [&](const Communicator& comm) {
        return std::make_unique<OneHopExchange>(comm, c.experts);
      });
      EXPECT_TRUE(d.rows_equal && d.values_equal) << c.ranks << " ranks";
      EXPECT_EQ(d.combined, 0) << c.ranks << " ranks";
    }
  }
}

TEST(TwoHopExchange, DispatchesTheSameRowsAndSumsInAnotherOrder) {
  for (const Case& c : cases()) {
    const auto make = [&](const Communicator& comm) {
      return std::make_unique<TwoHopExchange>(comm, c.experts);
    };
    const Difference d = compare(c, DType::kF32, make);
    EXPECT_TRUE(d.rows_equal && d.values_equal) << c.ranks << " ranks";
    // Sums of at most 7 terms (slots and the old y, which is up to width) in two orders: each of
    // the additions rounds once, relative to partial sums below 64.
    EXPECT_LE(d.combined, 2 * 7 * 64 * 0x1p-24) << c.ranks << " ranks";
    // bf16: what travels is rounded twice, each time by 2^-9 of partial sums below 64.
    const Difference b = compare(c, DType::kBF16, make);
    EXPECT_TRUE(b.rows_equal && b.values_equal);
    EXPECT_LE(b.combined, 7 * 64 * 0x1p-9 * 2);
    if (c.ranks == 8) {
      EXPECT_GT(b.combined, 0);  // or nothing was rounded on the way
    }
  }
}

// The documented order of sums, computed on one process.
TEST(TwoHopExchange, SumsRanksThenMachines) {
  const Case c{
      .ranks = 4, .per_node = 2, .experts = 8, .per_token = 8, .width = 3, .tokens = {2, 1, 3, 2}};
  run_ranks(c.ranks, {.ranks_per_node = c.per_node}, [&](Communicator& comm) {
    Context ctx(1);
    const TwoHopExchange two_hops(comm, c.experts);
    int64_t first = 0;
    for (int r = 0; r < comm.rank(); ++r) first += c.tokens[static_cast<size_t>(r)];
    const TokenExchange& exchange = two_hops;
    Side mine(c, first, c.tokens[static_cast<size_t>(comm.rank())], 2, exchange, DType::kF32,
              DType::kF32);
    exchange.plan(ctx, mine.rows);
    TestTensor rows(DType::kF32, Shape{mine.rows.num_rows(), c.width});
    exchange.dispatch(ctx, mine.x, mine.rows, rows);
    scale_by_expert(rows, mine.offsets.view().as<int64_t>(), 2, 2 * comm.rank());
    exchange.combine(ctx, rows, mine.rows, mine.y, /*accumulate=*/false);
    for (int64_t t = 0; t < mine.y.view().dim(0); ++t) {
      for (int64_t d = 0; d < c.width; ++d) {
        const auto x = static_cast<float>(mine.x[t * c.width + d]);
        float machine[2] = {};
        for (int rank = 0; rank < 4; ++rank) {
          float sum = 0;  // this rank's two experts, in the order of the token's slots
          for (int64_t a = 0; a < 8; ++a) {
            const int32_t e = mine.idx.view().as<int32_t>()[t * 8 + a];
            if (e / 2 == rank) sum += x * (static_cast<float>(1 + e) * 0.37f);
          }
          machine[rank / 2] += sum;
        }
        EXPECT_EQ(mine.y[t * c.width + d], static_cast<double>(machine[0] + machine[1]));
      }
    }
  });
}

// The machines other than its own that each token goes to, and the ranks in each.
TEST(TwoHopExchange, CrossesTheNetworkOncePerMachine) {
  for (const Case& c : cases()) {
    int64_t remote_machines = 0, remote_ranks = 0, pairs = 0, t = 0;
    for (int rank = 0; rank < c.ranks; ++rank) {
      for (int64_t i = 0; i < c.tokens[static_cast<size_t>(rank)]; ++i, ++t) {
        std::set<int> machines, ranks;
        for (const int32_t e : experts_of(c, t)) {
          const int target = static_cast<int>(e / (c.experts / c.ranks));
          machines.insert(target / c.per_node);
          ranks.insert(target);
          pairs += target / c.per_node != rank / c.per_node ? 1 : 0;
        }
        remote_machines += static_cast<int64_t>(machines.size()) -
                           static_cast<int64_t>(machines.count(rank / c.per_node));
        // Inside a machine: from the rank of the source's place to the others.
        for (const int target : ranks) remote_ranks += target % c.per_node != rank % c.per_node;
      }
    }
    const int64_t row_bytes = c.width * 4;
    const Traffic two = compare(c, DType::kF32, [&](const Communicator& comm) {
                          return std::make_unique<TwoHopExchange>(comm, c.experts);
                        }).dispatch;
    EXPECT_EQ(two.network_bytes(), remote_machines * row_bytes);
    EXPECT_EQ(two.node_bytes(), remote_ranks * row_bytes);
    const Traffic one = compare(c, DType::kF32, [&](const Communicator& comm) {
                          return std::make_unique<OneHopExchange>(comm, c.experts);
                        }).dispatch;
    EXPECT_EQ(one.network_bytes(), pairs * row_bytes);
  }
}

// SYSTEMS row 75: 8 machines, 256 experts in as many groups as machines, at most 4 groups a token.
TEST(TwoHopExchange, NodeLimitedRoutingSavesTraffic) {
  constexpr int64_t kTokens = 256, kExperts = 256, kWidth = 8;
  const auto network_rows_per_token = [&](int64_t top_k, int64_t groups) {
    double rows = 0;
    std::mutex mutex;
    run_ranks(8, {.ranks_per_node = 1}, [&](Communicator& comm) {
      Context ctx(1);
      const TwoHopExchange two_hops(comm, kExperts);
      const TokenExchange& exchange = two_hops;
      TestTensor logits(DType::kF32, Shape{kTokens, kExperts}),
          x(DType::kF32, Shape{kTokens, kWidth});
      TestTensor scores(DType::kF32, Shape{kTokens, kExperts}),
          weight(DType::kF32, Shape{kTokens, top_k});
      TestTensor idx(DType::kI32, Shape{kTokens, top_k}),
          position(DType::kI32, Shape{kTokens, top_k});
      TestTensor token(DType::kI32, Shape{kTokens * top_k}),
          offsets(DType::kI64, Shape{kExperts / 8 + 1});
      const Random random(11, RandomPurpose::kTest, static_cast<uint64_t>(comm.rank()));
      for (int64_t i = 0; i < logits.size(); ++i)
        logits.set(i, random.normal(static_cast<uint64_t>(i)));
      for (int64_t i = 0; i < x.size(); ++i) x.set(i, 1);
      router_forward(ctx, {.logits_TE = logits,
                           .n_group = 8,
                           .topk_group = groups,
                           .num_experts_per_tok = top_k,
                           .norm_topk_prob = true,
                           .scores_TE = scores,
                           .idx_TA = idx,
                           .weight_TA = weight});
      const RoutedRows routed{idx, position, token, offsets, exchange.make_layout()};
      exchange.plan(ctx, routed);
      TestTensor rows_UD(DType::kF32, Shape{routed.num_rows(), kWidth});
      const Traffic before = comm.transport().traffic();
      exchange.dispatch(ctx, x, routed, rows_UD);
      const int64_t bytes = (comm.transport().traffic() - before).network_bytes();
      const std::lock_guard lock(mutex);
      rows += static_cast<double>(bytes) / (kWidth * 4) / (8.0 * kTokens);
    });
    return rows;
  };
  // Of the machines that a token touches one in eight is its own.
  const double limited = network_rows_per_token(8, 4) * 8 / 7;
  const double free = network_rows_per_token(8, 8) * 8 / 7;
  EXPECT_NEAR(limited, 3.97, 0.03);
  EXPECT_NEAR(free, 5.30, 0.06);
  EXPECT_NEAR(limited / free, 0.75, 0.01);
  EXPECT_NEAR(network_rows_per_token(13, 4) * 8 / 7 / limited, 1, 0.02);
}

// What a rank forwards for others goes on while it computes: here the other ranks do nothing at all
// between their halves until rank 0 has what it waits for.
TEST(TwoHopExchange, ForwardsWhileTheRankComputes) {
  const Case c{.ranks = 4, .per_node = 2, .experts = 8, .per_token = 8, .tokens = {3, 3, 3, 3}};
  std::atomic<bool> first_is_served{false};
  run_ranks(c.ranks, {.ranks_per_node = c.per_node}, [&](Communicator& comm) {
    Context ctx(1);
    const TwoHopExchange two_hops(comm, c.experts);
    const TokenExchange& exchange = two_hops;
    Side mine(c, 3 * comm.rank(), 3, 2, exchange, DType::kF32, DType::kF32);
    exchange.plan(ctx, mine.rows);
    TestTensor rows(DType::kF32, Shape{mine.rows.num_rows(), c.width});
    const auto compute_until = [&](const std::function<bool()>& done) {
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
      while (!done() && std::chrono::steady_clock::now() < end)
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    };
    for (const Way way : {Way::kToExperts, Way::kToTokens}) {
      const auto half = [&](Half half) {
        if (way == Way::kToExperts) return exchange.dispatch(ctx, mine.x, mine.rows, rows, half);
        exchange.combine(ctx, rows, mine.rows, mine.y, /*accumulate=*/false, half);
      };
      half(Half::kSend);
      comm.barrier();
      if (comm.rank() == 0) {
        compute_until([&] { return exchange.has_come(mine.rows, way); });
        EXPECT_TRUE(exchange.has_come(mine.rows, way));
        first_is_served = true;
      } else {
        compute_until([&] { return first_is_served.load(); });
        EXPECT_TRUE(first_is_served);
      }
      half(Half::kReceive);
      comm.barrier();
      first_is_served = false;
      comm.barrier();
    }
  });
}

TEST(TwoHopExchange, RefusesUnevenMachines) {
  run_ranks(3, {.ranks_per_node = 2}, [](Communicator& comm) {
    EXPECT_THROW(TwoHopExchange(comm, 6), Error);
    EXPECT_NO_THROW(OneHopExchange(comm, 6));
  });
}

}  // namespace
}  // namespace fathom
