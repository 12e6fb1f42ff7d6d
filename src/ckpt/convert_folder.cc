#include "ckpt/convert_folder.h"

#include <algorithm>

#include "ckpt/convert.h"
#include "ckpt/folder_transaction.h"
#include "ckpt/hf_shards.h"
#include "ckpt/panel_tensors.h"
#include "core/integer.h"
#include "core/json.h"
#include "core/mapped_memory.h"
#include "kernels/panel.h"

namespace fathom {
namespace {

constexpr std::string_view kBlockScaleSuffix = "_scale_inv";

bool ends_with(std::string_view name, std::string_view suffix) {
  return name.size() > suffix.size() && name.ends_with(suffix);
}

// config.json with every key that it has, but for what says how numbers are stored.
std::string converted_config(FileSystem& files, const std::string& path, FolderFormat format) {
  Json config = parse_json(files.read_all(path), path);
  config.erase("quantization_config");
  config.erase("dtype");  // newer transformers' name for the same
  config["torch_dtype"] = "bfloat16";
  if (format == FolderFormat::kFp8Block) {
    config["quantization_config"] = Json{{"activation_scheme", "dynamic"},
                                         {"fmt", "e4m3"},
                                         {"quant_method", "fp8"},
                                         {"weight_block_size", {kScaleTile, kScaleTile}}};
  } else if (format != FolderFormat::kBf16) {
    config["quantization_config"] =
        Json{{"quant_method", "fathom_panels"},
             {"version", "1"},
             {"weights", format == FolderFormat::kInt8 ? "int8" : "int4"}};
  }
  return config.dump(2) + "\n";
}

class Converter {
 public:
  Converter(Context& ctx, const CheckpointReader& reader, FolderFormat format,
            const ConvertOptions& options)
      : ctx_(ctx),
        reader_(reader),
        format_(format),
        options_(options),
        specs_(parameter_specs(reader.config())) {
    plan();
  }

  // In the order of the registry, but that a layer's experts stand whole, one after the other: what
  // products read together lies together.
  std::vector<SafetensorsItem> items() {
    std::vector<SafetensorsItem> items;
    const auto add = [&](const std::string& name) {
      const StoredTensor* stored = source_of(name);
      if (stored == nullptr) return;
      ++report_.num_tensors;
      const auto& [role, codes, shape] = wanted_.at(name);
      if (role == Role::kBlocks) {
        if (!keeps_codes(*stored)) ++report_.num_quantised;
        items.push_back({name, DType::kE4M3, shape});
        items.push_back({name + std::string(kBlockScaleSuffix), DType::kF32,
                         scale_shape(ScaleGrain::kBlock, shape[0], shape[1])});
      } else if (role == Role::kPanels) {
        ++report_.num_quantised;
        // Codes first in the file, at multiples of 64 bytes; then their scales.
        items.push_back({.name = name,
                         .dtype = stored_panel_dtype(codes),
                         .shape = stored_panel_shape(codes, shape[0], shape[1]),
                         .rank = -2});
        items.push_back({.name = name + std::string(kPanelScaleSuffix),
                         .dtype = DType::kBF16,
                         .shape = stored_panel_scale_shape(codes, shape[0], shape[1]),
                         .rank = -1});
      } else {
        // The router's bias stays in fp32, as published.
        const bool wide = name.find("e_score_correction_bias") != std::string::npos;
        items.push_back({name, wide ? DType::kF32 : DType::kBF16, shape});
      }
    };
    for (const size_t i : expert_major_order()) add(specs_[i].name);
    for (const std::string& name : copies_) add(name);
    for (const auto& [name, stored] : reader_.tensors()) {
      report_.bytes_before += stored.entry->num_bytes();
      // Derived buffers of older writers, which check_manifest let pass.
      if (wanted_.find(name) == wanted_.end() && !is_scale(name) && !is_dropped(name)) {
        wanted_[name] = {Role::kPlain, {}, stored.entry->shape};
        add(name);
      }
    }
    // A layer's experts are one stack in memory only if they lie in one file.
    std::string layer;
    for (SafetensorsItem& item : items) {
      const std::string prefix = layer_of(item.name);
      item.begins_unit = prefix.empty() || prefix != layer || !writes_panels();
      layer = prefix;
    }
    for (const SafetensorsItem& item : items)
      report_.bytes_after += item.shape.num_elements() * dtype_bytes(item.dtype);
    return items;
  }

