// Opening a model, as every verb does it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ckpt/expert_tier.h"
#include "ckpt/load_model.h"
#include "model/training_pass.h"

namespace fathom::cli {

class CommandLine;

// `folder` may be a GGUF file: standard error says what was decoded, into how much, and how long it
// took. A folder whose config.json names MTP modules but that holds none of their tensors (as
// transformers writes) is opened without them, and standard error says so. skip_mtp leaves them out
// silently: for what has no use for them.
// For inference weights stay as they are stored, in the mapped files, wherever products read that
// (ckpt/place_weights.h); for long use bf16 weights lie in panels in memory (InferenceOptions);
// gradients need them in the policy's formats. What takes longer than a second shows how far it is
// on standard error, and says how fast it was and how much of the folder lay on the disk.
enum class ModelUse { kInference, kLongInference, kGradients };
// With expert_memory (GB) above 0 the routed experts stay on disk but for so much (ExpertTier).
std::unique_ptr<Model> open_model(Context& ctx, const std::string& folder,
                                  const std::string& precision, bool skip_mtp = false,
                                  ModelUse use = ModelUse::kInference, double expert_memory = 0);
void declare_expert_memory(CommandLine& line, double& gigabytes);

// `--expert-memory GB`: the model's routed experts from a tier of this size while this lives; what
// came of it goes to standard error at the end. 0: nothing.
class ExpertMemory {
 public:
  ExpertMemory(Model& model, double gigabytes);
  ~ExpertMemory();
  ExpertMemory(const ExpertMemory&) = delete;
  ExpertMemory& operator=(const ExpertMemory&) = delete;

 private:
  Model& model_;
  std::unique_ptr<ExpertTier> tier_;
};

// Rows of token ids from a file, as one batch for `model`; each row must be longer than the model
// has MTP modules by at least `min_labels`.
struct TokenRows {
  int64_t num_rows = 0, row_length = 0;
  std::vector<int32_t> tokens;

  TokenBatch batch() const {
    return {.num_rows = num_rows,
            .context = row_length,
            .row_length = row_length,
            .tokens = tokens.data()};
  }
};
TokenRows read_token_rows(const std::string& path, const Model& model, int64_t min_labels);

}  // namespace fathom::cli
