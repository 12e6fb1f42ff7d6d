// FATHOM_FORCE_ISA is obeyed by a whole training step and a decode: every kernel that ran is the
// one of the forced level, as the dispatch itself recorded it. What may be lower than the level is
// written down here, not asked from the dispatch: row kernels have nothing above AVX-512, fp32
// products neither, and the serial plan of the dispatch has one version.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <set>
#include <typeinfo>

#include "infer/generate.h"
#include "kernels/table.h"
#include "tiny_model.h"

namespace fathom {
namespace {

class Forced {
 public:
  explicit Forced(const std::string& level) {
    if (const char* value = std::getenv("FATHOM_FORCE_ISA")) before_ = value;
    setenv("FATHOM_FORCE_ISA", level.c_str(), 1);
  }
  ~Forced() { setenv("FATHOM_FORCE_ISA", before_.c_str(), 1); }  // empty means not forced

 private:
  std::string before_;
};

template <typename... Params>
std::set<std::string> names() {
  return {typeid(Params).name()...};
}
const std::set<std::string> kProducts = names<GemmParams, GroupedGemmParams, MlaAttentionForward,
                                              MlaAttentionBackward, MlaDecodeParams>();

// The first run that is not of this level; empty if there is none.
std::string first_stray(const std::vector<KernelRun>& log, IsaLevel level) {
  std::set<std::string> at_level;  // products that ran at exactly this level
  for (const KernelRun& run : log) {
    const std::string what = fmt::format("{} ran {}", run.operation, run.entry);
    if (run.operation == std::string(typeid(DispatchPlan).name())) continue;
    if (run.isa > level) return what;
    if (run.isa < std::min(level, IsaLevel::kAvx512)) return what;
    if (kProducts.contains(run.operation) && run.isa == level) at_level.insert(run.operation);
  }
  for (const std::string& product : kProducts) {
    if (!at_level.contains(product)) return product + " never ran at the level";
  }
  return "";
}

std::vector<KernelRun> train_and_decode() {
  const ModelConfig config = testing_models::tiny_config();
  Context ctx(1);
  std::vector<KernelRun> log;
  Model model(config, policy_by_name("bf16"), 64);
  ParameterSet gradients("gradients", parameter_specs(config),
                         policy_by_name("bf16").gradient_dtypes());
  ParameterSet master("master", parameter_specs(config), {DType::kF32, DType::kF32});
  initialize_parameters(config, 1, master);
  copy_parameters(ctx, master, model.weights());
  constexpr int64_t kRows = 2, kContext = 12;
  const std::vector<int32_t> tokens = testing_models::random_tokens(
      kRows * (kContext + 1 + config.num_nextn_predict_layers), config.vocab_size, 3);
  const TokenBatch batch = testing_models::full_batch(config, tokens, kRows, kContext);
  TrainingPass pass(model, kRows, kContext);
  ctx.kernel_log = &log;
  pass.forward_backward(ctx, batch, testing_models::mean_scales(config, batch, 0.3, 1e-3),
                        gradients);
  generate(ctx, model, std::vector<int32_t>{1, 2, 3}, {.max_tokens = 3});
  return log;
}

TEST(ForcedIsa, EveryKernelOfAStepRunsAtTheForcedLevel) {
  const std::vector<IsaLevel> levels = supported_isa_levels();
  for (const IsaLevel level : levels) {
    SCOPED_TRACE(isa_name(level));
    const Forced forced{std::string(isa_name(level))};
    const std::vector<KernelRun> log = train_and_decode();
    EXPECT_GT(log.size(), 50u);
    EXPECT_EQ(first_stray(log, level), "");
    // The same list is seen as stray by every other level.
    for (const IsaLevel other : levels) {
      if (other == level) continue;
      EXPECT_NE(first_stray(log, other), "") << isa_name(other);
    }
  }
}

}  // namespace
}  // namespace fathom
