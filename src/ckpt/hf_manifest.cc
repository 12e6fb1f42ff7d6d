// Which tensors a configuration wants, and what a folder has instead.
#include "ckpt/convert.h"
#include "ckpt/hf_folder.h"
#include "core/integer.h"

namespace fathom {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

bool mtp_wanted(const CheckpointReader& reader, const LoadOptions& options) {
  return !options.skip_mtp && (reader.has_mtp_tensors() || !options.allow_missing_mtp);
}

// A buffer that older writers stored; it follows from rope_theta and is never read.
bool is_derived_buffer(std::string_view name) {
  return name.ends_with(".self_attn.rotary_emb.inv_freq");
}

std::string check_stored(const SafetensorsEntry& stored, const ExpectedTensor& expected,
                         bool fp8_config) {
  if (stored.shape != expected.shape) {
    return fmt::format("{}: found {}, expected {}", stored.name, to_string(stored.shape),
                       to_string(expected.shape));
  }
  const auto wrong_dtype = [&](std::string_view wanted) {
    return fmt::format("{}: found {}, expected {}", stored.name,
                       safetensors_dtype_name(stored.dtype), wanted);
  };
  if (expected.role == ExpectedTensor::Role::kScale)
    return stored.dtype == DType::kF32 ? "" : wrong_dtype("F32");
  if (stored.dtype == DType::kE4M3) {
    if (!expected.may_be_fp8)
      return wrong_dtype("F32, BF16 or F16 (DeepSeek keeps this one out of FP8)");
    return fp8_config ? ""
                      : wrong_dtype("F32, BF16 or F16 (config.json has no quantization_config)");
  }
  const bool plain = stored.dtype == DType::kF64 || stored.dtype == DType::kF32 ||
                     stored.dtype == DType::kBF16 || stored.dtype == DType::kF16;
  return plain ? "" : wrong_dtype("F32, BF16 or F16");
}

}  // namespace

std::map<std::string, ExpectedTensor, std::less<>> expected_tensors(const ModelConfig& config) {
  using Role = ExpectedTensor::Role;
  std::map<std::string, ExpectedTensor, std::less<>> expected;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const bool mtp = spec.layer_idx >= config.num_hidden_layers;
    expected[spec.name] = {.role = Role::kParameter,
                           .shape = spec.shape,
                           .may_be_fp8 = spec.fp8_in_published,
                           .mtp = mtp};
    if (spec.fp8_in_published && config.fp8_block_rows > 0) {
      const Shape scales{div_up(spec.shape[0], config.fp8_block_rows),
                         div_up(spec.shape[1], config.fp8_block_cols)};
      expected[spec.name + std::string(kScaleSuffix)] = {
          .role = Role::kScale, .shape = scales, .optional = true, .mtp = mtp, .target = spec.name};
    }
  }
  const Shape vocabulary{config.vocab_size, config.hidden_size};
  for (const ParameterAlias& alias : parameter_aliases(config)) {
    expected[alias.name] = {
        .role = Role::kCopy, .shape = vocabulary, .mtp = true, .target = alias.target};
  }
  if (config.tie_word_embeddings) {
    expected["lm_head.weight"] = {.role = Role::kCopy,
                                  .shape = vocabulary,
                                  .optional = true,
                                  .target = "model.embed_tokens.weight"};
  }
  return expected;
}

ModelConfig config_to_load(const CheckpointReader& reader, const LoadOptions& options) {
  ModelConfig config = reader.config();
  if (!mtp_wanted(reader, options)) config.num_nextn_predict_layers = 0;
  return config;
}

ManifestProblems check_manifest(const CheckpointReader& reader, const LoadOptions& options) {
  const auto expected = expected_tensors(reader.config());
  const bool with_mtp = mtp_wanted(reader, options);
  const bool fp8_config = reader.config().fp8_block_rows > 0;
  ManifestProblems problems;
  for (const auto& [name, want] : expected) {
    if (want.mtp && !with_mtp) continue;
    const StoredTensor* stored = reader.find(name);
    if (stored == nullptr) {
      // An FP8 weight needs its scales.
      const StoredTensor* target =
          want.role == ExpectedTensor::Role::kScale ? reader.find(want.target) : nullptr;
      if (!want.optional || (target != nullptr && target->entry->dtype == DType::kE4M3))
        problems.missing.push_back(name);
      continue;
    }
    std::string problem = check_stored(*stored->entry, want, fp8_config);
    if (problem.empty() && want.role == ExpectedTensor::Role::kScale) {
      const StoredTensor* target = reader.find(want.target);
      if (target == nullptr || target->entry->dtype != DType::kE4M3) {
        problem = fmt::format("{}: found scales, expected none ({} is not FP8)", name, want.target);
      }
    }
    if (!problem.empty()) problems.malformed.push_back(std::move(problem));
  }
  for (const auto& [name, stored] : reader.tensors()) {
    if (expected.find(name) != expected.end()) continue;
    if (is_derived_buffer(name) &&
        stored.entry->shape == Shape{reader.config().qk_rope_head_dim / 2})
      continue;
    problems.unexpected.push_back(name);
  }
  return problems;
}

}  // namespace fathom
