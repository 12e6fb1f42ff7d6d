#include "kernels/self_check.h"

#include <set>

namespace fathom {
namespace {

TEST(KernelSelfTest, PassesAtEveryLevelOfThisMachine) {
  const auto results = run_kernel_self_test(2);
  std::set<IsaLevel> levels;
  for (const SelfTestResult& result : results) {
    levels.insert(result.isa);
    EXPECT_TRUE(result.passed()) << result.operation << " " << isa_name(result.isa) << ": "
                                 << result.error << " of " << result.allowed;
    EXPECT_LT(result.allowed, 0.5) << result.operation << ": a bound that wide would see nothing";
  }
  EXPECT_EQ(levels.size(), supported_isa_levels().size() - 1);
}

TEST(KernelSelfTest, ResultsCanFail) {
  EXPECT_FALSE((SelfTestResult{.error = 1.0, .allowed = 0.5}.passed()));
  EXPECT_FALSE((SelfTestResult{.error = std::nan(""), .allowed = 0.5}.passed()));
}

TEST(KernelSelfTest, MeasuresSomething) {
  Context ctx(1);
  EXPECT_GT(measure_gemm_gflops(ctx, DType::kF32, 0.01), 0.0);
}

}  // namespace
}  // namespace fathom
