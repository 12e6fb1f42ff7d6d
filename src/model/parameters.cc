#include "model/parameters.h"

#include "core/integer.h"

namespace fathom {
namespace {

// Appends the tensors of one layer; `prefix` is "model.layers.N.".
class SpecBuilder {
 public:
  explicit SpecBuilder(const ModelConfig& config) : config_(config) {}

  void add(std::string name, Shape shape, ParameterKind kind, bool packed = false) {
    ParameterSpec spec{.name = std::move(name),
                       .shape = shape,
                       .kind = kind,
                       .layer_idx = layer_idx_,
                       .packed = packed};
    specs_.push_back(std::move(spec));
  }
  void linear(const std::string& name, int64_t out, int64_t in, bool packed = false) {
    add(name, Shape{out, in}, ParameterKind::kMatrix, packed);
    specs_.back().fp8_in_published = true;
  }
  void norm(const std::string& name, int64_t width) {
    add(name, Shape{width}, ParameterKind::kNorm);
  }

  void layer(int64_t layer_idx, bool moe) {
    layer_idx_ = layer_idx;
    const std::string prefix = fmt::format("model.layers.{}.", layer_idx);
    attention(prefix);
    if (moe) {
      experts(prefix + "mlp.");
    } else {
      feed_forward(prefix + "mlp.", config_.intermediate_size);
    }
    layer_idx_ = -1;
  }

  // Module k (1-based): the norms and the projection that join hidden state and next embedding,
  // then a layer of the ordinary kind, then the norm before the shared head.
  void mtp_module(int64_t k) {
    const int64_t index = config_.num_hidden_layers + k - 1;
    layer_idx_ = index;
    const std::string prefix = fmt::format("model.layers.{}.", index);
    norm(prefix + "enorm.weight", config_.hidden_size);
    norm(prefix + "hnorm.weight", config_.hidden_size);
    add(prefix + "eh_proj.weight", Shape{config_.hidden_size, 2 * config_.hidden_size},
        ParameterKind::kMatrix);
    layer(index, config_.is_moe_layer(index));
    layer_idx_ = index;
    norm(prefix + "shared_head.norm.weight", config_.hidden_size);
    layer_idx_ = -1;
  }

  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  void attention(const std::string& prefix) {
    const ModelConfig& c = config_;
    norm(prefix + "input_layernorm.weight", c.hidden_size);
    const std::string a = prefix + "self_attn.";
    const int64_t q_width = c.num_attention_heads * c.qk_head_dim();
    const int64_t kv_width = c.kv_lora_rank + c.qk_rope_head_dim;
    // The first projections of query and latent read the same input: one fused product.
    if (c.q_lora_rank > 0) {
      linear(a + "q_a_proj.weight", c.q_lora_rank, c.hidden_size);
      linear(a + "kv_a_proj_with_mqa.weight", kv_width, c.hidden_size, /*packed=*/true);
      norm(a + "q_a_layernorm.weight", c.q_lora_rank);
      linear(a + "q_b_proj.weight", q_width, c.q_lora_rank);
    } else {
      linear(a + "q_proj.weight", q_width, c.hidden_size);
      linear(a + "kv_a_proj_with_mqa.weight", kv_width, c.hidden_size, /*packed=*/true);
    }
    norm(a + "kv_a_layernorm.weight", c.kv_lora_rank);
    linear(a + "kv_b_proj.weight", c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim),
           c.kv_lora_rank);
    linear(a + "o_proj.weight", c.hidden_size, c.num_attention_heads * c.v_head_dim);
    norm(prefix + "post_attention_layernorm.weight", c.hidden_size);
  }

  void feed_forward(const std::string& prefix, int64_t width) {
    linear(prefix + "gate_proj.weight", width, config_.hidden_size);
    linear(prefix + "up_proj.weight", width, config_.hidden_size, /*packed=*/true);
    linear(prefix + "down_proj.weight", config_.hidden_size, width);
  }

  void experts(const std::string& prefix) {
    const ModelConfig& c = config_;
    add(prefix + "gate.weight", Shape{c.n_routed_experts, c.hidden_size}, ParameterKind::kRouter);
    if (c.has_router_bias()) {
      add(prefix + "gate.e_score_correction_bias", Shape{c.n_routed_experts},
          ParameterKind::kRouterBias);
    }
    const auto expert = [&](int64_t e, const char* name, int64_t out, int64_t in, bool packed) {
      linear(fmt::format("{}experts.{}.{}.weight", prefix, e, name), out, in, packed);
      specs_.back().expert_idx = e;
    };
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      expert(e, "gate_proj", c.moe_intermediate_size, c.hidden_size, e > 0);
      expert(e, "up_proj", c.moe_intermediate_size, c.hidden_size, true);
    }
    for (int64_t e = 0; e < c.n_routed_experts; ++e) {
      expert(e, "down_proj", c.hidden_size, c.moe_intermediate_size, e > 0);
    }
    if (c.n_shared_experts > 0) {
      feed_forward(prefix + "shared_experts.", c.n_shared_experts * c.moe_intermediate_size);
    }
  }

