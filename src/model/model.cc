#include "model/model.h"

#include <cmath>
#include <unordered_map>

#include "core/random.h"
#include "model/head.h"

namespace fathom {
namespace {

// cos and sin of position * frequency, computed in fp64 from the integer position: in fp32 the
// product loses the slow dimensions' low bits long before 163,840 positions. Laid out as the
// family's rotation reads them: pairs beside each other, or half a head apart.
void fill_rotation_table(const ModelConfig& config, const TensorView& table_SR) {
  const std::vector<double> frequencies = rope_frequencies(config);
  const double amplitude = rope_amplitude(config);
  const auto half = static_cast<int64_t>(frequencies.size());
  const int64_t step = config.has_latent_attention() ? 2 : 1;
  const int64_t to_sin = config.has_latent_attention() ? 1 : half;
  const auto fill = [&](auto* out) {
    for (int64_t p = 0; p < table_SR.dim(0); ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * frequencies[static_cast<size_t>(i)];
        using T = std::remove_reference_t<decltype(*out)>;
        T* const pair = out + p * 2 * half + i * step;
        pair[0] = static_cast<T>(std::cos(angle) * amplitude);
        pair[to_sin] = static_cast<T>(std::sin(angle) * amplitude);
      }
    }
  };
  if (table_SR.dtype == DType::kF64) {
    fill(table_SR.as<double>());
  } else {
    fill(table_SR.as<float>());
  }
}

}  // namespace

std::string head_name(const ModelConfig& config) {
  return config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

ModelParameters ModelParameters::of(const ParameterSet& set, const ModelConfig& config) {
  ModelParameters p;
  const auto view = [&](const std::string& name) {
    return set.contains(name) ? set[name] : TensorView();
  };
  const auto holds_layer = [&](int64_t layer) {
    return set.contains(fmt::format("model.layers.{}.input_layernorm.weight", layer));
  };
  p.embedding_VD = view("model.embed_tokens.weight");
  p.head_VD = view(head_name(config));
  if (set.contains(head_name(config))) p.head = set.linear(head_name(config));
  p.final_norm_D = view("model.norm.weight");
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!holds_layer(i)) continue;
    p.layers.push_back(i);
    p.blocks.push_back(BlockParameters::of(set, config, i));
  }
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k) {
    if (holds_layer(config.num_hidden_layers + k))
      p.mtp_modules.push_back(MtpParameters::of(set, config, k));
  }
  return p;
}

Model::Model(const ModelConfig& config, const Policy& policy, int64_t max_positions,
             const ModelPart& part)
    : Model(config, policy,
            ParameterSet("weights", part.specs.empty() ? parameter_specs(config) : part.specs,
                         policy.weight_dtypes()),
            max_positions, part.exchange) {}

Model::Model(const ModelConfig& config, const Policy& policy, ParameterSet weights,
             int64_t max_positions, const TokenExchange* exchange)
    : config_(config),
      policy_(policy),
      weights_(std::move(weights)),
      parameters_(ModelParameters::of(weights_, config)),
      tables_(measured_arena("tables", [&](Arena& arena) {
        cos_sin_SR_ =
            arena.allocate(policy.small,
                           Shape{max_positions > 0 ? max_positions : config.max_position_embeddings,
                                 config.qk_rope_head_dim},
                           "cos_sin_SR");
      })) {
  fill_rotation_table(config_, cos_sin_SR_);
  const TokenExchange& reach = exchange != nullptr ? *exchange : local_token_exchange();
  for (size_t i = 0; i < parameters_.blocks.size(); ++i) {
    blocks_.emplace_back(config_, policy_, parameters_.layers[i], parameters_.blocks[i], reach);
  }
  for (size_t k = 0; k < parameters_.mtp_modules.size(); ++k) {
    mtp_modules_.emplace_back(config_, policy_, static_cast<int64_t>(k), parameters_.mtp_modules[k],
                              reach);
  }
}

std::vector<int64_t> moe_layers(const ModelConfig& config) {
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < config.num_hidden_layers + config.num_nextn_predict_layers; ++i) {
    if (config.is_moe_layer(i)) layers.push_back(i);
  }
  return layers;
}

void Model::use_expert_source(ExpertSource* source) {
  for (Block& block : blocks_) block.use_expert_source(source);
  for (MtpModule& module : mtp_modules_) module.block().use_expert_source(source);
}

void Model::keep_expert_source(std::unique_ptr<ExpertSource> source) {
  use_expert_source(source.get());
  kept_source_ = std::move(source);
}

void initialize_parameters(const ModelConfig& config, uint64_t seed, ParameterSet& parameters) {
  const auto store = [](const TensorView& view, int64_t i, double value) {
    switch (view.dtype) {
      case DType::kF64:
        view.as<double>()[i] = value;
        break;
      case DType::kF32:
        view.as<float>()[i] = static_cast<float>(value);
        break;
      case DType::kBF16:
        view.as<bf16>()[i] = bf16(static_cast<float>(value));
        break;
      default:
        FATHOM_CHECK(false, "initialising {}", to_string(view));
    }
  };
  std::unordered_map<std::string, uint64_t> index;  // in the whole model
  for (const ParameterSpec& spec : parameter_specs(config)) index.emplace(spec.name, index.size());
  for (int64_t p = 0; p < parameters.size(); ++p) {
    const TensorView& view = parameters.view(p);
    const Random random(seed, RandomPurpose::kInit, index.at(parameters.spec(p).name));
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      switch (parameters.spec(p).kind) {
        case ParameterKind::kNorm:
          store(view, i, 1);
          break;
        case ParameterKind::kRouterBias:
        case ParameterKind::kBias:
          store(view, i, 0);
          break;
        default:
          store(view, i, config.initializer_range * random.normal(static_cast<uint64_t>(i)));
      }
    }
  }
}

void copy_parameters(Context& ctx, const ParameterSet& from, ParameterSet& to) {
  FATHOM_CHECK_EQ(from.size(), to.size());
  for (int64_t i = 0; i < from.size(); ++i) {
    FATHOM_CHECK_EQ(from.spec(i).name, to.spec(i).name);
    if (to.is_scaled(i)) {
      quantize(ctx, {.x = plain_rows(from.view(i)), .y = to.scaled(i)});
    } else {
      cast(ctx, from.view(i), to.view(i));
    }
  }
}

}  // namespace fathom
