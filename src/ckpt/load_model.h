// A Model ready to run, from a checkpoint folder.
#pragma once

#include <memory>
#include <string>

#include "ckpt/gguf_checkpoint.h"
#include "ckpt/hf_folder.h"
#include "model/model.h"

namespace fathom {

// `max_positions` bounds the rotation table (0: the configuration's context). `report` may be null.
std::unique_ptr<Model> load_model(Context& ctx, FileSystem& files, const std::string& folder,
                                  const Policy& policy, int64_t max_positions = 0,
                                  const LoadOptions& options = {}, LoadReport* report = nullptr);

// The same for a folder or a GGUF file, whose numbers are decoded to those of the policy; `report`
// (may be null) is empty for a folder.
std::unique_ptr<Model> load_any_model(Context& ctx, FileSystem& files, const std::string& path,
                                      const Policy& policy, int64_t max_positions,
                                      const LoadOptions& options, GgufLoadReport* report);

// The same for inference: weights keep the format that they are stored in where products read it
// (place_weights.h), and are used where they lie in the mapped files, so that a start reads only
// what the first tokens touch. The files must stay as they are while the model lives; if one
// shrinks nevertheless, check_mapped_memory() (core/mapped_memory.h) says so.
struct InferenceOptions {
  LoadOptions load;
  bool map = true;  // false: everything is copied into memory
  // For use over many tokens: weights of bf16 and FP8 are copied and brought into panels, where the
  // processor has products for them and they take at most kPanelMemoryShare (place_weights.h) of
  // the memory that is free. The start then reads all of them.
  bool panels = false;
};
std::unique_ptr<Model> load_for_inference(Context& ctx, FileSystem& files,
                                          const std::string& folder, const Policy& policy,
                                          int64_t max_positions = 0,
                                          const InferenceOptions& options = {},
                                          LoadReport* report = nullptr);

}  // namespace fathom
