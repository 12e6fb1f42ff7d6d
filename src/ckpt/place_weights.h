// Where the weights of a checkpoint folder go for inference: as they lie in the mapped files
// wherever their format is one that products read, in memory of our own otherwise.
#pragma once

#include <memory>
#include <vector>

#include "ckpt/hf_folder.h"
#include "model/policy.h"

namespace fathom {

// A parameter keeps its stored format where that is the policy's own, DeepSeek's FP8 blocks, or
// panels; then it is also left where it is mapped, when the parameters that a product reads as one
// (or as a stack of experts) lie in the files so that they join. Kept apart: kv_b_proj, which is
// read by head and transposed (the policy's format), and what goes into one product from different
// formats. Policies other than bf16 with plain products keep nothing.
//
// `map` false: formats are kept, but everything is copied into memory of our own.
std::vector<ParameterPlace> place_weights(const CheckpointReader& reader,
                                          const std::vector<ParameterSpec>& specs,
                                          const Policy& policy, bool map);

// For long use: takes the mapped weights that panels can hold (fit_for_panels) into memory of our
// own, where they take at most kPanelMemoryShare of what is free; false, and nothing changes, where
// they take more.
inline constexpr double kPanelMemoryShare = 0.7;
bool copy_for_panels(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                     int64_t available_bytes, std::vector<ParameterPlace>& places);

}  // namespace fathom
