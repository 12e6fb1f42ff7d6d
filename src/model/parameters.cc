#include "model/parameters.h"

#include <numeric>

#include "core/integer.h"
#include "model/parameter_bytes.h"

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
    if (!c.has_latent_attention()) {
      grouped_attention(a);
      norm(prefix + "post_attention_layernorm.weight", c.hidden_size);
      return;
    }
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
    specs_.back().row_part = std::gcd(c.qk_nope_head_dim, c.v_head_dim);
    linear(a + "o_proj.weight", c.hidden_size, c.num_attention_heads * c.v_head_dim);
    norm(prefix + "post_attention_layernorm.weight", c.hidden_size);
  }

  // Key and value read the same input and lie side by side in the cache: one fused product.
  void grouped_attention(const std::string& a) {
    const ModelConfig& c = config_;
    const int64_t q_width = c.num_attention_heads * c.qk_head_dim();
    const int64_t k_width = c.num_key_value_heads * c.qk_head_dim();
    const int64_t v_width = c.num_key_value_heads * c.v_head_dim;
    linear(a + "q_proj.weight", q_width, c.hidden_size);
    linear(a + "k_proj.weight", k_width, c.hidden_size);
    linear(a + "v_proj.weight", v_width, c.hidden_size, /*packed=*/true);
    if (c.qkv_bias) {
      add(a + "q_proj.bias", Shape{q_width}, ParameterKind::kBias);
      add(a + "k_proj.bias", Shape{k_width}, ParameterKind::kBias);
      add(a + "v_proj.bias", Shape{v_width}, ParameterKind::kBias, /*packed=*/true);
    }
    linear(a + "o_proj.weight", c.hidden_size, c.num_attention_heads * c.v_head_dim);
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

static std::vector<ParameterPlace> places_of(const std::vector<ParameterSpec>& specs,
                                             const ParameterDtypes& dtypes) {
  std::vector<ParameterPlace> places;
  for (const ParameterSpec& spec : specs) {
    places.push_back({.dtype = dtypes.of(spec),
                      .grain = dtypes.scaled(spec) ? dtypes.linear_grain : ScaleGrain::kNone});
  }
  return places;
}

static Shape codes_shape(const ParameterSpec& spec, const ParameterPlace& place) {
  return place.grain == ScaleGrain::kPanel
             ? panel_code_shape(place.dtype, spec.shape[0], spec.shape[1])
             : spec.shape;
}

static Shape scales_shape(const ParameterSpec& spec, const ParameterPlace& place) {
  return place.grain == ScaleGrain::kPanel
             ? panel_scale_shape(place.dtype, spec.shape[0], spec.shape[1])
             : scale_shape(place.grain, spec.shape[0], spec.shape[1]);
}

static bool has_scales(const ParameterPlace& place) {
  return place.grain != ScaleGrain::kNone &&
         (place.grain != ScaleGrain::kPanel || panel_has_scales(place.dtype));
}

// Codes first, then scales: both of neighbours follow each other without a gap.
static void lay_out(Arena& arena, const std::vector<ParameterSpec>& specs,
                    const std::vector<ParameterPlace>& places, std::vector<TensorView>& views,
                    std::vector<TensorView>& scales) {
  views.assign(specs.size(), {});
  scales.assign(specs.size(), {});
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const ParameterPlace& place = places[i];
    const Shape shape = codes_shape(spec, place);
    views[i] =
        place.data == nullptr
            ? arena.allocate(place.dtype, shape, spec.name.c_str(), spec.packed)
            : TensorView(const_cast<void*>(place.data), place.dtype, shape, spec.name.c_str());
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const ParameterPlace& place = places[i];
    if (!has_scales(place)) continue;
    const DType dtype = place.grain == ScaleGrain::kPanel ? DType::kBF16 : DType::kF32;
    const Shape shape = scales_shape(spec, place);
    scales[i] = place.scales == nullptr
                    ? arena.allocate(dtype, shape, spec.name.c_str(), spec.packed)
                    : TensorView(const_cast<void*>(place.scales), dtype, shape, spec.name.c_str());
  }
}

