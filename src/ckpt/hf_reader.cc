// Opening a folder: config.json, the index, the header of every shard, and that they agree.
#include "ckpt/hf_folder.h"
#include "core/json.h"
#include "model/config_json.h"

namespace fathom {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// name -> shard file, as the index says.
std::map<std::string, std::string, std::less<>> read_index(const std::string& text,
                                                           const std::string& where) {
  const Json root = parse_json(text, where);
  if (!root.is_object()) throw_bad_input({where, "", describe_json(root), "an object", ""});
  const auto found = root.find("weight_map");
  if (found == root.end() || !found->is_object()) {
    throw_bad_input({where, "weight_map", found == root.end() ? "nothing" : describe_json(*found),
                     "an object", ""});
  }
  std::map<std::string, std::string, std::less<>> map;
  for (const auto& [name, file] : found->items()) {
    const std::string field = "weight_map." + name;
    if (!file.is_string()) throw_bad_input({where, field, describe_json(file), "a file name", ""});
    const std::string& shard = file.get_ref<const std::string&>();
    // A shard lies in the folder itself: an index must not lead elsewhere.
    if (shard.empty() || shard.find('/') != std::string::npos || shard == "." || shard == "..") {
      throw_bad_input({where, field, describe_json(file), "a plain file name", ""});
    }
    map.emplace(name, shard);
  }
  if (map.empty())
    throw_bad_input({where, "weight_map", "no tensor", "the tensors of the model", ""});
  return map;
}

}  // namespace

CheckpointReader::CheckpointReader(FileSystem& files, std::string directory)
    : directory_(std::move(directory)) {
  if (!files.info(directory_).is_directory) {
    const bool moved = files.info(directory_ + ".old").is_directory;
    throw_bad_input({directory_, "", files.info(directory_).exists ? "a file" : "nothing",
                     "a model folder",
                     moved ? directory_ + ".old is what an interrupted save left behind" : ""});
  }
  const std::string config_path = join_path(directory_, "config.json");
  config_ = parse_config_json(files.read_all(config_path), config_path);

  const std::string index_path = join_path(directory_, kIndexFile);
  const std::string single_path = join_path(directory_, kSingleFile);
  const bool has_index = files.info(index_path).exists;
  const bool has_single = files.info(single_path).exists;
  if (!has_index) {
    if (!has_single) {
      throw_bad_input(
          {directory_, "", "no weights", fmt::format("{} or {}", kSingleFile, kIndexFile), ""});
    }
    shards_.push_back(std::make_unique<SafetensorsReader>(files, single_path));
    for (const SafetensorsEntry& entry : shards_[0]->entries())
      tensors_[entry.name] = {&entry, shards_[0].get()};
    return;
  }

  const auto index = read_index(files.read_all(index_path), index_path);
  std::map<std::string, SafetensorsReader*> by_file;
  for (const auto& [name, file] : index) {
    SafetensorsReader*& shard = by_file[file];
    if (shard == nullptr) {
      const std::string path = join_path(directory_, file);
      if (!files.info(path).exists) {
        throw_bad_input({path, "", "no such file",
                         "the shard that " + std::string(kIndexFile) + " names for " + name, ""});
      }
      shards_.push_back(std::make_unique<SafetensorsReader>(files, path));
      shard = shards_.back().get();
    }
    const SafetensorsEntry* entry = shard->find(name);
    if (entry == nullptr) {
      throw_bad_input(
          {shard->path(), name, "no such tensor", "it", "the index says that it is in this shard"});
    }
    tensors_[name] = {entry, shard};
  }
  for (const auto& shard : shards_) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      const auto found = index.find(entry.name);
      if (found == index.end() || found->second != base_name(shard->path())) {
        throw_bad_input(
            {shard->path(), entry.name, "a tensor in this shard",
             found == index.end() ? "none of this name in the index" : "it in " + found->second,
             ""});
      }
    }
  }
  if (has_single && by_file.count(kSingleFile) == 0) {
    throw_bad_input({single_path, "", "a file that the index does not name",
                     "either the index or this file", "which of the two is meant?"});
  }
}

const StoredTensor* CheckpointReader::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

int64_t CheckpointReader::file_bytes() const {
  int64_t total = 0;
  for (const auto& shard : shards_) total += shard->file_bytes();
  return total;
}

double CheckpointReader::resident_share() const {
  double resident = 0;
  for (const auto& shard : shards_)
    resident += shard->resident_share() * static_cast<double>(shard->file_bytes());
  return resident / static_cast<double>(std::max<int64_t>(file_bytes(), 1));
}

bool CheckpointReader::has_mtp_tensors() const {
  for (int64_t k = 0; k < config_.num_nextn_predict_layers; ++k) {
    const std::string prefix = fmt::format("model.layers.{}.", config_.num_hidden_layers + k);
    const auto first = tensors_.lower_bound(prefix);
    if (first != tensors_.end() && first->first.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

}  // namespace fathom