  // The values of one item. Codes may lie far from their scales (a shard is ordered by element
  // size), and are then quantised for each: reading twice is cheaper than keeping all scales.
  TensorView data(const SafetensorsItem& item) {
    std::string name = item.name;
    for (const std::string_view suffix : {kBlockScaleSuffix, kPanelScaleSuffix}) {
      if (wanted_.find(name) == wanted_.end() && ends_with(name, suffix))
        name.resize(name.size() - suffix.size());
    }
    const bool scale = name != item.name;
    const StoredTensor& stored = *source_of(name);
    const Wanted& wanted = wanted_.at(name);
    if (wanted.role != Role::kPlain) {
      if (name != quantised_) quantise(name, stored, wanted);
      return (scale ? scales_ : codes_).reshaped(item.shape);
    }
    const TensorView values = make(memory_, item.dtype, item.shape, "values");
    if (read_values(stored, /*round_to_bf16=*/true, values)) ++report_.num_dequantised;
    return values;
  }

  const ConvertReport& report() const { return report_; }

 private:
  bool writes_panels() const {
    return format_ == FolderFormat::kInt8 || format_ == FolderFormat::kInt4 ||
           format_ == FolderFormat::kAllInt4;
  }
  // "model.layers.7." of a name in layer 7; empty outside the layers.
  static std::string layer_of(const std::string& name) {
    constexpr std::string_view kLayers = "model.layers.";
    if (name.rfind(kLayers, 0) != 0) return "";
    return name.substr(0, name.find('.', kLayers.size()) + 1);
  }

  enum class Role { kPlain, kBlocks, kPanels };
  struct Wanted {
    Role role = Role::kPlain;
    DType codes = DType::kI8;  // of panels
    Shape shape;               // of the values
  };

  // The tensor that holds the values of one to write. A folder in panels has no copies.
  const StoredTensor* source_of(const std::string& name) const {
    const StoredTensor* stored = reader_.find(name);
    if (stored != nullptr || !reader_.config().weight_panels) return stored;
    for (const ParameterAlias& alias : parameter_aliases(reader_.config())) {
      if (alias.name == name && reader_.has_mtp_tensors()) return reader_.find(alias.target);
    }
    return nullptr;
  }

  // What each tensor becomes. Parameters that one product reads together have one format.
  void plan() {
    const bool panels = writes_panels();
    const auto codes = plan_panels(specs_, format_ == FolderFormat::kInt8   ? PanelBits::kEight
                                           : format_ == FolderFormat::kInt4 ? PanelBits::kMixed
                                                                            : PanelBits::kFour);
    for (size_t i = 0; i < specs_.size(); ++i) {
      Wanted wanted{.shape = specs_[i].shape};
      if (panels && codes[i]) {
        wanted.role = Role::kPanels;
        wanted.codes = *codes[i];
      } else if (format_ == FolderFormat::kFp8Block && specs_[i].fp8_in_published) {
        wanted.role = Role::kBlocks;
      }
      wanted_[specs_[i].name] = wanted;
    }
    const ModelConfig& config = reader_.config();
    for (const ParameterAlias& alias : parameter_aliases(config)) {
      copies_.push_back(alias.name);
      wanted_[alias.name] = {.shape = Shape{config.vocab_size, config.hidden_size}};
    }
    if (config.tie_word_embeddings) {
      copies_.push_back("lm_head.weight");
      wanted_["lm_head.weight"] = {.shape = Shape{config.vocab_size, config.hidden_size}};
    }
    // In panels the head is no longer what a copy of it holds; readers of panels need no copies.
    if (panels) copies_.clear();
  }

