#include "runtime/thread_pool.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

namespace fathom {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (const int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      std::atomic<bool> thread_out_of_range = false;
      pool.parallel_for(count, [&](int64_t i, int thread_idx) {
        visits[static_cast<size_t>(i)].fetch_add(1);
        if (thread_idx < 0 || thread_idx >= num_threads) thread_out_of_range = true;
      });
      for (const auto& visit : visits) ASSERT_EQ(visit.load(), 1);
      EXPECT_FALSE(thread_out_of_range.load());
    }
    pool.parallel_for(-1, [](int64_t, int) { FAIL(); });
  }
}

TEST(ThreadPool, ManyLoopsInARow) {
  // Loops that follow each other closely, and one after the workers have gone to sleep.
  ThreadPool pool(3);
  std::atomic<int64_t> sum = 0;
  for (int loop = 0; loop < 2000; ++loop) {
    pool.parallel_for(4, [&](int64_t i, int) { sum.fetch_add(i); });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pool.parallel_for(4, [&](int64_t i, int) { sum.fetch_add(i); });
  EXPECT_EQ(sum.load(), 2001 * 6);
}

// A hint is no read: of memory that is not there, or gone by the time, nothing comes of it, nor
// does it keep a worker from the next loop.
TEST(ThreadPool, ReadAheadOfAnything) {
  ThreadPool pool(3);
  const std::vector<char> there(300'000);
  const MemoryRange ranges[] = {{there.data(), 300'000},
                                {nullptr, int64_t{1} << 40},
                                {reinterpret_cast<const void*>(~uintptr_t{0xfff}), 1 << 20},
                                {there.data(), 0}};
  std::atomic<int64_t> sum = 0;
  for (int loop = 0; loop < 2000; ++loop) {
    pool.read_ahead(ranges + loop % 3, loop % 2 == 0 ? 1 : 2);
    pool.parallel_for(4, [&](int64_t i, int) { sum.fetch_add(i); });
    if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  const std::vector<MemoryRange> many(100, {there.data(), 1000});
  pool.read_ahead(many.data(), 100);  // more than are kept
  pool.read_ahead(nullptr, 0);
  EXPECT_EQ(sum.load(), 2000 * 6);
  ThreadPool(1).read_ahead(ranges, 4);
}

TEST(ThreadPool, OneThreadNumberIsNeverUsedTwiceAtOnce) {
  // Per-thread scratch relies on this.
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> shared = false;
  pool.parallel_for(500, [&](int64_t, int thread_idx) {
    auto& here = inside[static_cast<size_t>(thread_idx)];
    if (here.fetch_add(1) != 0) shared = true;
    std::this_thread::yield();  // gives another thread the time to step in
    here.fetch_sub(1);
  });
  EXPECT_FALSE(shared.load());
}

// More threads than processors: most workers come late to every loop or never, and nobody waits for
// those that claimed nothing. Loops of one to a few indices are the ones that a worker can miss.
TEST(ThreadPool, LateWorkersFindNothingOfAnOldLoop) {
  ThreadPool pool(9);
  std::atomic<int64_t> stale = 0;
  for (int64_t loop = 0; loop < 3000; ++loop) {
    const int64_t count = 2 + loop % 5;
    std::vector<int64_t> seen(static_cast<size_t>(count), -1);  // dies with the loop
    pool.parallel_for(count, [&](int64_t i, int) {
      if (i < 0 || i >= count || seen[static_cast<size_t>(i)] != -1) stale.fetch_add(1);
      seen[static_cast<size_t>(i)] = loop;
    });
    for (const int64_t s : seen) ASSERT_EQ(s, loop);
  }
  EXPECT_EQ(stale.load(), 0);
}

TEST(ThreadPool, EachThreadRisesThroughTheIndices) {
  ThreadPool pool(3);
  std::vector<int64_t> last(3, -1);
  std::atomic<bool> fell = false;
  pool.parallel_for(5000, [&](int64_t i, int thread_idx) {
    int64_t& before = last[static_cast<size_t>(thread_idx)];
    if (i <= before) fell = true;
    before = i;
  });
  EXPECT_FALSE(fell.load());
}

TEST(ThreadPool, ExceptionsComeBackAndThePoolGoesOn) {
  for (const int num_threads : {1, 3}) {
    ThreadPool pool(num_threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      try {
        pool.parallel_for(100, [](int64_t i, int) {
          if (i % 10 == 7) throw std::runtime_error("index " + std::to_string(i));
        });
        ADD_FAILURE() << "the exception was lost";
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(std::string(error.what()).substr(0, 6), "index ");
      }
      std::atomic<int> visits = 0;
      pool.parallel_for(10, [&](int64_t, int) { ++visits; });
      EXPECT_EQ(visits.load(), 10);
    }
  }
}

TEST(ThreadPool, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  const auto compute = [](int num_threads) {
    ThreadPool pool(num_threads);
    std::vector<float> partial(64);
    pool.parallel_for(64, [&](int64_t i, int) {
      float sum = 0;
      for (int k = 1; k < 1000; ++k) sum += 1.0f / static_cast<float>(k * (i + 1));
      partial[static_cast<size_t>(i)] = sum;
    });
    float total = 0;
    for (const float p : partial) total += p;
    return total;
  };
  const float expected = compute(1);
  for (const int num_threads : {2, 3, 8}) EXPECT_EQ(compute(num_threads), expected);
}

}  // namespace
}  // namespace fathom
