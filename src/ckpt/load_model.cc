#include "ckpt/load_model.h"

#include <algorithm>

namespace fathom {

std::unique_ptr<Model> load_model(Context& ctx, FileSystem& files, const std::string& folder,
                                  const Policy& policy, int64_t max_positions,
                                  const LoadOptions& options, LoadReport* report) {
  const CheckpointReader checkpoint(files, folder);
  const ModelConfig config = config_to_load(checkpoint, options);
  const int64_t positions = max_positions > 0
                                ? std::min(max_positions, config.max_position_embeddings)
                                : config.max_position_embeddings;
  auto model = std::make_unique<Model>(config, policy, positions);
  const LoadReport loaded = load_weights(ctx, checkpoint, model->weights(), options);
  if (report != nullptr) *report = loaded;
  return model;
}

}  // namespace fathom
