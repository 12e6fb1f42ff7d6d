#include "train/sharded_checkpoint.h"

#include <map>
#include <numeric>
#include <optional>

#include "ckpt/folder_transaction.h"
#include "ckpt/hf_folder.h"
#include "ckpt/hf_shards.h"
#include "train/checkpoint_internal.h"

namespace fathom {
namespace {

using namespace checkpoint_internal;
using Kind = ShardedOptimizer::Kind;

struct KindFile {
  Kind kind;
  const char* stem;
};

std::vector<KindFile> kinds_of(const DistributedStep& step) {
  std::vector<KindFile> kinds = {{Kind::kMaster, "master"},
                                 {Kind::kFirstMoment, "first_moments"},
                                 {Kind::kSecondMoment, "second_moments"}};
  if (step.optimizer().has_average()) kinds.push_back({Kind::kAverage, "average"});
  return kinds;
}

std::string share(const Communicator& world, const std::string& text) {
  auto size = static_cast<int64_t>(text.size());
  world.broadcast<int64_t>(0, std::span<int64_t>(&size, 1));
  std::string shared = text;
  shared.resize(static_cast<size_t>(size));
  world.broadcast<char>(0, shared);
  return shared;
}

// Which of how many files of a kind is this rank's: only ranks that have tensors write one.
struct FileNumber {
  int64_t number = 0, total = 0;

  std::string file(const std::string& stem) const {
    return total == 1 ? stem + ".safetensors"
                      : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, number, total);
  }
};

FileNumber number_among(const Communicator& world, bool has_any) {
  const std::vector<int64_t> all = world.exchange_counts(
      std::vector<int64_t>(static_cast<size_t>(world.size()), has_any ? 1 : 0));
  return {std::accumulate(all.begin(), all.begin() + world.rank() + 1, int64_t{0}),
          std::accumulate(all.begin(), all.end(), int64_t{0})};
}

struct NamedTensor {
  std::string name;  // as stored: a parameter's or that of a copy
  DType dtype;
  const TensorView* view;
};

void write_tensors(FileSystem& files, const std::string& path,
                   const std::vector<NamedTensor>& tensors) {
  std::vector<SafetensorsItem> items;
  std::map<std::string, const TensorView*> views;
  for (const NamedTensor& t : tensors) {
    items.push_back({t.name, t.dtype, t.view->shape});
    views[t.name] = t.view;
  }
  SafetensorsWriter writer(files, path, std::move(items));
  for (const SafetensorsItem& item : writer.items()) writer.write(*views.at(item.name));
  writer.finish();
}

// Own tensors of the folder that anyone can load, with the copies that it has of some.
std::vector<NamedTensor> stored_tensors(const Model& model, const TensorPortion& master) {
  const DType dtype = stored_dtype(model.policy());
  std::vector<NamedTensor> tensors;
  for (const TensorView& view : master.tensors) {
    const bool is_bias = master.router_biases.contains(view.name);
    tensors.push_back({view.name, is_bias ? DType::kF32 : dtype, &view});
    for (const ParameterAlias& alias : parameter_aliases(model.config())) {
      if (alias.target == view.name) tensors.push_back({alias.name, dtype, &view});
    }
  }
  return tensors;
}

}  // namespace