int64_t own_parameter_bytes(const std::vector<ParameterSpec>& specs,
                            const std::vector<ParameterPlace>& places) {
  Arena measure("weights");
  std::vector<TensorView> views, scales;
  lay_out(measure, specs, places, views, scales);
  return measure.used_bytes();
}

ParameterSet::ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
                           ParameterDtypes dtypes)
    : ParameterSet(arena_name, specs, nullptr, places_of(specs, dtypes)) {}

ParameterSet::ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
                           std::shared_ptr<const void> owner,
                           const std::vector<ParameterPlace>& places)
    : specs_(std::make_shared<const std::vector<ParameterSpec>>(specs)),
      places_(places),
      owner_(std::move(owner)),
      arena_(measured_arena(arena_name, [&](Arena& arena) {
        FATHOM_CHECK_EQ(places_.size(), specs_->size(), "places of parameters");
        lay_out(arena, *specs_, places_, views_, scales_);
      })) {
  for (size_t i = 0; i < specs_->size(); ++i) {
    const bool inserted = index_.emplace((*specs_)[i].name, static_cast<int64_t>(i)).second;
    FATHOM_CHECK(inserted, "parameter '{}' twice", (*specs_)[i].name);
  }
}

TensorView ParameterSet::operator[](const std::string& name) const {
  return views_[static_cast<size_t>(index_of(name))];
}

int64_t ParameterSet::index_of(const std::string& name) const {
  const auto found = index_.find(name);
  FATHOM_CHECK(found != index_.end(), "no parameter '{}'", name);
  return found->second;
}

static const std::byte* end_of(const TensorView& v) {
  return static_cast<const std::byte*>(v.data) + v.num_bytes();
}

// Whether `count` tensors from the first on follow each other in memory and are of one kind.
static bool follow(const TensorView* views, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    if (views[i].dtype != views[0].dtype || views[i].dim(1) != views[0].dim(1) ||
        views[i].data != end_of(views[i - 1]))
      return false;
  }
  return true;
}

// Such tensors with their rows joined.
static TensorView join_rows(const TensorView* views, int64_t count) {
  FATHOM_CHECK(follow(views, count), "'{}' and what should follow it in memory do not join",
               views[0].name);
  int64_t num_rows = 0;
  for (int64_t i = 0; i < count; ++i) num_rows += views[i].dim(0);
  return TensorView(views[0].data, views[0].dtype, Shape{num_rows, views[0].dim(1)}, views[0].name);
}

// The distance in elements of groups of `count` tensors each, or -1 where they are not alike and
// evenly apart. Groups need not touch: in files, experts are apart by what lies between.
static int64_t group_stride(const TensorView* views, int64_t count, int64_t groups) {
  const auto* begin = static_cast<const std::byte*>(views[0].data);
  int64_t rows = 0;
  for (int64_t i = 0; i < count; ++i) rows += views[i].dim(0);
  if (groups == 1) return rows * views[0].dim(1);
  const int64_t distance = static_cast<const std::byte*>(views[count].data) - begin;
  const int64_t element_bytes = dtype_bytes(views[0].dtype);
  for (int64_t g = 0; g < groups; ++g) {
    const TensorView* group = views + g * count;
    int64_t group_rows = 0;
    for (int64_t i = 0; i < count; ++i) group_rows += group[i].dim(0);
    if (group->data != begin + g * distance || group->dtype != views[0].dtype ||
        group->dim(1) != views[0].dim(1) || group_rows != rows || !follow(group, count))
      return -1;
  }
  if (distance < rows * views[0].dim(1) * element_bytes || distance % element_bytes != 0) return -1;
  return distance / element_bytes;
}

