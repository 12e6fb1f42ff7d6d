// A Model ready to run, from a checkpoint folder.
#pragma once

#include <memory>
#include <string>

#include "ckpt/hf_folder.h"
#include "model/model.h"

namespace fathom {

// `max_positions` bounds the rotation table (0: the configuration's context). `report` may be null.
std::unique_ptr<Model> load_model(Context& ctx, FileSystem& files, const std::string& folder,
                                  const Policy& policy, int64_t max_positions = 0,
                                  const LoadOptions& options = {}, LoadReport* report = nullptr);

}  // namespace fathom
