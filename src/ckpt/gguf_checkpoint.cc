#include "ckpt/gguf_checkpoint.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "ckpt/convert.h"
#include "ckpt/gguf_config.h"
#include "core/error.h"
#include "core/integer.h"
#include "kernels/kernels.h"
#include "kernels/scaled.h"

namespace fathom {
namespace {

constexpr int64_t kMaxParts = 100'000;

// "NAME-00001-of-00003.gguf" -> the same with another number; empty for other names.
std::string part_name(const std::string& path, int64_t number, int64_t count) {
  constexpr size_t kTail = 20;  // -00001-of-00003.gguf
  if (path.size() < kTail) return "";
  const std::string tail = path.substr(path.size() - kTail);
  if (tail != fmt::format("-{:05}-of-{:05}.gguf", 1, count)) return "";
  return path.substr(0, path.size() - kTail) + fmt::format("-{:05}-of-{:05}.gguf", number, count);
}

int64_t key_or(const GgufMetadata& metadata, std::string_view key, int64_t fallback) {
  const auto found = metadata.find(key);
  return found == metadata.end() ? fallback : found->second.integer;
}

std::string megabytes_or_more(int64_t bytes) {
  return bytes < 100'000'000 ? fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6)
                             : fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace

bool is_gguf_file(FileSystem& files, const std::string& path) {
  const FileInfo info = files.info(path);
  return info.exists && !info.is_directory && files.read_range(path, 0, 4) == "GGUF";
}

GgufCheckpoint::GgufCheckpoint(FileSystem& files, const std::string& path) : path_(path) {
  open_parts(files);
  std::vector<const GgufTensor*> tensors;
  for (const auto& part : parts_) {
    for (const GgufTensor& tensor : part->header.tensors) tensors.push_back(&tensor);
  }
  config_ = gguf_to_config(metadata(), tensors, path_, notes_);
  place_tensors();
  check_rope_factors();
}

void GgufCheckpoint::open_parts(FileSystem& files) {
  const auto open = [&](const std::string& part_path) {
    auto part = std::make_unique<Part>();
    part->path = part_path;
    part->file = files.map(part_path);
    part->header = parse_gguf(part->file->bytes(), part_path);
    parts_.push_back(std::move(part));
  };
  open(path_);
  const int64_t count = key_or(metadata(), "split.count", 1);
  if (count <= 1) return;
  const auto refuse = [&](const std::string& where, const std::string& field, int64_t found,
                          const std::string& expected) {
    throw_bad_input({where, field, fmt::format("{}", found), expected, ""});
  };
  if (count > kMaxParts) refuse(path_, "split.count", count, fmt::format("up to {}", kMaxParts));
  if (key_or(metadata(), "split.no", 0) != 0)
    refuse(path_, "split.no", key_or(metadata(), "split.no", 0), "the first part, 0");
  if (part_name(path_, 1, count).empty()) {
    throw_bad_input({path_, "split.count", fmt::format("{} parts", count),
                     fmt::format("a name that ends in -00001-of-{:05}.gguf", count),
                     "the others' names follow from it"});
  }
  int64_t num_tensors = static_cast<int64_t>(parts_[0]->header.tensors.size());
  for (int64_t i = 1; i < count; ++i) {
    const std::string name = part_name(path_, i + 1, count);
    if (!files.info(name).exists)
      throw_bad_input({name, "", "nothing", fmt::format("part {} of {}", i + 1, count), ""});
    open(name);
    const GgufMetadata& keys = parts_.back()->header.metadata;
    if (key_or(keys, "split.no", -1) != i)
      refuse(name, "split.no", key_or(keys, "split.no", -1), fmt::format("{}", i));
    if (key_or(keys, "split.count", -1) != count)
      refuse(name, "split.count", key_or(keys, "split.count", -1), fmt::format("{}", count));
    num_tensors += static_cast<int64_t>(parts_.back()->header.tensors.size());
  }
  const int64_t expected = key_or(metadata(), "split.tensors.count", num_tensors);
  if (expected != num_tensors) {
    refuse(path_, "split.tensors.count", expected,
           fmt::format("{}, as many as the parts hold", num_tensors));
  }
}

// Every tensor of the configuration is there with its shape, and nothing is left over but what
// follows from others.
void GgufCheckpoint::place_tensors() {
  std::map<std::string, Placed, std::less<>> by_name;
  for (const auto& part : parts_) {
    for (const GgufTensor& tensor : part->header.tensors) {
      if (!by_name.emplace(tensor.name, Placed{&tensor, part.get()}).second) {
        throw_bad_input(
            {part->path, tensor.name, "the tensor in another part too", "each tensor once", ""});
      }
    }
  }
  const bool joined = by_name.contains("blk.0.attn_kv_b.weight");
  plan_ = gguf_plan(config_, joined ? GgufKvLayout::kJoined : GgufKvLayout::kSplit);
  std::set<std::string, std::less<>> known{"rope_freqs.weight"};
  for (size_t i = 0; i < plan_.size(); ++i) {
    const GgufPlanEntry& entry = plan_[i];
    const auto found = by_name.find(entry.tensor.name);
    if (found == by_name.end()) {
      throw_bad_input(
          {path_, entry.tensor.name, "no such tensor", "one of " + dims_text(entry.tensor), ""});
    }
    const GgufTensor& tensor = *found->second.tensor;
    // A vector may be written with dimensions of one behind it.
    if (!std::equal(tensor.dim, tensor.dim + 4, entry.tensor.dim)) {
      throw_bad_input({found->second.part->path, tensor.name, dims_text(tensor),
                       dims_text(entry.tensor), "as the keys of the file say"});
    }
    placed_.push_back(found->second);
    known.insert(entry.tensor.name);
    for (size_t p = 0; p < entry.parameters.size(); ++p)
      sources_[entry.parameters[p]].push_back({i, static_cast<int64_t>(p)});
  }
  for (const auto& [name, placed] : by_name) {
    const bool copy = name.ends_with(".nextn.embed_tokens.weight") ||
                      name.ends_with(".nextn.shared_head_head.weight");
    const bool split_beside =
        joined && (name.ends_with(".attn_k_b.weight") || name.ends_with(".attn_v_b.weight"));
    if (known.contains(name) || split_beside) continue;
    throw_bad_input({placed.part->path, name,
                     copy ? "an embedding or head of an MTP module's own" : "a tensor",
                     "none of this name in a " + config_.architecture, ""});
  }
}

// Llama 3.1's scaling is a tensor of factors: the parameters are those of the published models, and
// the factors must follow from them.
void GgufCheckpoint::check_rope_factors() {
  const GgufTensor* factors = nullptr;
  const Part* holder = nullptr;
  for (const auto& part : parts_) {
    for (const GgufTensor& tensor : part->header.tensors) {
      if (tensor.name == "rope_freqs.weight") factors = &tensor, holder = part.get();
    }
  }
  if (factors == nullptr) return;
  const std::vector<double> plain = rope_frequencies(config_);
  if (config_.has_latent_attention() || config_.rope_scaling.type != RopeType::kDefault ||
      factors->num_elements() != static_cast<int64_t>(plain.size())) {
    throw_bad_input({holder->path, factors->name, dims_text(*factors),
                     "factors of a Llama's head without another scaling", ""});
  }
  std::vector<float> values(plain.size());
  dequantize_ggml(factors->type, Placed{factors, holder}.row(0), factors->num_elements(),
                  values.data());
  RopeScaling& s = config_.rope_scaling;
  s.type = RopeType::kLlama3;
  s.factor = static_cast<double>(*std::max_element(values.begin(), values.end()));
  s.low_freq_factor = 1;
  s.high_freq_factor = 4;
  s.original_max_position_embeddings = 8192;
  validate(config_, path_);
  const std::vector<double> scaled = rope_frequencies(config_);
  for (size_t i = 0; i < plain.size(); ++i) {
    const double expected = plain[i] / scaled[i];
    if (!(std::fabs(static_cast<double>(values[i]) - expected) <= 1e-4 * expected)) {
      throw_bad_input({holder->path, factors->name, fmt::format("{} at {}", values[i], i),
                       fmt::format("{:.6g}: Llama 3.1's frequency factors (1, 4, 8192)", expected),
                       ""});
    }
  }
  notes_.push_back(fmt::format("rope_freqs.weight is Llama 3.1's scaling by {}", s.factor));
}

int64_t GgufCheckpoint::file_bytes() const {
  int64_t total = 0;
  for (const auto& part : parts_) total += static_cast<int64_t>(part->file->bytes().size());
  return total;
}

std::map<std::string, GgufCheckpoint::Stored> GgufCheckpoint::stored() const {
  std::map<std::string, Stored> stored;
  for (const auto& part : parts_) {
    for (const GgufTensor& tensor : part->header.tensors) {
      Stored& s = stored[ggml_type_name(tensor.type)];
      ++s.num_tensors;
      s.num_elements += tensor.num_elements();
      s.num_bytes += tensor.num_bytes();
    }
  }
  return stored;
}

const GgmlType& GgufCheckpoint::type_of(const std::string& parameter) const {
  const auto found = sources_.find(parameter);
  FATHOM_CHECK(found != sources_.end(), "no parameter '{}' in {}", parameter, path_);
  return placed_[found->second.front().entry].tensor->type;
}

// attn_k_b: a head's [C][N], whose columns are the parameter's rows.
void GgufCheckpoint::read_columns(const GgufPlanEntry& entry, const Placed& placed,
                                  const TensorView& destination) const {
  const int64_t N = config_.qk_nope_head_dim, C = config_.kv_lora_rank;
  const int64_t H = config_.num_attention_heads, head_rows = N + config_.v_head_dim;
  std::vector<float> head(static_cast<size_t>(C * N)), row(static_cast<size_t>(C));
  for (int64_t h = 0; h < H; ++h) {
    dequantize_ggml(placed.tensor->type, placed.row(h * C), C * N, head.data());
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t c = 0; c < C; ++c)
        row[static_cast<size_t>(c)] = head[static_cast<size_t>(c * N + n)];
      const TensorView out = destination.rows(h * head_rows + n, 1);
      convert_elements(DType::kF32, reinterpret_cast<const std::byte*>(row.data()),
                       destination.dtype, static_cast<std::byte*>(out.data), C);
    }
  }
  (void)entry;
}

