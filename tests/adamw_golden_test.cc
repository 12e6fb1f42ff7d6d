// Fifty steps of torch.optim.AdamW (tools/make_adamw_golden.py), in fp64 and in fp32 at every
// instruction-set level.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ckpt/safetensors.h"
#include "kernels/kernels.h"

namespace fathom {
namespace {

constexpr int64_t kSteps = 50;

std::vector<double> read(const SafetensorsReader& file, const std::string& name) {
  const SafetensorsEntry& entry = file.at(name);
  std::vector<double> values(static_cast<size_t>(entry.shape.num_elements()));
  file.read_converted(entry, TensorView(values.data(), DType::kF64, entry.shape, "golden"));
  return values;
}

// The worst |ours - torch| in units of what the roundings of all steps so far can add up to: each
// step rounds the parameter three times (decay, step, difference) and a step of at most about 2 lr
// some twenty times.
template <typename T>
double worst_margin(const SafetensorsReader& file, IsaLevel level, bool forget_decay = false) {
  const double unit = sizeof(T) == 8 ? 0x1p-53 : 0x1p-24;
  const std::string bits = sizeof(T) == 8 ? "64" : "32";
  const std::vector<double> rates = read(file, "lr"), hyper = read(file, "hyper");
  Context ctx(1, level);
  double worst = 0;
  for (const std::string name : {"a", "b", "c"}) {
    const std::vector<double> initial = read(file, name + ".initial"),
                              gradients = read(file, name + ".gradients"),
                              after = read(file, name + ".after" + bits);
    const int64_t count = static_cast<int64_t>(initial.size());
    std::vector<T> p(initial.begin(), initial.end()), g(initial.size()), m(initial.size()),
        v(initial.size());
    const auto view = [&](std::vector<T>& values, const char* tensor) {
      return TensorView(values.data(), dtype_of<T>, {count}, tensor);
    };
    double size = 0, step_sum = 0;
    for (int64_t step = 1; step <= kSteps; ++step) {
      const int64_t begin = (step - 1) * count;
      std::copy_n(gradients.begin() + begin, count, g.begin());
      const double lr = rates[static_cast<size_t>(step - 1)];
      adamw(ctx, {.master = view(p, "p"),
                  .grad = view(g, "g"),
                  .m = view(m, "m"),
                  .v = view(v, "v"),
                  .lr = lr,
                  .beta1 = hyper[0],
                  .beta2 = hyper[1],
                  .eps = hyper[2],
                  .weight_decay = forget_decay ? 0 : hyper[3],
                  .step = step});
      for (int64_t i = 0; i < count; ++i)
        size = std::max(size, std::fabs(after[static_cast<size_t>(begin + i)]));
      step_sum += 3 * size + 40 * lr;
      for (int64_t i = 0; i < count; ++i) {
        const double error = std::fabs(static_cast<double>(p[static_cast<size_t>(i)]) -
                                       after[static_cast<size_t>(begin + i)]);
        worst = std::max(worst, std::isnan(error) ? 1e300 : error / (unit * step_sum));
      }
    }
  }
  return worst;
}

TEST(AdamwGolden, FollowsTorchForFiftySteps) {
  const SafetensorsReader file(local_file_system(), FATHOM_GOLDEN_DIR "/adamw.safetensors");
  const double worst64 = worst_margin<double>(file, IsaLevel::kReference);
  EXPECT_LE(worst64, 1.0);
  std::printf("fp64: worst error %.3f of its tolerance\n", worst64);
  for (const IsaLevel level : supported_isa_levels()) {
    const double worst = worst_margin<float>(file, level);
    EXPECT_LE(worst, 1.0) << isa_name(level);
    std::printf("fp32 %s: worst error %.3f of its tolerance\n",
                std::string(isa_name(level)).c_str(), worst);
  }
}

TEST(AdamwGolden, SeesAForgottenWeightDecay) {
  const SafetensorsReader file(local_file_system(), FATHOM_GOLDEN_DIR "/adamw.safetensors");
  EXPECT_GT(worst_margin<double>(file, IsaLevel::kReference, true), 100.0);
  EXPECT_GT(worst_margin<float>(file, choose_isa_level(), true), 100.0);
}

}  // namespace
}  // namespace fathom
