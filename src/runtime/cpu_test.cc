#include "runtime/cpu.h"

#include <cstdlib>

#include "core/error.h"
#include "runtime/context.h"

namespace fathom {
namespace {

// Sets FATHOM_ISA for one test and puts back what was there.
class ForcedIsa : public testing::Test {
 protected:
  ForcedIsa() {
    const char* value = std::getenv("FATHOM_ISA");
    had_ = value != nullptr;
    if (had_) before_ = value;
  }
  ~ForcedIsa() override {
    if (had_) {
      setenv("FATHOM_ISA", before_.c_str(), 1);
    } else {
      unsetenv("FATHOM_ISA");
    }
  }
  bool had_ = false;
  std::string before_;
};

TEST(Cpu, LevelsStartWithTheReferenceAndRise) {
  const std::vector<IsaLevel> levels = supported_isa_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), IsaLevel::kReference);
  for (size_t i = 1; i < levels.size(); ++i) EXPECT_LT(levels[i - 1], levels[i]);
  EXPECT_GE(cpu_info().num_cpus, 1);
  EXPECT_FALSE(cpu_info().model_name.empty());
  EXPECT_GT(total_memory_bytes(), int64_t{1} << 28);
  EXPECT_LE(available_memory_bytes(), total_memory_bytes());
  EXPECT_EQ(isa_name(IsaLevel::kAvx512Bf16), "avx512bf16");
}

TEST_F(ForcedIsa, EverySupportedLevelCanBeForced) {
  for (const IsaLevel level : supported_isa_levels()) {
    setenv("FATHOM_ISA", std::string(isa_name(level)).c_str(), 1);
    EXPECT_EQ(choose_isa_level(), level);
    EXPECT_EQ(Context(1).isa(), level);
  }
  unsetenv("FATHOM_ISA");
  EXPECT_EQ(choose_isa_level(), supported_isa_levels().back());
  setenv("FATHOM_ISA", "", 1);
  EXPECT_EQ(choose_isa_level(), supported_isa_levels().back());
}

TEST_F(ForcedIsa, UnknownLevelsAreUsageErrors) {
  setenv("FATHOM_ISA", "sse9", 1);
  try {
    choose_isa_level();
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_status(), 2);
    EXPECT_NE(std::string(error.what())
                  .find("FATHOM_ISA: found 'sse9', expected one of this machine's levels: ref"),
              std::string::npos);
  }
}

TEST(Context, HasOneScratchPerThread) {
  Context ctx(3, IsaLevel::kReference);
  EXPECT_EQ(ctx.threads().num_threads(), 3);
  float* a = ctx.thread_scratch(0).allocate<float>(1, "a");
  float* b = ctx.thread_scratch(2).allocate<float>(1, "b");
  float* c = ctx.scratch().allocate<float>(1, "c");
  EXPECT_TRUE(a != b && b != c && a != c);
  EXPECT_EQ(Context().threads().num_threads(), cpu_info().num_cpus);
}

}  // namespace
}  // namespace fathom
