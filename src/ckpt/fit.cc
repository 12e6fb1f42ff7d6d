#include "ckpt/fit.h"

#include <algorithm>

#include "ckpt/panel_tensors.h"
#include "ckpt/place_weights.h"
#include "core/json.h"
#include "kernels/panel.h"
#include "model/cache_layout.h"
#include "model/parameter_bytes.h"
#include "model/step_bytes.h"
#include "runtime/cpu.h"

namespace fathom {
namespace {

// Of the program and its libraries alone, as `fathom inspect` itself has it.
constexpr int64_t kProgramBytes = int64_t{24} << 20;

std::string format_name(const ParameterPlace& place) {
  if (place.grain == ScaleGrain::kPanel) return place.dtype == DType::kI8 ? "int8" : "int4";
  return std::string(dtype_name(place.dtype));
}

int64_t scale_bytes(const ParameterSpec& spec, const ParameterPlace& place) {
  if (place.grain == ScaleGrain::kNone) return 0;
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  return place.grain == ScaleGrain::kPanel
             ? panel_scale_shape(place.dtype, rows, cols).num_elements() * dtype_bytes(DType::kBF16)
             : scale_shape(place.grain, rows, cols).num_elements() * dtype_bytes(DType::kF32);
}

int64_t code_bytes(const ParameterSpec& spec, const ParameterPlace& place) {
  return place.grain == ScaleGrain::kPanel
             ? panel_code_shape(place.dtype, spec.shape[0], spec.shape[1]).num_elements()
             : spec.shape.num_elements() * dtype_bytes(place.dtype);
}

// Weights in panels, of the policy's own format elsewhere.
int64_t quantised_bytes(const std::vector<ParameterSpec>& specs, const Policy& policy,
                        bool four_bits) {
  const auto plan = plan_panels(specs, four_bits ? PanelBits::kMixed : PanelBits::kEight);
  int64_t total = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    total += plan[i]
                 ? panel_bytes(*plan[i], specs[i].shape[0], specs[i].shape[1])
                 : specs[i].shape.num_elements() * dtype_bytes(policy.weight_dtypes().of(specs[i]));
  }
  return total;
}

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace

InferenceFit inference_fit(FileSystem& files, const std::string& folder, const Policy& policy,
                           const InferenceUse& use) {
  const CheckpointReader reader(files, folder);
  const LoadOptions options{.allow_missing_mtp = true};
  require_manifest(reader, options);
  const ModelConfig config = config_to_load(reader, options);
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  std::vector<ParameterPlace> places = place_weights(reader, specs, policy, /*map=*/true);
  InferenceFit fit;
  fit.available_bytes = use.available_bytes > 0 ? use.available_bytes : available_memory_bytes();
  fit.context_tokens = std::min(config.max_position_embeddings,
                                use.context_tokens > 0 ? use.context_tokens : int64_t{4096});
  fit.panels = use.panels && has_loaded_panels(use.isa) && policy.activations == DType::kBF16 &&
               copy_for_panels(config, specs, fit.available_bytes, places);
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t bytes = code_bytes(specs[i], places[i]) + scale_bytes(specs[i], places[i]);
    fit.weight_bytes[format_name(places[i])] += bytes;
    if (places[i].data != nullptr) fit.mapped_bytes += bytes;
  }
  fit.own_bytes = own_parameter_bytes(specs, places);
  if (fit.panels) {
    const int64_t keys =
        transposed_key_bytes(config, specs, places, fit_for_panels(config, specs, places));
    fit.own_bytes += keys;
    if (keys > 0) fit.weight_bytes["transposed keys"] = keys;
  }
  fit.table_bytes =
      config.max_position_embeddings * config.qk_rope_head_dim * dtype_bytes(policy.small);
  const bool scaled = std::any_of(places.begin(), places.end(), [](const ParameterPlace& place) {
    return place.grain == ScaleGrain::kPanel && panel_has_scales(place.dtype);
  });
  fit.working_bytes =
      step_scratch_bytes(config, policy,
                         {.num_tokens = std::min(kPromptStepTokens, fit.context_tokens),
                          .context_tokens = fit.context_tokens,
                          .scaled_weights = scaled}) +
      2 * config.vocab_size * dtype_bytes(policy.small);  // logits, and what is drawn from them
  fit.program_bytes = kProgramBytes;
  const CacheLayout layout = CacheLayout::of(config, policy.latent_cache);
  fit.cache_bytes_per_token = layout.page_bytes() / kCachePageTokens;
  const int64_t fixed =
      fit.mapped_bytes + fit.own_bytes + fit.table_bytes + fit.working_bytes + fit.program_bytes;
  fit.cache_bytes = fit.cache_bytes_per_token * fit.context_tokens;
  fit.peak_bytes = fixed + fit.cache_bytes;
  fit.fits = fit.peak_bytes <= fit.available_bytes;
  fit.max_context_tokens = std::clamp<int64_t>(
      (fit.available_bytes - fixed) / std::max<int64_t>(fit.cache_bytes_per_token, 1), 0,
      config.max_position_embeddings);
  if (fit.fits) return fit;

