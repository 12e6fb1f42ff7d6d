#include <algorithm>
#include <cstring>
#include <mutex>

#include "ckpt/convert.h"
#include "ckpt/hf_folder.h"
#include "ckpt/panel_tensors.h"
#include "core/mapped_memory.h"
#include "kernels/panel.h"

namespace fathom {
namespace {

std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  std::string text;
  for (size_t i = 0; i < names.size() && i < kShown; ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > kShown) text += fmt::format(", and {} more", names.size() - kShown);
  return text;
}

[[noreturn]] void refuse_manifest(const CheckpointReader& reader,
                                  const ManifestProblems& problems) {
  std::string found;
  const auto add = [&found](std::string_view what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    if (!found.empty()) found += "; ";
    found += fmt::format("{} {}: {}", names.size(), what, first_few(names));
  };
  add("missing", problems.missing);
  add("unexpected", problems.unexpected);
  add("malformed", problems.malformed);
  const bool no_mtp = reader.config().num_nextn_predict_layers > 0 && !reader.has_mtp_tensors();
  throw_bad_input({reader.directory(), "tensors", found, "exactly those of config.json",
                   no_mtp ? "no tensor of the MTP modules is stored: num_nextn_predict_layers is " +
                                std::to_string(reader.config().num_nextn_predict_layers) +
                                "; set allow_missing_mtp to load the main model alone"
                          : ""});
}

// Reads one parameter into its place.
void load_one(const CheckpointReader& reader, const StoredTensor& stored,
              const TensorView& destination, const LoadOptions& options) {
  const SafetensorsEntry& entry = *stored.entry;
  if (entry.dtype == DType::kE4M3) {
    const StoredTensor& scales = *reader.find(entry.name + "_scale_inv");
    dequantize_blocks(stored.shard->bytes(entry), scales.shard->bytes(*scales.entry),
                      reader.config().fp8_block_rows, reader.config().fp8_block_cols,
                      options.round_fp8_to_bf16, destination);
    stored.shard->forget(entry);
  } else {
    stored.shard->read_converted(entry, destination);
  }
}

bool is_panels(const StoredTensor& stored, const ParameterSpec& spec) {
  return panel_codes_of(stored.entry->dtype) && stored.entry->shape != spec.shape;
}

// A parameter that is stored in panels: copied, or decoded into plain values. Returns the first
// scale that is not finite, or -1.
int64_t load_panels(Context& ctx, const CheckpointReader& reader, const StoredTensor& stored,
                    const ParameterSpec& spec, const ParameterSet& parameters, int64_t i) {
  const StoredTensor& stored_scales = *reader.find(spec.name + std::string(kPanelScaleSuffix));
  const DType codes = *panel_codes_of(stored.entry->dtype);
  const Shape scale_shape = panel_scale_shape(codes, spec.shape[0], spec.shape[1]);
  Arena memory("staging", scale_shape.num_elements() * dtype_bytes(DType::kBF16));
  TensorView scales = memory.allocate(DType::kBF16, scale_shape, spec.name.c_str());
  std::memcpy(scales.data, stored_scales.shard->bytes(*stored_scales.entry),
              static_cast<size_t>(scales.num_bytes()));
  const std::byte* bytes = stored.shard->bytes(*stored.entry);
  if (parameters.is_scaled(i)) {
    const ScaledView destination = parameters.scaled(i);
    FATHOM_CHECK(destination.grain == ScaleGrain::kPanel && destination.codes.dtype == codes,
                 "'{}' in another format than stored", spec.name);
    std::memcpy(destination.codes.data, bytes, static_cast<size_t>(stored.entry->num_bytes()));
    std::memcpy(destination.scales.data, scales.data, static_cast<size_t>(scales.num_bytes()));
  } else {
    const ScaledView source{
        TensorView(const_cast<std::byte*>(bytes), codes,
                   panel_code_shape(codes, spec.shape[0], spec.shape[1]), spec.name.c_str()),
        scales, ScaleGrain::kPanel};
    dequantize_panels(ctx, source, parameters.view(i));
  }
  stored.shard->forget(*stored.entry);
  return first_non_finite(scales);
}

// The first element that is NaN, or -1; E4M3 has no infinity. By blocks, which the compiler turns
// into vectors.
int64_t first_nan_code(const TensorView& codes) {
  constexpr int64_t kBlockCodes = 4096;
  const uint8_t* code = static_cast<const uint8_t*>(codes.data);
  const int64_t count = codes.num_elements();
  for (int64_t begin = 0; begin < count; begin += kBlockCodes) {
    const int64_t end = std::min(begin + kBlockCodes, count);
    uint8_t any = 0;
    for (int64_t i = begin; i < end; ++i)
      any = static_cast<uint8_t>(any | ((code[i] & 0x7f) == 0x7f ? 1 : 0));
    if (any == 0) continue;
    return std::find_if(code + begin, code + end, [](uint8_t c) { return (c & 0x7f) == 0x7f; }) -
           code;
  }
  return -1;
}

// Whether codes and scales lie in the file as they will in memory.
bool has_layout_of(const CheckpointReader& reader, const StoredTensor& stored,
                   const ScaledView& destination) {
  return stored.entry->dtype == DType::kE4M3 && destination.codes.dtype == DType::kE4M3 &&
         destination.grain == ScaleGrain::kBlock && reader.config().fp8_block_rows == kScaleTile &&
         reader.config().fp8_block_cols == kScaleTile;
}

// Such a parameter, copied. Returns the first element or scale that is not finite, or -1.
int64_t copy_scaled(const CheckpointReader& reader, const StoredTensor& stored,
                    const ScaledView& destination) {
  const SafetensorsEntry& entry = *stored.entry;
  const StoredTensor& scales = *reader.find(entry.name + "_scale_inv");
  std::memcpy(destination.codes.data, stored.shard->bytes(entry),
              static_cast<size_t>(entry.num_bytes()));
  scales.shard->read_converted(*scales.entry, destination.scales);
  stored.shard->forget(entry);
  const int64_t bad = first_nan_code(destination.codes);
  return bad >= 0 ? bad : first_non_finite(destination.scales);
}

// Reads one parameter into codes and scales through fp32. Returns the first element that is not
// finite, or -1.
int64_t quantise_scaled(Context& ctx, const CheckpointReader& reader, const StoredTensor& stored,
                        const ScaledView& destination, const LoadOptions& options) {
  const SafetensorsEntry& entry = *stored.entry;
  Arena memory("staging", entry.shape.num_elements() * dtype_bytes(DType::kF32));
  const TensorView values = memory.allocate(DType::kF32, entry.shape, entry.name.c_str());
  load_one(reader, stored, values, options);
  quantize(ctx, {.x = {values, {}, ScaleGrain::kNone}, .y = destination});
  return first_non_finite(values);
}

void check_copy(const StoredTensor& copy, const StoredTensor& target) {
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    throw_bad_input({copy.shard->path(), copy.entry->name, found, expected,
                     "it must be a copy of " + target.entry->name});
  };
  if (copy.entry->dtype != target.entry->dtype) {
    refuse(std::string(safetensors_dtype_name(copy.entry->dtype)),
           std::string(safetensors_dtype_name(target.entry->dtype)));
  }
  const std::byte* a = copy.shard->bytes(*copy.entry);
  const std::byte* b = target.shard->bytes(*target.entry);
  constexpr int64_t kPieceBytes = int64_t{1} << 24;
  const int64_t num_bytes = copy.entry->num_bytes();
  for (int64_t begin = 0; begin < num_bytes; begin += kPieceBytes) {
    const int64_t piece = std::min(kPieceBytes, num_bytes - begin);
    if (std::memcmp(a + begin, b + begin, static_cast<size_t>(piece)) != 0) {
      int64_t i = begin;
      while (a[i] == b[i]) ++i;
      refuse(fmt::format("another value at element {}", i / dtype_bytes(copy.entry->dtype)),
             "the same bits");
    }
    copy.shard->forget(*copy.entry, begin, piece);
    target.shard->forget(*target.entry, begin, piece);
  }
}

