// Training speed: forward, backward and AdamW of a model on random tokens, as the trainer runs
// them. The counterpart of bench/rivals/torch_train.py (script/bench runs both, interleaved). MTP
// modules are left out unless `mtp` is given, since the rival cannot train them.
//   bench_train_step CONFIG.json [threads rows context steps precision [mtp]]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/random.h"
#include "model/config_json.h"
#include "model/model.h"
#include "model/training_pass.h"

using namespace fathom;

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CONFIG.json [threads rows context steps precision [mtp]]\n",
                 argv[0]);
    return 2;
  }
  const auto argument = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const int threads = argument(2, 2), rows = argument(3, 8), context = argument(4, 256),
            steps = argument(5, 10);
  const Policy& policy = policy_by_name(argc > 6 ? argv[6] : "bf16");
  ModelConfig config = parse_config_json(local_file_system().read_all(argv[1]), argv[1]);
  if (argc <= 7 || std::string(argv[7]) != "mtp") config.num_nextn_predict_layers = 0;
  Context ctx(threads);
  Model model(config, policy, context);
  ParameterSet master("master", parameter_specs(config), {DType::kF32, DType::kF32});
  ParameterSet m("m", parameter_specs(config), {policy.moments, policy.moments});
  ParameterSet v("v", parameter_specs(config), {policy.moments, policy.moments});
  ParameterSet gradients("gradients", parameter_specs(config), policy.gradient_dtypes());
  initialize_parameters(config, 1, master);
  copy_parameters(ctx, master, model.weights());
  TrainingPass pass(model, rows, context);

  const int64_t row_length = context + 1 + config.num_nextn_predict_layers;
  std::vector<int32_t> tokens(static_cast<size_t>(rows * row_length));
  std::vector<double> seconds;
  for (int step = 0; step < steps + 3; ++step) {
    const Random random(5, RandomPurpose::kTest, static_cast<uint64_t>(step));
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<int32_t>(random.below(i, static_cast<uint64_t>(config.vocab_size)));
    const TokenBatch batch{
        .num_rows = rows, .context = context, .row_length = row_length, .tokens = tokens.data()};
    const auto begin = std::chrono::steady_clock::now();
    const double per_label = 1.0 / static_cast<double>(rows * context);
    LossScales scales{.main = per_label, .balance = 1e-4};
    for (double& s : scales.mtp) s = 0.3 * per_label;
    for (int64_t i = 0; i < gradients.size(); ++i) fill_zero(ctx, gradients.view(i));
    pass.forward_backward(ctx, batch, scales, gradients);
    for (int64_t i = 0; i < gradients.size(); ++i) {
      if (gradients.spec(i).kind == ParameterKind::kRouterBias) continue;
      adamw(ctx, {.master = master.view(i),
                  .grad = gradients.view(i),
                  .m = m.view(i),
                  .v = v.view(i),
                  .weights = model.weights().is_scaled(i) ? TensorView{} : model.weights().view(i),
                  .lr = 1e-4,
                  .step = step + 1});
      if (model.weights().is_scaled(i)) {
        quantize(ctx,
                 {.x = {master.view(i), {}, ScaleGrain::kNone}, .y = model.weights().scaled(i)});
      }
    }
    if (step >= 3)
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  std::printf(
      "{\"tokens_per_second\": %.1f, \"seconds_per_step\": %.5f, \"threads\": %d, \"rows\": %d, "
      "\"context\": %d, \"precision\": \"%s\", \"parameters\": %lld}\n",
      rows * context / median, median, threads, rows, context, policy.name,
      static_cast<long long>(count_parameters(config).main_model));
  return 0;
}
