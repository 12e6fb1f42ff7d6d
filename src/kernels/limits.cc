#include "kernels/limits.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/cpu/peak_kernels.h"
#include "kernels/peak.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kProbeBytes = int64_t{256} << 20, kProbeBlock = int64_t{1} << 20;
double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Word by word the compiler's own vectors: writing is the limit, not the instructions.
constexpr int64_t kFlip = 2;
void flip(uint64_t* words, int64_t count) {
  for (int64_t i = 0; i < count; ++i) words[i] ^= static_cast<uint64_t>(kFlip);
}

uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t sum[8] = {};
  for (int64_t i = 0; i + 8 <= count; i += 8) {
    for (int j = 0; j < 8; ++j) sum[j] += words[i + j];
  }
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// Processors that this process may use, as the scheduler numbers them.
std::vector<int> usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
  return processors;
}

void pin_this_thread(int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_setaffinity(0, sizeof(set), &set);  // at worst the probe measures unpinned threads
}

}  // namespace

BandwidthProbe::BandwidthProbe()
    : memory_("bandwidth probe", kProbeBytes),
      words_(memory_.allocate(DType::kI64, {kProbeBytes / 8}, "words")) {
  std::fill_n(words_.as<int64_t>(), kProbeBytes / 8, int64_t{1});
}

double BandwidthProbe::measure(Context& ctx, Kind kind, double seconds) {
  const bool update = kind == Kind::kUpdate;
  const auto sum = ctx.isa() >= IsaLevel::kAvx512 ? sum_words_avx512
                   : ctx.isa() >= IsaLevel::kAvx2 ? sum_words_avx2
                                                  : sum_words;
  std::vector<uint64_t> sums(kProbeBytes / kProbeBlock);
  double best = 0;
  const auto begin = Clock::now();
  for (int pass = 0; pass < 2 || seconds_since(begin) < seconds; ++pass) {
    const auto pass_begin = Clock::now();
    ctx.threads().parallel_for(kProbeBytes / kProbeBlock, [&](int64_t block, int) {
      auto* at = reinterpret_cast<uint64_t*>(words_.as<int64_t>()) + block * (kProbeBlock / 8);
      if (update) {
        flip(at, kProbeBlock / 8);
      } else {
        sums[static_cast<size_t>(block)] = sum(at, kProbeBlock / 8);
      }
    });
    const double bytes = static_cast<double>(kProbeBytes) * (update ? 2 : 1);
    best = std::max(best, bytes / seconds_since(pass_begin));
  }
  if (update) {
    if ((words_.as<int64_t>()[0] & kFlip) != 0) {  // an odd number of passes
      for (int64_t i = 0; i < kProbeBytes / 8; ++i) words_.as<int64_t>()[i] ^= kFlip;
    }
  } else {
    for (const uint64_t s : sums) FATHOM_CHECK_EQ(s, static_cast<uint64_t>(kProbeBlock / 8));
  }
  return best;
}

double measure_read_bandwidth(Context& ctx, double seconds) {
  return BandwidthProbe().measure(ctx, BandwidthProbe::Kind::kRead, seconds);
}

double measure_round_trip() {
  const std::vector<int> processors = usable_processors();
  if (processors.size() < 2) return 0;
  constexpr int64_t kTrips = 5000;
  constexpr int kRuns = 5;
  struct alignas(64) Flag {
    std::atomic<int64_t> value{0};
  };
  Flag there, back;
  double best = 1e9;
  std::thread first([&] {
    pin_this_thread(processors.front());
    for (int run = 0; run < kRuns; ++run) {
      const auto begin = Clock::now();
      for (int64_t i = run * kTrips + 1; i <= (run + 1) * kTrips; ++i) {
        there.value.store(i, std::memory_order_release);
        while (back.value.load(std::memory_order_acquire) != i) {
        }
      }
      best = std::min(best, seconds_since(begin) / kTrips);
    }
  });
  std::thread second([&] {
    pin_this_thread(processors.back());
    for (int64_t i = 1; i <= kRuns * kTrips; ++i) {
      while (there.value.load(std::memory_order_acquire) != i) {
      }
      back.value.store(i, std::memory_order_release);
    }
  });
  first.join();
  second.join();
  return best;
}

MachineLimits measure_limits(Context& ctx) {
  return {.threads = ctx.threads().num_threads(),
          .fp32_flops = measure_peak_flops(ctx, DType::kF32),
          .bf16_flops = measure_peak_flops(ctx, DType::kBF16),
          .int8_ops = measure_peak_flops(ctx, DType::kU8),
          .read_bytes = measure_read_bandwidth(ctx, 0.1)};
}

}  // namespace fathom
