// One suite of checks for every backend: ranks as threads here, and once more as processes, when
// this test program starts itself under mpirun.
#include "comm/communicator.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "comm/fake_transport.h"
#include "comm/in_process.h"
#include "comm/mpi_transport.h"

namespace fathom {
namespace {

// A value that depends on everything, whose sums round.
float value(int rank, int64_t i) {
  return 0.1f + static_cast<float>(rank + 1) / (3.0f + static_cast<float>(i));
}

std::vector<float> values_of(int rank, int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(value(rank, i));
  return values;
}

// The documented tree, written down again: by halves instead of by steps. For a power of two of
// ranks both are the same; for others the left part is the largest power of two below.
float tree_sum_of(int first, int count, int64_t i) {
  if (count == 1) return value(first, i);
  int left = 1;
  while (2 * left < count) left *= 2;
  return tree_sum_of(first, left, i) + tree_sum_of(first + left, count - left, i);
}

#define REQUIRE(condition) FATHOM_CHECK(condition, "rank {} of {}", comm.rank(), comm.size())

void check_messages(const Communicator& comm) {
  const int n = comm.size(), next = (comm.rank() + 1) % n, previous = (comm.rank() + n - 1) % n;
  // Two tags, received against the order of sending; one tag keeps its order; empty messages count.
  for (int64_t i = 0; i < 3; ++i) comm.send<int64_t>(next, 1, std::vector<int64_t>{i, comm.rank()});
  comm.send<float>(next, 2, values_of(comm.rank(), 70001));
  comm.send<float>(next, 3, std::vector<float>{});
  std::vector<float> large(70001), none;
  comm.receive<float>(previous, 3, none);
  comm.receive<float>(previous, 2, large);
  REQUIRE(large == values_of(previous, 70001));
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<int64_t> pair(2, -1);
    comm.receive<int64_t>(previous, 1, pair);
    REQUIRE(pair[0] == i && pair[1] == previous);
  }
  // Started early, waited for late.
  int64_t late = -1;
  const Receive receive = comm.start_receive(previous, 7, std::span<int64_t>(&late, 1));
  comm.barrier();
  const int64_t mine = comm.rank();
  comm.send<int64_t>(next, 7, std::span<const int64_t>(&mine, 1));
  comm.wait(receive);
  REQUIRE(late == previous);
}

void check_sums(const Communicator& comm) {
  for (const int64_t count : {0, 1, 5, 1000}) {
    std::vector<float> sums = values_of(comm.rank(), count);
    comm.all_reduce<float>(sums);
    for (int64_t i = 0; i < count; ++i)
      REQUIRE(sums[static_cast<size_t>(i)] == tree_sum_of(0, comm.size(), i));
  }
  // Uneven parts, one of them empty.
  std::vector<int64_t> counts;
  for (int r = 0; r < comm.size(); ++r) counts.push_back(r == 1 ? 0 : 3 + r);
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + comm.rank(), int64_t{0});
  std::vector<float> mine(static_cast<size_t>(counts[static_cast<size_t>(comm.rank())]), -1.0f);
  comm.reduce_scatter<float>(values_of(comm.rank(), total), counts, mine);
  for (size_t i = 0; i < mine.size(); ++i)
    REQUIRE(mine[i] == tree_sum_of(0, comm.size(), begin + static_cast<int64_t>(i)));
  std::vector<float> all(static_cast<size_t>(total), -1.0f);
  comm.all_gather<float>(mine, counts, all);
  for (int64_t i = 0; i < total; ++i)
    REQUIRE(all[static_cast<size_t>(i)] == tree_sum_of(0, comm.size(), i));
  REQUIRE(comm.all_reduce_one<int64_t>(comm.rank()) == comm.size() * (comm.size() - 1) / 2);
}

void check_exchange(const Communicator& comm) {
  // Rank s sends (s + 2 r) % 4 elements to rank r, each of them 100 s + r.
  const auto count = [](int from, int to) { return static_cast<int64_t>((from + 2 * to) % 4); };
  std::vector<int64_t> send_counts, expected_counts;
  std::vector<int32_t> to_send, expected;
  for (int r = 0; r < comm.size(); ++r) {
    send_counts.push_back(count(comm.rank(), r));
    expected_counts.push_back(count(r, comm.rank()));
    to_send.insert(to_send.end(), static_cast<size_t>(send_counts.back()), 100 * comm.rank() + r);
    expected.insert(expected.end(), static_cast<size_t>(expected_counts.back()),
                    100 * r + comm.rank());
  }
  const std::vector<int64_t> receive_counts = comm.exchange_counts(send_counts);
  REQUIRE(receive_counts == expected_counts);
  std::vector<int32_t> received(expected.size(), -1);
  comm.all_to_all<int32_t>(to_send, send_counts, received, receive_counts);
  REQUIRE(received == expected);
  for (int root = 0; root < comm.size(); ++root) {
    std::vector<int32_t> news(5, comm.rank() == root ? root + 40 : -1);
    comm.broadcast<int32_t>(root, news);
    REQUIRE(news == std::vector<int32_t>(5, root + 40));
  }
  const std::vector<std::string> texts =
      comm.gather_text(std::string(static_cast<size_t>(comm.rank()), 'x'));
  for (int r = 0; r < comm.size(); ++r)
    REQUIRE(texts[static_cast<size_t>(r)] == std::string(static_cast<size_t>(r), 'x'));
}