void GgufCheckpoint::read(const std::string& parameter, const TensorView& destination) const {
  FATHOM_CHECK(destination.contiguous(), "{}", to_string(destination));
  const auto found = sources_.find(parameter);
  FATHOM_CHECK(found != sources_.end(), "no parameter '{}' in {}", parameter, path_);
  const bool vector = destination.shape.num_dims == 1;
  const int64_t num_rows = vector ? 1 : destination.dim(0);
  const int64_t width = vector ? destination.dim(0) : destination.dim(1);
  std::vector<float> row(static_cast<size_t>(width));
  auto* const out = static_cast<std::byte*>(destination.data);
  for (const Source& source : found->second) {
    const GgufPlanEntry& entry = plan_[source.entry];
    const Placed& placed = placed_[source.entry];
    if (entry.transform == GgufTransform::kKeyPart) {
      read_columns(entry, placed, destination);
      continue;
    }
    FATHOM_CHECK_EQ(placed.tensor->dim[0], width, "{}", parameter);
    for (int64_t r = 0; r < num_rows; ++r) {
      if (!gguf_has_row(entry, config_, r)) continue;
      dequantize_ggml(placed.tensor->type, placed.row(gguf_row(entry, config_, source.index, r)),
                      width, row.data());
      convert_elements(DType::kF32, reinterpret_cast<const std::byte*>(row.data()),
                       destination.dtype, out + r * width * dtype_bytes(destination.dtype), width);
    }
    // Pages of a part of an experts' stack go when the whole tensor is read.
    if (source.index + 1 == static_cast<int64_t>(entry.parameters.size()))
      placed.part->file->forget(placed.tensor->offset, placed.tensor->num_bytes());
  }
}

