// What one process and many ranks share in writing and reading training checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ckpt/safetensors.h"
#include "core/json.h"
#include "train/checkpoint.h"

namespace fathom::checkpoint_internal {

inline constexpr const char* kStateFile = "training/state.json";

std::string checkpoints_folder(const std::string& run_folder);
std::string hash_file(FileSystem& files, const std::string& path);
// state.json, but for the list of files.
Json state_to_json(const TrainingState& state);
DType stored_dtype(const Policy& policy);  // of the weights that anyone can load

// The tensors of one kind of state: training/STEM.safetensors, or training/STEM-00001-of-00004
// and so on, each tensor whole in one of them.
class TensorFiles {
 public:
  TensorFiles(FileSystem& files, const std::string& checkpoint_folder, const std::string& stem);
  // An Error unless it is there with this type and shape.
  std::pair<const SafetensorsReader*, const SafetensorsEntry*> at(const std::string& name,
                                                                  DType dtype,
                                                                  const Shape& shape) const;
  // An Error when there are more or fewer than the model has.
  void expect_count(int64_t num_tensors) const;

 private:
  std::string where_;
  std::vector<std::unique_ptr<SafetensorsReader>> readers_;
};

}  // namespace fathom::checkpoint_internal