void save_sharded_checkpoint(FileSystem& files, const Communicator& world,
                             const std::string& run_folder, const TrainingState& state,
                             DistributedStep& step, const CheckpointExtras& extras) {
  std::optional<FolderTransaction> transaction;
  if (world.rank() == 0) {
    files.make_directories(checkpoints_folder(run_folder));
    transaction.emplace(files,
                        join_path(checkpoints_folder(run_folder), checkpoint_name(state.step)));
    files.make_directories(join_path(transaction->path(), "training"));
  }
  const std::string folder = share(world, transaction ? transaction->path() : "");
  // What this rank wrote: {"files": {name: {bytes, hash}}, "weights": {tensor: file}, "bytes": n}.
  Json written{{"files", Json::object()}, {"weights", Json::object()}, {"bytes", 0}};
  const auto note = [&](const std::string& name) {
    const std::string path = join_path(folder, name);
    written["files"][name] = {{"bytes", files.info(path).bytes},
                              {"xxh3_128", hash_file(files, path)}};
  };
  for (const KindFile& kind : kinds_of(step)) {
    const TensorPortion own = step.own_portion(kind.kind);
    const FileNumber number = number_among(world, !own.tensors.empty());
    if (own.tensors.empty()) continue;
    std::vector<NamedTensor> tensors;
    for (const TensorView& view : own.tensors) tensors.push_back({view.name, view.dtype, &view});
    const std::string name = number.file(std::string("training/") + kind.stem);
    write_tensors(files, join_path(folder, name), tensors);
    note(name);
    if (kind.kind != Kind::kMaster) continue;
    const std::vector<NamedTensor> stored = stored_tensors(step.model(), own);
    const std::string model_name = number.file("model");
    write_tensors(files, join_path(folder, model_name), stored);
    note(model_name);
    int64_t bytes = 0;
    for (const NamedTensor& t : stored) {
      written["weights"][t.name] = model_name;
      bytes += t.view->num_elements() * dtype_bytes(t.dtype);
    }
    written["bytes"] = bytes;
  }
  const std::vector<std::string> all = world.gather_text(written.dump());
  if (!transaction) return;

  Json object = state_to_json(state);
  Json index{{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  int64_t total = 0, writers = 0;
  for (const std::string& text : all) {
    const Json of_rank = parse_json(text, "a rank's list of files");
    object["files"].update(of_rank["files"]);
    index["weight_map"].update(of_rank["weights"]);
    total += of_rank["bytes"].get<int64_t>();
    writers += of_rank["weights"].empty() ? 0 : 1;
  }
  index["metadata"]["total_size"] = total;
  write_hf_configuration(files, folder, step.model().config(), stored_dtype(step.model().policy()));
  if (extras.tokenizer != nullptr) save_tokenizer(files, *extras.tokenizer, folder);
  for (const auto& [name, contents] : extras.files) transaction->write_file(name, contents);
  if (writers > 1) transaction->write_file("model.safetensors.index.json", index.dump(2) + "\n");
  for (const std::string& name : files.list(folder)) {
    const std::string path = join_path(folder, name);
    if (object["files"].contains(name) || files.info(path).is_directory) continue;
    object["files"][name] = {{"bytes", files.info(path).bytes},
                             {"xxh3_128", hash_file(files, path)}};
  }
  transaction->write_file(kStateFile, object.dump(1) + "\n");
  files.sync_directory(join_path(folder, "training"));
  transaction->commit();
}

void load_sharded_tensors(FileSystem& files, const Communicator& world,
                          const std::string& checkpoint_folder, DistributedStep& step) {
  const std::string folder = share(world, checkpoint_folder);
  const std::vector<ParameterSpec> specs = parameter_specs(step.model().config());
  int64_t num_biases = 0;
  for (const ParameterSpec& spec : specs)
    num_biases += spec.kind == ParameterKind::kRouterBias ? 1 : 0;
  for (const KindFile& kind : kinds_of(step)) {
    const TensorFiles tensors(files, folder, kind.stem);
    const bool with_biases = kind.kind == Kind::kMaster || kind.kind == Kind::kAverage;
    tensors.expect_count(static_cast<int64_t>(specs.size()) - (with_biases ? 0 : num_biases));
    step.take_tensors(kind.kind, [&](const std::string& name, DType dtype, const Shape& shape) {
      const auto [reader, entry] = tensors.at(name, dtype, shape);
      return reader->bytes(*entry);
    });
  }
  step.refresh_weights();
}

}  // namespace fathom