void check_groups(const Communicator& comm) {
  // Even and odd ranks, downwards; both groups work at once, beside the world.
  std::vector<int> members;
  for (int r = comm.size() - 1; r >= 0; --r) {
    if (r % 2 == comm.rank() % 2) members.push_back(r);
  }
  const Communicator half = comm.group(members, 1);
  REQUIRE(half.transport_rank(half.rank()) == comm.rank());
  std::vector<int64_t> sum{1, comm.rank()};
  half.all_reduce<int64_t>(sum);
  REQUIRE(sum[0] == half.size());
  REQUIRE(sum[1] == std::accumulate(members.begin(), members.end(), int64_t{0}));
  check_sums(comm);
}

void check_all(const Communicator& comm) {
  check_messages(comm);
  check_sums(comm);
  check_exchange(comm);
  check_groups(comm);
  comm.barrier();
}

TEST(Communicator, ThreadsPassTheSuite) {
  for (const int n : {1, 2, 3, 4, 7, 8}) {
    std::atomic<int> finished{0};
    run_ranks(n, {}, [&](Communicator& comm) {
      check_all(comm);
      ++finished;
    });
    EXPECT_EQ(finished, n);
  }
}

// Started by the test below, as one rank of several.
TEST(CommunicatorUnderMpi, Suite) {
  if (!started_by_mpi())
    GTEST_SKIP() << "runs under mpirun, which Communicator.Processes... starts";
  const auto transport = join_mpi(/*ranks_per_node=*/2);
  const Communicator comm(*transport);
  check_all(comm);
  EXPECT_EQ(comm.node_of(comm.rank()), comm.rank() / 2);
  EXPECT_EQ(transport->traffic().network_bytes() > 0, comm.size() > 2);
}

TEST(Communicator, ProcessesPassTheSuite) {
#ifndef FATHOM_MPI
  GTEST_SKIP() << "built without MPI";
#endif
  if (started_by_mpi()) GTEST_SKIP() << "this is one of the processes";
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  for (const int n : {1, 2, 4}) {
    const std::string command = fmt::format(
        "mpirun --allow-run-as-root --oversubscribe -n {} {} "
        "--gtest_filter=CommunicatorUnderMpi.Suite 2>&1 | grep -c 'PASSED.*1 test' | grep -qx {}",
        n, self, n);
    EXPECT_EQ(system(command.c_str()), 0) << command;
  }
}

TEST(Communicator, SumsOfHalvesAreTheSumOfAll) {
  // Four ranks of one value, or two that add pairs themselves: the same bits, which a chain of
  // additions would not give.
  std::vector<float> of_four(1000), of_two(1000);
  run_ranks(4, {}, [&](Communicator& comm) {
    std::vector<float> mine = values_of(comm.rank(), 1000);
    comm.all_reduce<float>(mine);
    if (comm.rank() == 0) of_four = mine;
  });
  run_ranks(2, {}, [&](Communicator& comm) {
    std::vector<float> mine = values_of(2 * comm.rank(), 1000);
    const std::vector<float> other = values_of(2 * comm.rank() + 1, 1000);
    for (size_t i = 0; i < mine.size(); ++i) mine[i] += other[i];
    comm.all_reduce<float>(mine);
    if (comm.rank() == 0) of_two = mine;
  });
  EXPECT_EQ(of_four, of_two);
  std::vector<float> chain(1000);
  for (int rank = 0; rank < 4; ++rank) {
    for (int64_t i = 0; i < 1000; ++i) chain[static_cast<size_t>(i)] += value(rank, i);
  }
  EXPECT_NE(of_four, chain);  // or the test could not tell
}

TEST(Communicator, CountsBytesByLink) {
  // Four ranks on two nodes: rank 0 sends 10, 20 and 30 bytes to ranks 1, 2 and 3.
  run_ranks(4, {.ranks_per_node = 2}, [](Communicator& comm) {
    const Traffic before = comm.transport().traffic();
    if (comm.rank() == 0) {
      for (int to = 1; to < 4; ++to)
        comm.send<std::byte>(to, 0, std::vector<std::byte>(static_cast<size_t>(10 * to)));
      comm.send<std::byte>(0, 0, std::vector<std::byte>(7));
      const Traffic sent = comm.transport().traffic() - before;
      EXPECT_EQ(sent.bytes[static_cast<int>(LinkClass::kSelf)], 7);
      EXPECT_EQ(sent.node_bytes(), 10);
      EXPECT_EQ(sent.network_bytes(), 50);
      EXPECT_EQ(sent.messages[static_cast<int>(LinkClass::kNetwork)], 2);
    } else {
      std::vector<std::byte> bytes(static_cast<size_t>(10 * comm.rank()));
      comm.receive<std::byte>(0, 0, bytes);
    }
  });
}