  const auto add = [&](std::string what, int64_t peak) {
    fit.remedies.push_back({std::move(what), peak, peak <= fit.available_bytes});
  };
  if (fit.max_context_tokens > 0) {
    add(fmt::format("a context of {} tokens", fit.max_context_tokens),
        fixed + fit.max_context_tokens * fit.cache_bytes_per_token);
  }
  const int64_t weights = fit.mapped_bytes + fit.own_bytes;
  for (const bool four_bits : {false, true}) {
    const int64_t bytes = quantised_bytes(specs, policy, four_bits);
    if (bytes >= weights) continue;
    add(fmt::format("fathom quantize --to {}", four_bits ? "int4" : "int8"),
        fit.peak_bytes - weights + bytes);
  }
  int64_t expert_bytes = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].expert_idx >= 0)
      expert_bytes += code_bytes(specs[i], places[i]) + scale_bytes(specs[i], places[i]);
  }
  const int64_t without_experts = fit.peak_bytes - expert_bytes;
  if (expert_bytes > 0 && without_experts < fit.available_bytes) {
    const int64_t room = (fit.available_bytes - without_experts) * 9 / 10;
    add(fmt::format("experts on disk: --expert-memory {:.1f}", static_cast<double>(room) / 1e9),
        without_experts + room);
  }
  return fit;
}

std::string fit_text(const InferenceFit& fit) {
  std::string text;
  const auto line = [&](const char* label, const std::string& value) {
    text += fmt::format("{:<12}{}\n", label, value);
  };
  std::string formats;
  for (const auto& [name, bytes] : fit.weight_bytes)
    formats += fmt::format("{}{} {}", formats.empty() ? "" : ", ", gigabytes(bytes), name);
  line("here", fmt::format("{} available", gigabytes(fit.available_bytes)));
  line("weights", fmt::format("{} mapped, {} copied{}: {}", gigabytes(fit.mapped_bytes),
                              gigabytes(fit.own_bytes), fit.panels ? " into panels" : "", formats));
  line("cache", fmt::format("{} bytes a token, {} for {} tokens", fit.cache_bytes_per_token,
                            gigabytes(fit.cache_bytes), fit.context_tokens));
  line("besides", fmt::format("{} of positions, temporaries and the program",
                              gigabytes(fit.table_bytes + fit.working_bytes + fit.program_bytes)));
  line("peak",
       fmt::format("{}: {}", gigabytes(fit.peak_bytes), fit.fits ? "fits" : "does not fit"));
  line("longest", fmt::format("{} tokens of context fit", fit.max_context_tokens));
  for (const InferenceFit::Remedy& remedy : fit.remedies) {
    line("instead", fmt::format("{:<40} {:>10}  {}", remedy.what, gigabytes(remedy.peak_bytes),
                                remedy.fits ? "fits" : "does not fit"));
  }
  return text;
}

std::string fit_json(const InferenceFit& fit) {
  Json json{{"memory_available_bytes", fit.available_bytes},
            {"context_tokens", fit.context_tokens},
            {"weights_by_format", fit.weight_bytes},
            {"weights_mapped_bytes", fit.mapped_bytes},
            {"weights_copied_bytes", fit.own_bytes},
            {"weights_in_panels", fit.panels},
            {"position_table_bytes", fit.table_bytes},
            {"working_bytes", fit.working_bytes},
            {"program_bytes", fit.program_bytes},
            {"cache_bytes_per_token", fit.cache_bytes_per_token},
            {"cache_bytes", fit.cache_bytes},
            {"predicted_peak_bytes", fit.peak_bytes},
            {"fits", fit.fits},
            {"max_context_tokens", fit.max_context_tokens},
            {"remedies", Json::array()}};
  for (const InferenceFit::Remedy& remedy : fit.remedies) {
    json["remedies"].push_back({{"what", remedy.what},
                                {"predicted_peak_bytes", remedy.peak_bytes},
                                {"fits", remedy.fits}});
  }
  return json.dump();
}

}  // namespace fathom
