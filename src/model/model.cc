#include "model/model.h"

#include <cmath>

#include "core/random.h"
#include "model/head.h"

namespace fathom {
namespace {

// cos and sin of position * frequency, computed in fp64 from the integer position: in fp32 the
// product loses the slow dimensions' low bits long before 163,840 positions.
void fill_rotation_table(const ModelConfig& config, const TensorView& table_SR) {
  const std::vector<double> frequencies = rope_frequencies(config);
  const double amplitude = rope_amplitude(config);
  const auto fill = [&](auto* out) {
    for (int64_t p = 0; p < table_SR.dim(0); ++p) {
      for (double frequency : frequencies) {
        const double angle = static_cast<double>(p) * frequency;
        using T = std::remove_reference_t<decltype(*out)>;
        *out++ = static_cast<T>(std::cos(angle) * amplitude);
        *out++ = static_cast<T>(std::sin(angle) * amplitude);
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
  p.embedding_VD = set["model.embed_tokens.weight"];
  p.head_VD = set[head_name(config)];
  p.final_norm_D = set["model.norm.weight"];
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    p.blocks.push_back(BlockParameters::of(set, config, i));
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k)
    p.mtp_modules.push_back(MtpParameters::of(set, config, k));
  return p;
}

Model::Model(const ModelConfig& config, const Policy& policy, int64_t max_positions)
    : config_(config),
      policy_(policy),
      weights_("weights", parameter_specs(config), policy.weight_dtypes()),
      parameters_(ModelParameters::of(weights_, config)),
      tables_(measured_arena("tables", [&](Arena& arena) {
        cos_sin_SR_ =
            arena.allocate(policy.small,
                           Shape{max_positions > 0 ? max_positions : config.max_position_embeddings,
                                 config.qk_rope_head_dim},
                           "cos_sin_SR");
      })) {
  fill_rotation_table(config_, cos_sin_SR_);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks_.emplace_back(config_, policy_, i, parameters_.blocks[static_cast<size_t>(i)]);
  }
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k) {
    mtp_modules_.emplace_back(config_, policy_, k, parameters_.mtp_modules[static_cast<size_t>(k)]);
  }
}

void forward_cached(Context& ctx, const Model& model, std::span<const SequenceInput> sequences,
                    const TensorView& last_logits_BV, int64_t* expert_counts) {
  const ModelConfig& config = model.config();
  const int64_t B = static_cast<int64_t>(sequences.size());
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  int64_t T = 0;
  for (const SequenceInput& sequence : sequences) T += static_cast<int64_t>(sequence.tokens.size());

  int32_t* tokens = scratch.allocate<int32_t>(T, "tokens_T");
  int32_t* positions = scratch.allocate<int32_t>(T, "positions_T");
  int32_t* last_rows = scratch.allocate<int32_t>(B, "last_rows_B");
  CachedSequence* cached = reinterpret_cast<CachedSequence*>(
      scratch.allocate<uint8_t>(B * static_cast<int64_t>(sizeof(CachedSequence)), "cached_B"));
  int64_t t = 0;
  for (int64_t b = 0; b < B; ++b) {
    const SequenceInput& sequence = sequences[static_cast<size_t>(b)];
    FATHOM_CHECK_EQ(sequence.cache_LSX.size(), static_cast<size_t>(config.num_hidden_layers),
                    "one cache view a layer");
    for (size_t i = 0; i < sequence.tokens.size(); ++i, ++t) {
      tokens[t] = sequence.tokens[i];
      positions[t] = static_cast<int32_t>(sequence.num_cached) + static_cast<int32_t>(i);
      FATHOM_CHECK_LT(positions[t], model.max_positions(), "position beyond the rotation table");
    }
    last_rows[b] = static_cast<int32_t>(t - 1);
  }
  const RowLayout rows{
      .num_rows = T, .row_tokens = 1, .positions_T = positions, .cos_sin_SR = model.cos_sin_SR()};
  TensorView x_TD = scratch.allocate(model.policy().residual, Shape{T, config.hidden_size}, "x_TD");
  embedding_forward(ctx, model.parameters().embedding_VD, tokens, x_TD);
  ctx.observe("embedding", -1, x_TD);

  int64_t moe_idx = 0;
  for (const Block& block : model.blocks()) {
    for (int64_t b = 0; b < B; ++b) {
      const SequenceInput& sequence = sequences[static_cast<size_t>(b)];
      new (&cached[b])
          CachedSequence{sequence.cache_LSX[static_cast<size_t>(block.layer_idx())],
                         sequence.num_cached, static_cast<int64_t>(sequence.tokens.size())};
    }
    int64_t* counts = nullptr;
    if (block.is_moe() && expert_counts != nullptr)
      counts = expert_counts + moe_idx * config.n_routed_experts;
    if (block.is_moe()) ++moe_idx;
    block.forward_cached(ctx, std::span<const CachedSequence>(cached, static_cast<size_t>(B)), rows,
                         x_TD, counts);
    ctx.observe("block", block.layer_idx(), x_TD);
  }

  // Only the last token of each sequence needs the head.
  TensorView last_BD =
      scratch.allocate(model.policy().residual, Shape{B, config.hidden_size}, "last_BD");
  gather_rows(ctx, x_TD, TensorView(last_rows, DType::kI32, Shape{B}, "last_rows_B"), last_BD);
  TensorView hidden_BD = scratch.allocate(model.policy().activations, last_BD.shape, "hidden_BD");
  rms_norm_forward(ctx, {.x_TD = last_BD,
                         .w_D = model.parameters().final_norm_D,
                         .eps = config.rms_norm_eps,
                         .y_TD = hidden_BD});
  head_logits(ctx, hidden_BD, model.parameters().head_VD, last_logits_BV);
  ctx.observe("logits", -1, last_logits_BV);
}

std::vector<int64_t> moe_layers(const ModelConfig& config) {
  std::vector<int64_t> layers;
  for (int64_t i = 0; i < config.num_hidden_layers + config.num_nextn_predict_layers; ++i) {
    if (config.is_moe_layer(i)) layers.push_back(i);
  }
  return layers;
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
  for (int64_t p = 0; p < parameters.size(); ++p) {
    const TensorView& view = parameters.view(p);
    const Random random(seed, RandomPurpose::kInit, static_cast<uint64_t>(p));
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      switch (parameters.spec(p).kind) {
        case ParameterKind::kNorm:
          store(view, i, 1);
          break;
        case ParameterKind::kRouterBias:
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