TensorView ParameterSet::fused_row(const std::string& first_name, int64_t count) const {
  const TensorView* views = &views_[static_cast<size_t>(index_of(first_name))];
  int64_t width = 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* expected =
        static_cast<const std::byte*>(views[0].data) + width * dtype_bytes(views[0].dtype);
    FATHOM_CHECK(views[i].shape.num_dims == 1 && views[i].data == expected,
                 "'{}' does not follow '{}' in memory", views[i].name, views[0].name);
    width += views[i].dim(0);
  }
  return TensorView(views[0].data, views[0].dtype, Shape{1, width}, views[0].name);
}

// [groups, rows, columns] of groups of `count` tensors.
static TensorView stack_groups(const TensorView* views, int64_t count, int64_t groups) {
  const TensorView first = join_rows(views, count);
  const int64_t stride = group_stride(views, count, groups);
  FATHOM_CHECK(stride >= 0, "{} matrices from '{}' on are not evenly apart in memory", groups,
               first.name);
  TensorView stacked(first.data, first.dtype, Shape{groups, first.dim(0), first.dim(1)},
                     first.name);
  stacked.stride[0] = stride;
  return stacked;
}

bool tensors_join(std::span<const TensorView> views, int64_t groups) {
  const int64_t count = static_cast<int64_t>(views.size()) / groups;
  return follow(views.data(), count) && group_stride(views.data(), count, groups) >= 0;
}

LinearView ParameterSet::linear(const std::string& first_name, int64_t count,
                                int64_t groups) const {
  const auto first = static_cast<size_t>(index_of(first_name));
  const int64_t joined = count / groups;  // parameters of one matrix
  const auto view_of = [&](const std::vector<TensorView>& views) {
    return groups > 1 ? stack_groups(&views[first], joined, groups)
                      : join_rows(&views[first], count);
  };
  LinearView view;
  view.w = view_of(views_);
  view.grain = places_[first].grain;
  if (scales_[first].empty()) return view;
  view.scales = view_of(scales_);
  if (view.grain == ScaleGrain::kPanel) return view;  // whole panels join
  FATHOM_CHECK_LE(joined, 2, "parameters joined from {}", first_name);
  const int64_t first_rows = spec(static_cast<int64_t>(first)).shape[0];
  const bool in_blocks = view.grain == ScaleGrain::kBlock || view.grain == ScaleGrain::kBlockPanel;
  if (joined == 2 && (!in_blocks || first_rows % kScaleTile != 0)) {
    view.num_parts = 2;
    view.part_rows[0] = first_rows;
    view.part_rows[1] = spec(static_cast<int64_t>(first) + 1).shape[0];
  }
  return view;
}

static bool is_kv_b(const ParameterSpec& spec) { return spec.name.ends_with("kv_b_proj.weight"); }

std::vector<bool> fit_for_panels(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                                 const std::vector<ParameterPlace>& places) {
  // kv_b_proj is also read by head: its key rows transposed, its value rows alone.
  const bool heads_fit = panels_fit(config.qk_nope_head_dim, config.kv_lora_rank) &&
                         panels_fit(config.v_head_dim, config.kv_lora_rank) &&
                         panels_fit(config.kv_lora_rank, config.qk_nope_head_dim);
  const auto fits_alone = [&](size_t i) {
    const ParameterSpec& spec = specs[i];
    const ParameterPlace& place = places[i];
    const bool is_product = (spec.kind == ParameterKind::kMatrix && spec.fp8_in_published &&
                             (!is_kv_b(spec) || heads_fit)) ||
                            spec.name == "lm_head.weight";
    const bool is_bf16 = place.dtype == DType::kBF16 && place.grain == ScaleGrain::kNone;
    const bool is_blocks = place.dtype == DType::kE4M3 && place.grain == ScaleGrain::kBlock;
    return is_product && panels_fit(spec.shape[0], spec.shape[1]) &&
           (is_bf16 || (is_blocks && !is_kv_b(spec)));
  };
  std::vector<bool> fits(specs.size());
  for (size_t begin = 0; begin < specs.size();) {
    size_t end = begin;
    bool all = true;
    do {
      all = fits_alone(end++) && all;
    } while (end < specs.size() && specs[end].packed);
    for (; begin < end; ++begin) fits[begin] = all;
  }
  return fits;
}

