#include "runtime/cpu.h"

#include <cstdlib>

#include "core/error.h"
#include "runtime/context.h"

namespace fathom {
namespace {

// Sets FATHOM_FORCE_ISA for one test and puts back what was there.
class ForcedIsa : public testing::Test {
 protected:
  ForcedIsa() {
    const char* value = std::getenv("FATHOM_FORCE_ISA");
    had_ = value != nullptr;
    if (had_) before_ = value;
  }
  ~ForcedIsa() override {
    if (had_) {
      setenv("FATHOM_FORCE_ISA", before_.c_str(), 1);
    } else {
      unsetenv("FATHOM_FORCE_ISA");
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
    setenv("FATHOM_FORCE_ISA", std::string(isa_name(level)).c_str(), 1);
    EXPECT_EQ(choose_isa_level(), level);
    EXPECT_EQ(Context(1).isa(), level);
  }
  unsetenv("FATHOM_FORCE_ISA");
  EXPECT_EQ(choose_isa_level(), supported_isa_levels().back());
  setenv("FATHOM_FORCE_ISA", "", 1);
  EXPECT_EQ(choose_isa_level(), supported_isa_levels().back());
}

// One clear sentence for each way in which a level cannot be forced.
TEST_F(ForcedIsa, LevelsThatCannotBeForcedAreUsageErrors) {
  const auto refusal = [](const char* name) -> std::string {
    setenv("FATHOM_FORCE_ISA", name, 1);
    try {
      choose_isa_level();
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_status(), 2);
      return error.what();
    }
    ADD_FAILURE() << name << " was taken";
    return "";
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  for (const char* name : {"sse9", "AVX2", "avx512 ", "avx10"}) {
    const std::string text = refusal(name);
    EXPECT_TRUE(says(text, name)) << text;
    EXPECT_TRUE(says(text, "no instruction-set level; expected one of this machine's levels: ref"))
        << text;
  }
  const std::string amx = refusal("amx");
  EXPECT_TRUE(says(amx, "FATHOM_FORCE_ISA: found 'amx', which this processor")) << amx;
  EXPECT_TRUE(says(amx, "this build has no kernels for")) << amx;
  for (const IsaLevel level : {IsaLevel::kAvx2, IsaLevel::kAvx512, IsaLevel::kAvx512Bf16}) {
    if (level <= supported_isa_levels().back()) continue;
    EXPECT_TRUE(says(refusal(isa_name(level).data()), "which this processor lacks;"));
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