GgufLoadReport load_gguf_weights(Context& ctx, const GgufCheckpoint& checkpoint,
                                 ParameterSet& parameters) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<int64_t> bad(static_cast<size_t>(parameters.size()), -1);
  ctx.threads().parallel_for(parameters.size(), [&](int64_t i, int) {
    if (parameters.is_scaled(i)) return;
    checkpoint.read(parameters.spec(i).name, parameters.view(i));
    bad[static_cast<size_t>(i)] = first_non_finite(parameters.view(i));
  });
  for (int64_t i = 0; i < parameters.size(); ++i) {
    if (!parameters.is_scaled(i)) continue;
    const ParameterSpec& spec = parameters.spec(i);
    Arena memory("staging", spec.shape.num_elements() * dtype_bytes(DType::kF32));
    const TensorView values = memory.allocate(DType::kF32, spec.shape, spec.name.c_str());
    checkpoint.read(spec.name, values);
    bad[static_cast<size_t>(i)] = first_non_finite(values);
    quantize(ctx, {.x = {values, {}, ScaleGrain::kNone}, .y = parameters.scaled(i)});
  }
  for (int64_t i = 0; i < parameters.size(); ++i) {
    const int64_t element = bad[static_cast<size_t>(i)];
    if (element < 0) continue;
    throw_bad_input({checkpoint.path(), parameters.spec(i).name,
                     fmt::format("a value that is not finite (element {})", element),
                     "finite numbers", ""});
  }
  GgufLoadReport report{.file_bytes = checkpoint.file_bytes(),
                        .memory_bytes = parameters.num_bytes(),
                        .notes = checkpoint.notes()};
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::string mix;
  for (const auto& [name, stored] : checkpoint.stored()) {
    mix += fmt::format("{}{} {} ({} tensors)", mix.empty() ? "" : ", ",
                       megabytes_or_more(stored.num_bytes), name, stored.num_tensors);
  }
  report.text = fmt::format("{}: {} decoded to {} of memory in {:.1f} s", checkpoint.path(), mix,
                            megabytes_or_more(report.memory_bytes), report.seconds);
  return report;
}

}  // namespace fathom