  std::vector<size_t> expert_major_order() const {
    std::vector<size_t> order;
    for (size_t i = 0; i < specs_.size();) {
      size_t end = i;
      while (end < specs_.size() && specs_[end].expert_idx >= 0) ++end;
      if (end == i) {
        order.push_back(i++);
        continue;
      }
      std::vector<size_t> experts;
      for (; i < end; ++i) experts.push_back(i);
      std::stable_sort(experts.begin(), experts.end(), [&](size_t a, size_t b) {
        return specs_[a].expert_idx < specs_[b].expert_idx;
      });
      order.insert(order.end(), experts.begin(), experts.end());
    }
    return order;
  }

  bool is_scale(const std::string& name) const {
    for (const std::string_view suffix : {kBlockScaleSuffix, kPanelScaleSuffix}) {
      if (ends_with(name, suffix) &&
          reader_.find(name.substr(0, name.size() - suffix.size())) != nullptr)
        return true;
    }
    return false;
  }
  // A copy that the folder will not have.
  bool is_dropped(const std::string& name) const {
    return wanted_.find(name) != wanted_.end() &&
           std::find(copies_.begin(), copies_.end(), name) == copies_.end();
  }

  // FP8 in the layout that is asked for: copied as it is.
  bool keeps_codes(const StoredTensor& stored) const {
    return stored.entry->dtype == DType::kE4M3 && reader_.config().fp8_block_rows == kScaleTile &&
           reader_.config().fp8_block_cols == kScaleTile;
  }

  // A tensor in memory of its own, which replaces what `memory` held.
  static TensorView make(std::unique_ptr<Arena>& memory, DType dtype, const Shape& shape,
                         const char* name) {
    memory.reset();
    memory = std::make_unique<Arena>(
        name, round_up(shape.num_elements() * dtype_bytes(dtype), kTensorAlignBytes));
    return memory->allocate(dtype, shape, name);
  }

  // The values of a tensor in whatever format it is stored; true where that was codes.
  bool read_values(const StoredTensor& stored, bool round_to_bf16, const TensorView& values) const {
    const SafetensorsEntry& entry = *stored.entry;
    const std::string& name = entry.name;
    bool codes = true;
    if (entry.dtype == DType::kE4M3) {
      const StoredTensor& scales = *reader_.find(name + std::string(kBlockScaleSuffix));
      dequantize_blocks(stored.shard->bytes(entry), scales.shard->bytes(*scales.entry),
                        reader_.config().fp8_block_rows, reader_.config().fp8_block_cols,
                        round_to_bf16, values);
    } else if (const auto panels = panel_codes_of(entry.dtype)) {
      const StoredTensor& scales = *reader_.find(name + std::string(kPanelScaleSuffix));
      const int64_t rows = values.dim(0), cols = values.dim(1);
      const ScaledView source{
          TensorView(const_cast<std::byte*>(stored.shard->bytes(entry)), *panels,
                     panel_code_shape(*panels, rows, cols), name.c_str()),
          scales.shard->view(*scales.entry).reshaped(panel_scale_shape(*panels, rows, cols)),
          ScaleGrain::kPanel};
      dequantize_panels(ctx_, source, values);
    } else {
      stored.shard->read_converted(entry, values);
      codes = false;
    }
    stored.shard->forget(entry);
    check_mapped_memory();
    return codes;
  }

  void quantise(const std::string& name, const StoredTensor& stored, const Wanted& wanted) {
    const int64_t rows = wanted.shape[0], cols = wanted.shape[1];
    const bool panels = wanted.role == Role::kPanels;
    codes_ = make(codes_memory_, panels ? stored_panel_dtype(wanted.codes) : DType::kE4M3,
                  panels ? panel_code_shape(wanted.codes, rows, cols) : wanted.shape, "codes");
    scales_ = make(scales_memory_, panels ? DType::kBF16 : DType::kF32,
                   panels ? panel_scale_shape(wanted.codes, rows, cols)
                          : scale_shape(ScaleGrain::kBlock, rows, cols),
                   "scales");
    if (!panels && keeps_codes(stored)) {
      const StoredTensor& old = *reader_.find(name + std::string(kBlockScaleSuffix));
      convert_elements(DType::kE4M3, stored.shard->bytes(*stored.entry), DType::kE4M3,
                       static_cast<std::byte*>(codes_.data), codes_.num_elements());
      old.shard->read_converted(*old.entry, scales_);
      stored.shard->forget(*stored.entry);
    } else {
      const TensorView values = make(memory_, DType::kF32, wanted.shape, "values");
      read_values(stored, /*round_to_bf16=*/false, values);
      if (panels) {
        quantise_panels(name, values, wanted.codes);
      } else {
        quantize(ctx_, {.x = {values, {}, ScaleGrain::kNone},
                        .y = {codes_, scales_, ScaleGrain::kBlock}});
      }
      const int64_t bad = first_non_finite(values);
      if (bad >= 0) {
        throw_bad_input({stored.shard->path(), name,
                         fmt::format("a value that is not finite (element {})", bad),
                         "finite numbers", ""});
      }
    }
    quantised_ = name;
  }