TEST(Communicator, AnEmulatedLinkTakesItsTime) {
  const InProcessOptions options{.ranks_per_node = 1, .network = {.latency_seconds = 0.05}};
  // No rank hears of the other before one latency is over, whenever either began: a lower bound of
  // the whole holds on any machine.
  const auto begin = std::chrono::steady_clock::now();
  run_ranks(2, options, [](Communicator& comm) { comm.barrier(); });
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(50));
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no exception";
}

TEST(Communicator, ARankThatThrowsEndsTheOthers) {
  std::vector<std::string> seen(3);
  const std::string thrown = message_of([&] {
    run_ranks(3, {}, [&](Communicator& comm) {
      if (comm.rank() == 1) fail(ErrorKind::kBadInput, "no such file");
      seen[static_cast<size_t>(comm.rank())] = message_of([&] { comm.barrier(); });
    });
  });
  EXPECT_EQ(thrown, "no such file");
  EXPECT_EQ(seen[0], "rank 1 ended: no such file");
  EXPECT_EQ(seen[2], "rank 1 ended: no such file");
}

TEST(Communicator, TheRankAtTheEndOfTheChainIsNamed) {
  // 0 waits for 1, which waits for 2, which does something else and will never send.
  std::atomic<bool> named{false};
  const std::string thrown = message_of([&] {
    run_ranks(3, {.comm = {.timeout_seconds = 0.3}}, [&](Communicator& comm) {
      if (comm.rank() == 2) {
        while (!named) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return;
      }
      const CommOptions patient{.timeout_seconds = 100};
      const Communicator waiting =
          comm.rank() == 0 ? comm : Communicator(comm.transport(), patient);
      std::byte token{};
      try {
        waiting.receive(comm.rank() + 1, 0, std::span<std::byte>(&token, 1));
      } catch (...) {
        named = true;
        throw;
      }
    });
  });
  EXPECT_NE(thrown.find("rank 2 has sent and waited for nothing"), std::string::npos) << thrown;
  EXPECT_NE(thrown.find("rank 0 waits for rank 1, which waits for rank 2"), std::string::npos)
      << thrown;
}

TEST(SlowRank, IsTheOneThatComputesWhileAllOthersWait) {
  const PeerStatus waits{.waiting_for = 1, .seconds = 9}, computes{.seconds = 9},
      waits_shortly{.waiting_for = 1, .seconds = 7}, ended{.seconds = 9, .ended = true};
  const auto find = [](std::vector<PeerStatus> ranks) {
    const auto slow = find_slow_rank(ranks, 8);
    return slow ? slow->rank : -1;
  };
  EXPECT_EQ(find({waits, computes, waits}), 1);
  EXPECT_EQ(find({waits, waits, computes}), 2);
  EXPECT_EQ(find({waits, computes, computes}), -1);
  EXPECT_EQ(find({waits, computes, waits_shortly}), -1);
  EXPECT_EQ(find({waits, computes, ended}), -1);
  EXPECT_EQ(find({waits, waits}), -1);
  EXPECT_EQ(find({computes}), -1);
}

TEST(Communicator, AThreadThatAllOthersWaitForIsNamed) {
  std::atomic<bool> hung{false};
  std::vector<std::string> said;
  run_ranks(3,
            {.watch = {.slow_seconds = 0.2,
                       .hang_seconds = 0.9,
                       .on_slow = [&](const std::string& what) { said.push_back(what); },
                       .on_hang =
                           [&](const std::string& what) {
                             if (!hung) said.push_back(what);
                             hung = true;  // a program would end here
                           }}},
            [&](Communicator& comm) {
              while (comm.rank() == 1 && !hung)
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
              comm.barrier();
            });
  ASSERT_EQ(said.size(), 2u);
  EXPECT_NE(said[0].find("in the end for rank 1"), std::string::npos) << said[0];
  EXPECT_NE(said[1].find("rank 1 has computed"), std::string::npos) << said[1];
}

TEST(Communicator, AMessageOfAnotherSizeIsAnError) {
  const std::string thrown = message_of([&] {
    run_ranks(2, {}, [&](Communicator& comm) {
      std::vector<float> values(3);
      if (comm.rank() == 0) {
        comm.send<float>(1, 0, values);
      } else {
        comm.receive<float>(0, 0, std::span<float>(values).first(2));
      }
    });
  });
  EXPECT_NE(thrown.find("12 vs 8"), std::string::npos) << thrown;
}

TEST(FakeTransport, CountsAndAnswersAtOnce) {
  FakeTransport transport(3, Topology::uniform(8, 4));
  const Communicator comm(transport);
  std::vector<float> values(800, 1.0f);
  comm.all_reduce<float>(values);
  // Reduce-scatter and gather: 100 elements to each of 7 others, twice; 4 of them on another node.
  EXPECT_EQ(transport.traffic().network_bytes(), 2 * 4 * 100 * 4);
  EXPECT_EQ(transport.traffic().node_bytes(), 2 * 3 * 100 * 4);
  EXPECT_EQ(values[300], 1.0f);  // its own part of the sum: the others sent zeros
  EXPECT_EQ(values[0], 0.0f);
}

}  // namespace
}  // namespace fathom
