#include "kernels/limits.h"

#include "kernels/cpu/peak_kernels.h"
#include "kernels/peak.h"

namespace fathom {
namespace {

TEST(Limits, EveryProbeMeasuresSomething) {
  for (const IsaLevel isa : supported_isa_levels()) {
    Context ctx(1, isa);
    const MachineLimits limits = measure_limits(ctx);
    EXPECT_EQ(limits.threads, 1);
    EXPECT_GT(limits.fp32_flops, 0) << isa_name(isa);
    EXPECT_GT(limits.bf16_flops, 0) << isa_name(isa);
    EXPECT_GT(limits.read_bytes, 0) << isa_name(isa);
    EXPECT_EQ(limits.int8_ops > 0, isa >= IsaLevel::kAvx512 && cpu_info().avx512_vnni)
        << isa_name(isa);
  }
  EXPECT_EQ(measure_round_trip() > 0, cpu_info().num_cpus > 1);
}

// The probe of memory must read every word that it counts.
TEST(Limits, ReadProbesSumEveryWord) {
  for (const int64_t count : {0, 64, 640}) {
    std::vector<uint64_t> words(static_cast<size_t>(count));
    uint64_t sum = 0;
    for (size_t i = 0; i < words.size(); ++i) sum += words[i] = (i + 1) * (i + 1);
    const std::vector<IsaLevel> levels = supported_isa_levels();
    if (levels.back() >= IsaLevel::kAvx2) {
      EXPECT_EQ(sum_words_avx2(words.data(), count), sum);
    }
    if (levels.back() >= IsaLevel::kAvx512) {
      EXPECT_EQ(sum_words_avx512(words.data(), count), sum);
    }
  }
}

}  // namespace
}  // namespace fathom