  void quantise_panels(const std::string& name, const TensorView& values, DType codes) {
    ScaledView y{codes_, scales_, ScaleGrain::kPanel};
    y.codes.dtype = codes;
    TensorView importance;
    const std::vector<float>* weights = options_.importance ? options_.importance(name) : nullptr;
    if (weights != nullptr) {
      FATHOM_CHECK_EQ(static_cast<int64_t>(weights->size()), values.dim(1), "importance of {}",
                      name);
      importance = TensorView(const_cast<float*>(weights->data()), DType::kF32,
                              Shape{values.dim(1)}, "importance");
      if (name != weighted_) ++report_.num_weighted;
      weighted_ = name;
    }
    quantize_panels(ctx_, {.x = values, .importance = importance, .y = y});
  }

  Context& ctx_;
  const CheckpointReader& reader_;
  FolderFormat format_;
  const ConvertOptions& options_;
  std::vector<ParameterSpec> specs_;
  std::map<std::string, Wanted> wanted_;
  std::vector<std::string> copies_;  // names of copies to write
  ConvertReport report_;
  std::unique_ptr<Arena> memory_, codes_memory_, scales_memory_;
  TensorView codes_, scales_;
  std::string quantised_, weighted_;  // whose codes and scales lie there
};

struct Stopped {};

}  // namespace

ConvertReport convert_folder(Context& ctx, FileSystem& files, const std::string& source,
                             const std::string& directory, FolderFormat format,
                             const ConvertOptions& options) {
  const CheckpointReader reader(files, source);
  const ManifestProblems problems =
      check_manifest(reader, {.allow_missing_mtp = true, .skip_mtp = false});
  if (!problems.empty()) {
    const auto& first = !problems.missing.empty()      ? problems.missing
                        : !problems.unexpected.empty() ? problems.unexpected
                                                       : problems.malformed;
    throw_bad_input(
        {source, "tensors",
         fmt::format("{} missing, {} unexpected, {} malformed, {} first", problems.missing.size(),
                     problems.unexpected.size(), problems.malformed.size(), first[0]),
         "exactly those of config.json", ""});
  }
  Converter converter(ctx, reader, format, options);
  const std::vector<SafetensorsItem> items = converter.items();
  FolderTransaction transaction(files, directory);
  int64_t done = 0;
  try {
    write_shards(files, transaction.path(), items, options.max_shard_bytes,
                 [&](const SafetensorsItem& item) {
                   if (options.should_stop && options.should_stop()) throw Stopped{};
                   if (options.progress)
                     options.progress(done++, static_cast<int64_t>(items.size()));
                   return converter.data(item);
                 });
  } catch (const Stopped&) {
    return {};
  }
  for (const std::string& name : files.list(source)) {
    const bool weights = name.find(".safetensors") != std::string::npos;
    if (weights || name == "config.json" || name == "training") continue;
    if (files.info(join_path(source, name)).is_directory) continue;
    write_synced(files, join_path(transaction.path(), name),
                 files.read_all(join_path(source, name)));
  }
  for (const auto& [name, contents] : options.extra_files)
    write_synced(files, join_path(transaction.path(), name), contents);
  write_synced(files, join_path(transaction.path(), "config.json"),
               converted_config(files, join_path(source, "config.json"), format));
  transaction.commit();
  return converter.report();
}

}  // namespace fathom