void check_same_parameters(const ParameterSet& parameters, const ModelConfig& config) {
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  FATHOM_CHECK_EQ(parameters.size(), static_cast<int64_t>(specs.size()),
                  "parameters of another configuration");
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const ParameterSpec& spec = specs[static_cast<size_t>(i)];
    FATHOM_CHECK(parameters.spec(i).name == spec.name && parameters.spec(i).shape == spec.shape,
                 "parameter {}: '{}' {}, not '{}' {}", i, parameters.spec(i).name,
                 to_string(parameters.spec(i).shape), spec.name, to_string(spec.shape));
  }
}

}  // namespace

void require_manifest(const CheckpointReader& reader, const LoadOptions& options) {
  const ManifestProblems problems = check_manifest(reader, options);
  if (!problems.empty()) refuse_manifest(reader, problems);
}

LoadReport load_weights(Context& ctx, const CheckpointReader& reader, ParameterSet& parameters,
                        const LoadOptions& options) {
  const ModelConfig config = config_to_load(reader, options);
  check_same_parameters(parameters, config);
  require_manifest(reader, options);

  const auto stored_bytes = [&](int64_t i) {
    return reader.find(parameters.spec(i).name)->entry->num_bytes();
  };
  int64_t total = 0, done = 0;
  for (int64_t i = 0; i < parameters.size(); ++i)
    total += parameters.is_mapped(i) ? 0 : stored_bytes(i);
  std::mutex progress_mutex;
  const auto advance = [&](int64_t i) {
    if (!options.progress) return;
    const std::lock_guard lock(progress_mutex);
    done += stored_bytes(i);
    options.progress(done, total);
  };

  std::vector<int64_t> bad_element(static_cast<size_t>(parameters.size()), -1);
  ctx.threads().parallel_for(parameters.size(), [&](int64_t i, int) {
    const StoredTensor& stored = *reader.find(parameters.spec(i).name);
    if (parameters.is_mapped(i) || is_panels(stored, parameters.spec(i))) return;
    int64_t bad = -1;
    if (!parameters.is_scaled(i)) {
      load_one(reader, stored, parameters.view(i), options);
      if (options.check_finite) bad = first_non_finite(parameters.view(i));
    } else if (has_layout_of(reader, stored, parameters.scaled(i))) {
      bad = copy_scaled(reader, stored, parameters.scaled(i));
    } else {
      return;
    }
    advance(i);
    if (options.check_finite) bad_element[static_cast<size_t>(i)] = bad;
  });
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const StoredTensor& stored = *reader.find(parameters.spec(i).name);
    int64_t bad = -1;
    if (parameters.is_mapped(i)) {
      if (parameters.is_scaled(i)) bad = first_non_finite(parameters.scaled(i).scales);
    } else if (is_panels(stored, parameters.spec(i))) {
      bad = load_panels(ctx, reader, stored, parameters.spec(i), parameters, i);
    } else if (parameters.is_scaled(i) && !has_layout_of(reader, stored, parameters.scaled(i))) {
      bad = quantise_scaled(ctx, reader, stored, parameters.scaled(i), options);
    } else {
      continue;
    }
    if (!parameters.is_mapped(i)) advance(i);
    if (options.check_finite) bad_element[static_cast<size_t>(i)] = bad;
  }
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const int64_t element = bad_element[static_cast<size_t>(i)];
    if (element < 0) continue;
    throw_bad_input({reader.find(parameters.spec(i).name)->shard->path(), parameters.spec(i).name,
                     fmt::format("a value that is not finite (element {})", element),
                     "finite numbers", ""});
  }

  check_mapped_memory();

  LoadReport report;
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const SafetensorsEntry& entry = *reader.find(parameters.spec(i).name)->entry;
    ++report.num_parameters_loaded;
    report.num_elements += parameters.spec(i).shape.num_elements();
    report.num_mapped += parameters.is_mapped(i) ? 1 : 0;
    (parameters.is_mapped(i) ? report.mapped_bytes : report.copied_bytes) += stored_bytes(i);
    ++report.tensors_by_dtype[std::string(safetensors_dtype_name(entry.dtype))];
    const bool codes = entry.dtype == DType::kE4M3 || panel_codes_of(entry.dtype);
    if (codes && parameters.is_scaled(i)) continue;
    if (codes) {
      ++report.num_dequantised;
    } else if (entry.dtype != parameters.view(i).dtype) {
      ++report.num_converted;
    }
  }
  const auto expected = expected_tensors(reader.config());
  for (const auto& [name, stored] : reader.tensors()) {
    const auto found = expected.find(name);
    if (found == expected.end() || (found->second.mtp && config.num_nextn_predict_layers == 0)) {
      report.ignored.push_back(name);
    } else if (found->second.role == ExpectedTensor::Role::kCopy) {
      check_copy(stored, *reader.find(found->second.target));
      report.copies.push_back(name);
    }
  }
  return report;
}

}  // namespace fathom
