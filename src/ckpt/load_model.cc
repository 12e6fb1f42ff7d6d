#include "ckpt/load_model.h"

#include <algorithm>

#include "ckpt/place_weights.h"
#include "runtime/cpu.h"

namespace fathom {
namespace {

int64_t num_positions(const ModelConfig& config, int64_t max_positions) {
  return max_positions > 0 ? std::min(max_positions, config.max_position_embeddings)
                           : config.max_position_embeddings;
}

}  // namespace

std::unique_ptr<Model> load_model(Context& ctx, FileSystem& files, const std::string& folder,
                                  const Policy& policy, int64_t max_positions,
                                  const LoadOptions& options, LoadReport* report) {
  const CheckpointReader checkpoint(files, folder);
  const ModelConfig config = config_to_load(checkpoint, options);
  auto model = std::make_unique<Model>(config, policy, num_positions(config, max_positions));
  const LoadReport loaded = load_weights(ctx, checkpoint, model->weights(), options);
  if (report != nullptr) *report = loaded;
  return model;
}

std::unique_ptr<Model> load_any_model(Context& ctx, FileSystem& files, const std::string& path,
                                      const Policy& policy, int64_t max_positions,
                                      const LoadOptions& options, GgufLoadReport* report) {
  if (report != nullptr) *report = {};
  if (!is_gguf_file(files, path))
    return load_model(ctx, files, path, policy, max_positions, options);
  const GgufCheckpoint checkpoint(files, path);
  ModelConfig config = checkpoint.config();
  if (options.skip_mtp) config.num_nextn_predict_layers = 0;
  auto model = std::make_unique<Model>(config, policy, num_positions(config, max_positions));
  GgufLoadReport loaded = load_gguf_weights(ctx, checkpoint, model->weights());
  if (report != nullptr) *report = std::move(loaded);
  return model;
}

std::unique_ptr<Model> load_for_inference(Context& ctx, FileSystem& files,
                                          const std::string& folder, const Policy& policy,
                                          int64_t max_positions, const InferenceOptions& options,
                                          LoadReport* report) {
  const auto checkpoint = std::make_shared<const CheckpointReader>(files, folder);
  require_manifest(*checkpoint, options.load);
  const ModelConfig config = config_to_load(*checkpoint, options.load);
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  std::vector<ParameterPlace> places = place_weights(*checkpoint, specs, policy, options.map);
  const bool panels = options.panels && has_loaded_panels(ctx.isa()) &&
                      policy.activations == DType::kBF16 &&
                      copy_for_panels(config, specs, available_memory_bytes(), places);
  ParameterSet weights("weights", specs, checkpoint, places);
  const double resident_share = report != nullptr ? checkpoint->resident_share() : 1;
  const LoadReport loaded = load_weights(ctx, *checkpoint, weights, options.load);
  if (panels) weights.to_panels(ctx, config);
  if (report != nullptr) {
    *report = loaded;
    report->resident_share = resident_share;
  }
  return std::make_unique<Model>(config, policy, std::move(weights),
                                 num_positions(config, max_positions));
}

}  // namespace fathom