  const ModelConfig& config_;
  std::vector<ParameterSpec> specs_;
  int64_t layer_idx_ = -1;
};

}  // namespace

std::vector<ParameterSpec> parameter_specs(const ModelConfig& config) {
  SpecBuilder builder(config);
  builder.add("model.embed_tokens.weight", Shape{config.vocab_size, config.hidden_size},
              ParameterKind::kEmbedding);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) builder.layer(i, config.is_moe_layer(i));
  builder.norm("model.norm.weight", config.hidden_size);
  if (!config.tie_word_embeddings) {
    builder.add("lm_head.weight", Shape{config.vocab_size, config.hidden_size},
                ParameterKind::kEmbedding);
  }
  for (int64_t k = 1; k <= config.num_nextn_predict_layers; ++k) builder.mtp_module(k);
  return builder.take();
}

std::vector<ParameterAlias> parameter_aliases(const ModelConfig& config) {
  const std::string embedding = "model.embed_tokens.weight";
  const std::string head = config.tie_word_embeddings ? embedding : "lm_head.weight";
  std::vector<ParameterAlias> aliases;
  for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k) {
    const std::string prefix = fmt::format("model.layers.{}.", config.num_hidden_layers + k);
    aliases.push_back({prefix + "embed_tokens.weight", embedding});
    aliases.push_back({prefix + "shared_head.head.weight", head});
  }
  return aliases;
}

ParameterCount count_parameters(const ModelConfig& config) {
  ParameterCount count;
  int64_t inactive = 0;  // routed experts that a token does not visit, main model only
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const int64_t n = spec.shape.num_elements();
    if (spec.layer_idx >= config.num_hidden_layers) {
      count.mtp_unique += n;
      continue;
    }
    count.main_model += n;
    if (spec.expert_idx >= config.num_experts_per_tok) inactive += n;
  }
  const int64_t embedding = config.vocab_size * config.hidden_size;
  count.mtp_stored = count.mtp_unique + 2 * config.num_nextn_predict_layers * embedding;
  count.active = count.main_model - inactive;
  count.active_without_embedding =
      config.tie_word_embeddings ? count.active : count.active - embedding;
  count.active_without_both = count.active_without_embedding - embedding;
  return count;
}

ParameterSet::ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
                           ParameterDtypes dtypes)
    : specs_(std::make_shared<const std::vector<ParameterSpec>>(specs)),
      arena_(measured_arena(arena_name, [&](Arena& arena) {
        views_.clear();
        for (const ParameterSpec& spec : *specs_) {
          views_.push_back(
              arena.allocate(dtypes.of(spec.kind), spec.shape, spec.name.c_str(), spec.packed));
        }
      })) {
  for (size_t i = 0; i < specs_->size(); ++i) {
    const bool inserted = index_.emplace((*specs_)[i].name, static_cast<int64_t>(i)).second;
    FATHOM_CHECK(inserted, "parameter '{}' twice", (*specs_)[i].name);
  }
}

TensorView ParameterSet::operator[](const std::string& name) const {
  const auto found = index_.find(name);
  FATHOM_CHECK(found != index_.end(), "no parameter '{}'", name);
  return views_[static_cast<size_t>(found->second)];
}

TensorView ParameterSet::fused_rows(const std::string& first_name, int64_t count) const {
  const auto found = index_.find(first_name);
  FATHOM_CHECK(found != index_.end(), "no parameter '{}'", first_name);
  TensorView fused = views_[static_cast<size_t>(found->second)];
  int64_t num_rows = fused.dim(0);
  for (int64_t i = found->second + 1; i < found->second + count; ++i) {
    const TensorView& next = views_[static_cast<size_t>(i)];
    const std::byte* expected = static_cast<const std::byte*>(fused.data) +
                                num_rows * fused.dim(1) * dtype_bytes(fused.dtype);
    FATHOM_CHECK(next.dim(1) == fused.dim(1) && next.data == expected,
                 "'{}' does not follow '{}' in memory", next.name, first_name);
    num_rows += next.dim(0);
  }
  return TensorView(fused.data, fused.dtype, Shape{num_rows, fused.dim(1)}, fused.name);
}

TensorView ParameterSet::stacked(const std::string& first_name, int64_t count,
                                 int64_t groups) const {
  const TensorView fused = fused_rows(first_name, count);
  return fused.reshaped(Shape{groups, fused.dim(0) / groups, fused.dim(1)});
}

}  // namespace fathom