void ParameterSet::to_panels(Context& ctx, const ModelConfig& config) {
  std::vector<bool> fits = fit_for_panels(config, *specs_, places_);
  for (size_t i = 0; i < fits.size(); ++i) fits[i] = fits[i] && places_[i].data == nullptr;
  transpose_keys(ctx, config, fits);
  for (size_t i = 0; i < views_.size(); ++i) {
    if (!fits[i]) continue;
    fathom::to_panels(ctx, views_[i]);
    places_[i].grain =
        places_[i].grain == ScaleGrain::kBlock ? ScaleGrain::kBlockPanel : ScaleGrain::kPanel;
  }
}

static void lay_out_keys(Arena& arena, const ModelConfig& config,
                         const std::vector<ParameterSpec>& specs, const std::vector<bool>& fits,
                         std::vector<TensorView>& keys) {
  const Shape shape{config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim};
  keys.assign(specs.size(), {});
  for (size_t i = 0; i < specs.size(); ++i) {
    if (fits[i] && is_kv_b(specs[i]))
      keys[i] = arena.allocate(DType::kBF16, shape, "transposed_keys_HCN");
  }
}

int64_t transposed_key_bytes(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                             const std::vector<ParameterPlace>& places,
                             const std::vector<bool>& fits) {
  Arena measure("transposed_keys");
  std::vector<TensorView> keys;
  std::vector<bool> own = fits;
  for (size_t i = 0; i < own.size(); ++i) own[i] = own[i] && places[i].data == nullptr;
  lay_out_keys(measure, config, specs, own, keys);
  return measure.used_bytes();
}

void ParameterSet::transpose_keys(Context& ctx, const ModelConfig& config,
                                  const std::vector<bool>& fits) {
  const int64_t H = config.num_attention_heads, C = config.kv_lora_rank;
  const int64_t N = config.qk_nope_head_dim, Z = N + config.v_head_dim;
  keys_arena_ = measured_arena("transposed_keys", [&](Arena& arena) {
    lay_out_keys(arena, config, *specs_, fits, transposed_keys_);
  });
  for (size_t i = 0; i < views_.size(); ++i) {
    if (transposed_keys_[i].empty()) continue;
    const auto* rows = views_[i].as<bf16>();
    auto* out = transposed_keys_[i].as<bf16>();
    ctx.threads().parallel_for(H, [&](int64_t h, int) {
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t n = 0; n < N; ++n) out[(h * C + c) * N + n] = rows[(h * Z + n) * C + c];
      }
    });
    fathom::to_panels(ctx, transposed_keys_[i].reshaped(Shape{H * C, N}));
  }
}

TensorView ParameterSet::transposed_keys(const std::string& name) const {
  return transposed_keys_.empty() ? TensorView{}
                                  : transposed_keys_[static_cast<size_t>(index_of(name))];
}

ScaledView ParameterSet::scaled(int64_t i) const {
  FATHOM_CHECK(is_scaled(i), "'{}' has no scales", spec(i).name);
  return {views_[static_cast<size_t>(i)], scales_[static_cast<size_t>(i)],
          places_[static_cast<size_t>(i)].grain};
}

// Rows [begin, begin + count) of every matrix of a stack, or of the one matrix.
static TensorView matrix_rows(const TensorView& w, int64_t begin, int64_t count) {
  if (w.shape.num_dims == 2) return w.rows(begin, count);
  TensorView rows = w;
  rows.data = static_cast<std::byte*>(w.data) + begin * w.stride[1] * dtype_bytes(w.dtype);
  rows.shape.dim[1] = count;
  return rows;
}

ScaledView LinearView::part(int64_t part) const {
  if (num_parts == 1) return {w, scales, grain};
  const auto tile_rows = [&](int64_t rows) { return scale_shape(grain, rows, 1)[0]; };
  return {matrix_rows(w, part_begin(part), part_rows[part]),
          matrix_rows(scales, part == 0 ? 0 : tile_rows(part_rows[0]), tile_rows(part_rows[part])),
          grain};
}

}  // namespace fathom
