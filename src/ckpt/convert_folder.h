// A checkpoint folder in another number format, tensor by tensor: never more than one tensor in
// memory, so that the 671B checkpoint converts on a laptop.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ckpt/hf_folder.h"

namespace fathom {

enum class FolderFormat {
  kBf16,      // FP8 weights dequantised, as DeepSeek's own conversion does
  kFp8Block,  // DeepSeek's published layout: Linears of attention and experts in E4M3 with a
              // 128x128 weight_scale_inv, everything else in bf16
  // For inference with Fathom (docs/formats/panels.md): Linears and the head in panels of codes,
  // used where they lie; embedding, eh_proj, norms and router as they were. kInt4 keeps the head
  // and kv_b_proj at 8 bits (ckpt/panel_tensors.h), kAllInt4 does not.
  kInt8,
  kInt4,
  kAllInt4,
};

struct ConvertReport {
  int64_t num_tensors = 0, num_quantised = 0, num_dequantised = 0;
  int64_t num_weighted = 0;                   // quantised by importance
  int64_t bytes_before = 0, bytes_after = 0;  // of the weights
};

struct ConvertOptions {
  int64_t max_shard_bytes = int64_t{5} << 30;
  std::function<void(int64_t done, int64_t total)> progress;  // tensors; may be empty
  std::function<bool()> should_stop;                          // may be empty
  // Of the columns of a parameter, for those in panels (kernels/panel.h); null: all alike. Called
  // from one thread.
  std::function<const std::vector<float>*(const std::string& name)> importance;  // may be empty
  std::map<std::string, std::string> extra_files;  // further files of the folder, by name
};

// Writes `directory` as a whole or not at all (it must not exist or be replaceable): weights,
// config.json with its quantization_config set or taken out and every other key kept, and the
// other files of the source folder. Weights that are FP8 already are copied as they are. Stopped:
// nothing is written, and the report's num_tensors is 0.
ConvertReport convert_folder(Context& ctx, FileSystem& files, const std::string& source,
                             const std::string& directory, FolderFormat format,
                             const ConvertOptions& options = {});

}  // namespace fathom
