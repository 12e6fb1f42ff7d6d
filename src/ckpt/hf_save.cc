#include "ckpt/folder_transaction.h"
#include "ckpt/hf_folder.h"
#include "ckpt/hf_shards.h"
#include "core/json.h"
#include "model/config_json.h"

namespace fathom {
namespace {

std::string_view torch_dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      FATHOM_CHECK(false, "checkpoints are written in f32, bf16 or f16, not {}", dtype_name(dtype));
  }
}

std::string generation_config_json(const ModelConfig& config) {
  nlohmann::json root;
  root["_from_model_config"] = true;
  root["bos_token_id"] = config.bos_token_id;
  root["eos_token_id"] = config.eos_token_id;
  return root.dump(2) + "\n";
}

}  // namespace

void write_hf_configuration(FileSystem& files, const std::string& folder, const ModelConfig& config,
                            DType dtype) {
  ModelConfig stored = config;
  stored.torch_dtype = torch_dtype_name(dtype);
  stored.fp8_block_rows = stored.fp8_block_cols = 0;
  stored.weight_panels = false;
  validate(stored, "configuration to save");
  write_synced(files, join_path(folder, "generation_config.json"), generation_config_json(config));
  write_synced(files, join_path(folder, "config.json"), to_config_json(stored));
}

void write_hf_files(FileSystem& files, const std::string& folder, const ModelConfig& config,
                    const ParameterSet& parameters, const SaveOptions& options) {
  std::map<std::string, std::string, std::less<>> source;  // stored name -> parameter
  std::vector<SafetensorsItem> items;
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const ParameterSpec& spec = parameters.spec(i);
    const DType dtype = spec.kind == ParameterKind::kRouterBias ? DType::kF32 : options.dtype;
    items.push_back({spec.name, dtype, spec.shape});
    source[spec.name] = spec.name;
  }
  for (const ParameterAlias& alias : parameter_aliases(config)) {
    items.push_back({alias.name, options.dtype, parameters[alias.target].shape});
    source[alias.name] = alias.target;
  }

  write_shards(files, folder, items, options.max_shard_bytes,
               [&](const SafetensorsItem& item) { return parameters[source.at(item.name)]; });
  for (const auto& [name, contents] : options.extra_files) {
    FATHOM_CHECK(!name.empty() && name.find('/') == std::string::npos && name != "config.json" &&
                     name != "generation_config.json" && name.rfind("model", 0) != 0,
                 "'{}' cannot be a further file of a checkpoint", name);
    write_synced(files, join_path(folder, name), contents);
  }
  write_hf_configuration(files, folder, config, options.dtype);
}

void save_hf_folder(FileSystem& files, const std::string& directory, const ModelConfig& config,
                    const ParameterSet& parameters, const SaveOptions& options) {
  FolderTransaction transaction(files, directory);
  write_hf_files(files, transaction.path(), config, parameters, options);
  transaction.commit();
}

}  // namespace fathom
