// Checkpoints as the world knows them: a folder with config.json and model.safetensors, or shards
// with model.safetensors.index.json. docs/formats/checkpoint.md describes the layout.
//
// Loading is strict both ways: every parameter of the configuration is there with its shape, and
// nothing is left over. Copies (the embedding and head of MTP modules, a tied head) must equal what
// they stand for, bit for bit. FP8 weights are dequantised by their 128x128 weight_scale_inv.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ckpt/safetensors.h"
#include "core/file.h"
#include "model/config.h"
#include "model/parameters.h"
#include "runtime/context.h"

namespace fathom {

struct StoredTensor {
  const SafetensorsEntry* entry = nullptr;
  const SafetensorsReader* shard = nullptr;
};

class CheckpointReader {
 public:
  // A folder is read as long as this object lives; its files are mapped, not copied.
  // Reads config.json and the header of every shard, and checks that index and shards agree.
  CheckpointReader(FileSystem& files, std::string directory);

  const std::string& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;
  int64_t num_shards() const { return static_cast<int64_t>(shards_.size()); }
  int64_t file_bytes() const;     // of all shards
  double resident_share() const;  // of them, in memory now (core/mapped_memory.h)
  // Whether any tensor of the MTP modules is stored.
  bool has_mtp_tensors() const;

 private:
  std::string directory_;
  ModelConfig config_;
  std::vector<std::unique_ptr<SafetensorsReader>> shards_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

struct LoadOptions {
  // A configuration with MTP modules but a folder without their tensors (inference-only exports) is
  // an error unless this is set; then the model is loaded without them.
  bool allow_missing_mtp = false;
  // Leave the MTP modules unread.
  bool skip_mtp = false;
  // A parameter that is not finite is an error that names it.
  bool check_finite = true;
  // Round dequantised FP8 weights to bf16 (as DeepSeek's own conversion does) also where the
  // parameters are kept in a wider type.
  bool round_fp8_to_bf16 = false;
  // Stored bytes that were read into memory of our own, of how many. From any thread, one at a
  // time.
  std::function<void(int64_t done, int64_t total)> progress;  // may be empty
};

// What load_weights did, for the log.
struct LoadReport {
  int64_t num_parameters_loaded = 0;  // tensors
  int64_t num_elements = 0;
  int64_t num_dequantised = 0;
  int64_t num_mapped = 0;                      // used where they lie in the file
  int64_t mapped_bytes = 0, copied_bytes = 0;  // as stored
  double resident_share = 1;                   // of the files, in memory before anything was loaded
  int64_t num_converted = 0;                   // read in another dtype than stored, FP8 apart
  std::vector<std::string> copies;             // aliases found equal to their target
  std::vector<std::string>
      ignored;  // derived buffers (rotary_emb.inv_freq) and skipped MTP tensors
  std::map<std::string, int64_t> tensors_by_dtype;  // as stored
};

// One tensor that a configuration wants in its folder.
struct ExpectedTensor {
  enum class Role { kParameter, kCopy, kScale, kPanelScale };
  Role role = Role::kParameter;
  Shape shape;
  bool may_be_fp8 = false;
  bool may_be_panels = false;  // NAME and NAME_scale as ckpt/panel_tensors.h has them
  bool optional =
      false;  // a tied head, which most writers leave out; scales, which come with FP8 only
  bool mtp = false;
  std::string target;  // of a copy or a scale
};
// Everything that may stand in a folder of this configuration, by name. Published DeepSeek-V3 has
// exactly these 91,991 names.
std::map<std::string, ExpectedTensor, std::less<>> expected_tensors(const ModelConfig& config);

// What in a folder does not fit its configuration; empty: all is well. Shared by loading and
// inspect.
struct ManifestProblems {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> malformed;  // wrong shape or dtype, with what was expected
  bool empty() const { return missing.empty() && unexpected.empty() && malformed.empty(); }
};
ManifestProblems check_manifest(const CheckpointReader& reader, const LoadOptions& options);
// An Error that counts and names them.
void require_manifest(const CheckpointReader& reader, const LoadOptions& options);

// The configuration that load_weights fills under these options: the folder's, without MTP modules
// where they are skipped or allowed to miss.
ModelConfig config_to_load(const CheckpointReader& reader, const LoadOptions& options = {});

// Fills `parameters`, which must be made of parameter_specs(config_to_load(reader, options)),
// tensor by tensor; no second copy is made. Parameters with 128x128 scales take published FP8 codes
// and scales as they are; other weights are quantised. Panels are copied where the parameter lies
// in panels and decoded elsewhere. Mapped parameters stay as they are; of them only scales are
// checked to be finite, since reading all of them is what mapping avoids.
LoadReport load_weights(Context& ctx, const CheckpointReader& reader, ParameterSet& parameters,
                        const LoadOptions& options = {});

struct SaveOptions {
  DType dtype = DType::kBF16;  // F32, BF16 or F16; e_score_correction_bias is always F32
  int64_t max_shard_bytes = int64_t{5} << 30;
  // Further files of the folder, by name: tokenizer.json, tokenizer_config.json ...
  std::map<std::string, std::string> extra_files;
};

// Writes config.json, generation_config.json and the weights into an existing folder, each file
// synced; the folder itself is the caller's transaction. `parameters` are those of `config`.
void write_hf_files(FileSystem& files, const std::string& folder, const ModelConfig& config,
                    const ParameterSet& parameters, const SaveOptions& options = {});

// config.json and generation_config.json alone, for weights of `dtype` that others write.
void write_hf_configuration(FileSystem& files, const std::string& folder, const ModelConfig& config,
                            DType dtype);

// The same as one transaction: `directory` appears or is replaced as a whole, or stays as it was.
void save_hf_folder(FileSystem& files, const std::string& directory, const ModelConfig& config,
                    const ParameterSet& parameters, const SaveOptions& options = {});

}  // namespace fathom
