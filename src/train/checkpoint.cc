#include "train/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <set>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "ckpt/folder_transaction.h"
#include "ckpt/hf_folder.h"
#include "ckpt/safetensors.h"
#include "core/json.h"
#include "train/checkpoint_internal.h"

namespace fathom {

namespace checkpoint_internal {

std::string checkpoints_folder(const std::string& run_folder) {
  return join_path(run_folder, "checkpoints");
}

std::string hash_file(FileSystem& files, const std::string& path) {
  const auto file = files.map(path);
  const XXH128_hash_t hash = XXH3_128bits(file->bytes().data(), file->bytes().size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

DType stored_dtype(const Policy& policy) {
  return policy.weights == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

TensorFiles::TensorFiles(FileSystem& files, const std::string& checkpoint_folder,
                         const std::string& stem)
    : where_(join_path(checkpoint_folder, "training/" + stem)) {
  const std::string folder = join_path(checkpoint_folder, "training");
  for (const std::string& name : files.list(folder)) {
    const bool is_part = name.rfind(stem + "-", 0) == 0 && name.ends_with(".safetensors");
    if (name == stem + ".safetensors" || is_part)
      readers_.push_back(std::make_unique<SafetensorsReader>(files, join_path(folder, name)));
  }
}

std::pair<const SafetensorsReader*, const SafetensorsEntry*> TensorFiles::at(
    const std::string& name, DType dtype, const Shape& shape) const {
  for (const auto& reader : readers_) {
    const SafetensorsEntry* entry = reader->find(name);
    if (entry == nullptr) continue;
    // Strict, or the run would go on as another one.
    if (entry->dtype != dtype || entry->shape != shape) {
      throw_bad_input(
          {.where = reader->path(),
           .field = name,
           .found = fmt::format("{} {}", dtype_name(entry->dtype), to_string(entry->shape)),
           .expected = fmt::format("{} {}", dtype_name(dtype), to_string(shape))});
    }
    return {reader.get(), entry};
  }
  throw_bad_input({.where = where_,
                   .field = name,
                   .found = "no such tensor",
                   .expected = "one for every parameter of the model"});
}

void TensorFiles::expect_count(int64_t num_tensors) const {
  int64_t found = 0;
  for (const auto& reader : readers_) found += static_cast<int64_t>(reader->entries().size());
  if (found == num_tensors) return;
  throw_bad_input({.where = where_,
                   .found = fmt::format("{} tensors", found),
                   .expected = fmt::format("{}, those of the model", num_tensors)});
}

}  // namespace checkpoint_internal

using namespace checkpoint_internal;

namespace {

constexpr int64_t kFormatVersion = 1;
constexpr std::string_view kPrefix = "step-";
constexpr size_t kDigits = 8;
// Behind a checkpoint's name while it is being written (by FolderTransaction) and deleted.
constexpr std::string_view kSaving = ".tmp-save", kDeleting = ".tmp-delete";

// Names of all files below `folder`, as "name" or "training/name", sorted.
std::vector<std::string> files_below(FileSystem& files, const std::string& folder,
                                     const std::string& prefix = "") {
  std::vector<std::string> names;
  for (const std::string& name : files.list(join_path(folder, prefix))) {
    const std::string below = prefix + name;
    if (files.info(join_path(folder, below)).is_directory) {
      const auto inner = files_below(files, folder, below + "/");
      names.insert(names.end(), inner.begin(), inner.end());
    } else {
      names.push_back(below);
    }
  }
  return names;
}

struct NamedSet {
  const char* stem;
  ParameterSet* set;
  bool with_router_bias;
};

// The tensors of the training state, in the order of files.
std::vector<NamedSet> tensor_files(const TrainingTensors& all) {
  std::vector<NamedSet> sets = {{"master", all.master, true},
                                {"first_moments", all.first_moments, false},
                                {"second_moments", all.second_moments, false}};
  if (all.average != nullptr) sets.push_back({"average", all.average, true});
  return sets;
}

bool belongs(const NamedSet& named, int64_t i) {
  return named.with_router_bias || named.set->spec(i).kind != ParameterKind::kRouterBias;
}

void write_set(FileSystem& files, const std::string& path, const NamedSet& named) {
  std::vector<SafetensorsItem> items;
  for (int64_t i = 0; i < named.set->size(); ++i) {
    if (belongs(named, i))
      items.push_back(
          {named.set->spec(i).name, named.set->view(i).dtype, named.set->spec(i).shape});
  }
  SafetensorsWriter writer(files, path, std::move(items));
  for (const SafetensorsItem& item : writer.items()) writer.write((*named.set)[item.name]);
  writer.finish();
}

// Strict both ways: the same names, shapes and dtypes.
void read_set(FileSystem& files, const std::string& folder, const NamedSet& named) {
  const TensorFiles tensors(files, folder, named.stem);
  int64_t expected = 0;
  for (int64_t i = 0; i < named.set->size(); ++i) {
    if (!belongs(named, i)) continue;
    ++expected;
    const TensorView& view = named.set->view(i);
    const ParameterSpec& spec = named.set->spec(i);
    const auto [reader, entry] = tensors.at(spec.name, view.dtype, spec.shape);
    reader->read_converted(*entry, view);
  }
  tensors.expect_count(expected);
}

// The step of "step-00000120"; nullopt for any other name.
std::optional<int64_t> step_of_name(std::string_view name) {
  if (name.size() != kPrefix.size() + kDigits || name.substr(0, kPrefix.size()) != kPrefix)
    return std::nullopt;
  int64_t step = 0;
  for (const char c : name.substr(kPrefix.size())) {
    if (c < '0' || c > '9') return std::nullopt;
    step = 10 * step + (c - '0');
  }
  return step;
}

Json read_state_json(FileSystem& files, const std::string& folder) {
  const std::string path = join_path(folder, kStateFile);
  Json state = parse_json(files.read_all(path), path);
  if (!state.is_object())
    throw_bad_input({.where = path, .found = describe_json(state), .expected = "an object"});
  return state;
}

template <typename T>
T required(const Json& object, const char* name, const std::string& where) {
  const auto it = object.find(name);
  const bool fits = it != object.end() &&
                    (std::is_same_v<T, std::string> ? it->is_string() : it->is_number_integer());
  if (!fits) {
    throw_bad_input({.where = where,
                     .field = name,
                     .found = it == object.end() ? "no such key" : describe_json(*it),
                     .expected = std::is_same_v<T, std::string> ? "a string" : "an integer"});
  }
  return it->template get<T>();
}

Json cursor_to_json(const LoaderCursor& cursor) {
  Json json{{"epoch", cursor.epoch}, {"row", cursor.row}};
  if (!cursor.window) return json;
  Json carried = Json::array();
  for (const WindowStart::Carried& piece : cursor.window->carried)
    carried.push_back({piece.position, piece.begin, piece.count});
  json["window"] = {{"position", cursor.window->position},
                    {"first_row", cursor.window->first_row},
                    {"num_draws", cursor.window->num_draws},
                    {"carried", std::move(carried)}};
  return json;
}

LoaderCursor cursor_from_json(const Json& json, const std::string& where) {
  LoaderCursor cursor{required<int64_t>(json, "epoch", where),
                      required<int64_t>(json, "row", where)};
  const auto window = json.find("window");
  if (window == json.end()) return cursor;
  cursor.window = {.position = required<int64_t>(*window, "position", where),
                   .first_row = required<int64_t>(*window, "first_row", where),
                   .num_draws = required<int64_t>(*window, "num_draws", where)};
  const auto carried = window->find("carried");
  const auto is_piece = [](const Json& piece) {
    return piece.is_array() && piece.size() == 3 && piece[0].is_number_integer() &&
           piece[1].is_number_integer() && piece[2].is_number_integer();
  };
  if (carried == window->end() || !carried->is_array() ||
      !std::all_of(carried->begin(), carried->end(), is_piece)) {
    throw_bad_input({.where = where,
                     .field = "cursor.window.carried",
                     .found = "something else",
                     .expected = "a list of [position, begin, count]"});
  }
  for (const Json& piece : *carried) {
    cursor.window->carried.push_back(
        {piece[0].get<int64_t>(), piece[1].get<int64_t>(), piece[2].get<int64_t>()});
  }
  return cursor;
}

// What is wrong with the files of a checkpoint; empty: nothing.
std::string what_is_damaged(FileSystem& files, const std::string& folder) {
  try {
    const Json state = read_state_json(files, folder);
    const auto list = state.find("files");
    if (list == state.end() || !list->is_object()) return "training/state.json lists no files";
    for (const auto& [name, entry] : list->items()) {
      const std::string path = join_path(folder, name);
      const FileInfo info = files.info(path);
      if (!info.exists) return name + " is missing";
      const auto bytes = required<int64_t>(entry, "bytes", name);
      if (info.bytes != bytes)
        return fmt::format("{} has {} bytes instead of {}", name, info.bytes, bytes);
      if (hash_file(files, path) != required<std::string>(entry, "xxh3_128", name))
        return name + " does not match its hash";
    }
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

void visit_fields(CheckpointPolicy& c, ConfigFields& f) {
  f.field("every_steps", c.every_steps, at_least(0),
          "steps between checkpoints; 0: only at the end and on a signal");
  f.field("keep_last", c.keep_last, at_least(1), "newest checkpoints that are kept");
  f.field("keep_every", c.keep_every, at_least(0),
          "steps divisible by this are kept for ever; 0: none");
}

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:0{}}", kPrefix, step, kDigits);
}

Json checkpoint_internal::state_to_json(const TrainingState& state) {
  Json object = Json::object();
  object["format_version"] = kFormatVersion;
  object["step"] = state.step;
  object["tokens"] = state.tokens;
  object["seed"] = state.seed;
  object["cursor"] = cursor_to_json(state.cursor);
  object["data_fingerprint"] = fmt::format("{:016x}", state.data_fingerprint);
  object["log"] = {{"metrics_bytes", state.log.metrics_bytes},
                   {"events_bytes", state.log.events_bytes}};
  object["config"] = parse_json(state.config_json, "configuration");
  object["files"] = Json::object();
  return object;
}

void save_training_checkpoint(FileSystem& files, const std::string& run_folder,
                              const TrainingState& state, StepEngine& step,
                              const CheckpointExtras& extras) {
  const TrainingTensors all = step.collect_tensors();
  const std::string folder = join_path(checkpoints_folder(run_folder), checkpoint_name(state.step));
  files.make_directories(checkpoints_folder(run_folder));
  FolderTransaction transaction(files, folder);
  const std::string& temporary = transaction.path();

  const Model& model = step.model();
  const DType dtype = stored_dtype(model.policy());
  write_hf_files(files, temporary, model.config(), *all.master, {.dtype = dtype});
  if (extras.tokenizer != nullptr) save_tokenizer(files, *extras.tokenizer, temporary);
  for (const auto& [name, contents] : extras.files) transaction.write_file(name, contents);
  files.make_directories(join_path(temporary, "training"));
  for (const NamedSet& named : tensor_files(all))
    write_set(files, join_path(temporary, fmt::format("training/{}.safetensors", named.stem)),
              named);

  Json object = state_to_json(state);
  Json& list = object["files"];
  for (const std::string& name : files_below(files, temporary)) {
    const std::string path = join_path(temporary, name);
    list[name] = {{"bytes", files.info(path).bytes}, {"xxh3_128", hash_file(files, path)}};
  }
  transaction.write_file(kStateFile, object.dump(1) + "\n");
  files.sync_directory(join_path(temporary, "training"));
  transaction.commit();
}

std::vector<int64_t> list_checkpoints(FileSystem& files, const std::string& run_folder,
                                      std::vector<std::string>& skipped) {
  std::vector<int64_t> steps;
  const std::string folder = checkpoints_folder(run_folder);
  if (!files.info(folder).is_directory) return steps;
  for (const std::string& name : files.list(folder)) {
    const std::optional<int64_t> step = step_of_name(name);
    if (!step) continue;
    if (files.info(join_path(join_path(folder, name), kStateFile)).exists) {
      steps.push_back(*step);
    } else {
      skipped.push_back(fmt::format("{} is not complete: it has no training/state.json",
                                    join_path(folder, name)));
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::optional<int64_t> find_latest_checkpoint(FileSystem& files, const std::string& run_folder,
                                              std::vector<std::string>& skipped) {
  const std::vector<int64_t> steps = list_checkpoints(files, run_folder, skipped);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::string folder = join_path(checkpoints_folder(run_folder), checkpoint_name(*step));
    const std::string damage = what_is_damaged(files, folder);
    if (damage.empty()) return *step;
    skipped.push_back(fmt::format("{} is damaged: {}", folder, damage));
  }
  return std::nullopt;
}

TrainingState read_training_state(FileSystem& files, const std::string& checkpoint_folder) {
  const Json object = read_state_json(files, checkpoint_folder);
  const std::string where = join_path(checkpoint_folder, kStateFile);
  const auto version = required<int64_t>(object, "format_version", where);
  if (version != kFormatVersion) {
    throw_bad_input({.where = where,
                     .field = "format_version",
                     .found = std::to_string(version),
                     .expected = std::to_string(kFormatVersion)});
  }
  TrainingState state;
  state.step = required<int64_t>(object, "step", where);
  state.tokens = required<int64_t>(object, "tokens", where);
  state.seed = required<uint64_t>(object, "seed", where);
  const auto nested = [&](const char* name) -> const Json& {
    const auto it = object.find(name);
    if (it == object.end() || !it->is_object())
      throw_bad_input(
          {.where = where, .field = name, .found = "no object", .expected = "an object"});
    return *it;
  };
  state.cursor = cursor_from_json(nested("cursor"), where);
  state.log = {required<int64_t>(nested("log"), "metrics_bytes", where),
               required<int64_t>(nested("log"), "events_bytes", where)};
  const auto fingerprint = required<std::string>(object, "data_fingerprint", where);
  if (fingerprint.size() != 16 ||
      fingerprint.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw_bad_input({.where = where,
                     .field = "data_fingerprint",
                     .found = fingerprint,
                     .expected = "16 hexadecimal digits"});
  }
  state.data_fingerprint = std::stoull(fingerprint, nullptr, 16);
  state.config_json = nested("config").dump();
  return state;
}

void load_training_tensors(FileSystem& files, const std::string& checkpoint_folder,
                           StepEngine& step) {
  const TrainingTensors all = step.room_for_tensors();
  if (all.master != nullptr) {
    for (const NamedSet& named : tensor_files(all)) read_set(files, checkpoint_folder, named);
  }
  step.spread_tensors();
}

void remove_leftovers(FileSystem& files, const std::string& run_folder) {
  const std::string folder = checkpoints_folder(run_folder);
  if (!files.info(folder).is_directory) return;
  for (const std::string& name : files.list(folder)) {
    const size_t digits_end = kPrefix.size() + kDigits;
    if (name.size() <= digits_end || !step_of_name(std::string_view(name).substr(0, digits_end)))
      continue;
    const std::string_view suffix = std::string_view(name).substr(digits_end);
    if (suffix == kSaving || suffix == kDeleting) files.remove_all(join_path(folder, name));
  }
}

void remove_old_checkpoints(FileSystem& files, const std::string& run_folder,
                            const CheckpointPolicy& policy) {
  const std::string folder = checkpoints_folder(run_folder);
  remove_leftovers(files, run_folder);
  std::vector<std::string> skipped;
  const std::vector<int64_t> steps = list_checkpoints(files, run_folder, skipped);
  const auto count = static_cast<int64_t>(steps.size());
  for (int64_t i = 0; i + policy.keep_last < count; ++i) {
    const int64_t step = steps[static_cast<size_t>(i)];
    if (policy.keep_every > 0 && step % policy.keep_every == 0) continue;
    // Renamed first: a process that dies while deleting must not leave half a checkpoint under its
    // name.
    const std::string path = join_path(folder, checkpoint_name(step));
    files.rename(path, path + std::string(kDeleting));
    files.remove_all(path + std::string(kDeleting));
  }
}

}  // namespace fathom
