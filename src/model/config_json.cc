// The one list of keys is KeyReader's calls below: a key that no call asked for and that is not
// among the published leftovers is an error.
#include "model/config_json.h"

#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "core/json.h"

namespace fathom {
namespace {

// Keys of published files and of transformers' own writer that say nothing about the computation:
// training leftovers, bookkeeping, and switches of the library.
constexpr std::array kIgnoredKeys = {
    "_attn_implementation",
    "_name_or_path",
    "auto_map",
    "aux_loss_alpha",
    "ep_size",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "router_aux_loss_coef",
    "seq_aux",
    "transformers_version",
    "use_cache",
};

// One JSON object. Every get names the key it knows; finish() refuses the rest.
class KeyReader {
 public:
  KeyReader(const Json& object, std::string where, std::string prefix)
      : object_(object), where_(std::move(where)), prefix_(std::move(prefix)) {}

  // The value, or nullptr when the key is absent.
  const Json* find(const std::string& key) {
    known_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }
  // The same with null read as absent.
  const Json* find_value(const std::string& key) {
    const Json* value = find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }

  int64_t integer(const std::string& key) { return to_integer(key, required(key, "an integer")); }
  int64_t integer_or(const std::string& key, int64_t fallback) {
    const Json* value = find(key);
    return value == nullptr ? fallback : to_integer(key, *value);
  }
  int64_t integer_or_null(const std::string& key, int64_t null_means) {
    const Json& value = required(key, "an integer or null");
    return value.is_null() ? null_means : to_integer(key, value);
  }
  double number(const std::string& key) { return to_number(key, required(key, "a number")); }
  double number_or(const std::string& key, double fallback) {
    const Json* value = find(key);
    return value == nullptr ? fallback : to_number(key, *value);
  }
  bool boolean(const std::string& key) { return to_boolean(key, required(key, "true or false")); }
  bool boolean_or(const std::string& key, bool fallback) {
    const Json* value = find(key);
    return value == nullptr ? fallback : to_boolean(key, *value);
  }
  std::string string(const std::string& key) { return to_string(key, required(key, "a string")); }
  std::string string_or(const std::string& key, const std::string& fallback) {
    const Json* value = find(key);
    return value == nullptr ? fallback : to_string(key, *value);
  }
  // One of the names; the index in the list.
  size_t choice(const std::string& key, const std::vector<std::string>& names, size_t fallback) {
    const Json* value = find_value(key);
    if (value == nullptr) return fallback;
    const std::string found = to_string(key, *value);
    for (size_t i = 0; i < names.size(); ++i) {
      if (found == names[i]) return i;
    }
    refuse(key, describe_json(*value), fmt::format("{}", fmt::join(names, " or ")));
  }
  // A switch that this family does not have: absent or as given.
  void must_be(const std::string& key, const Json& only, const std::string& hint = "") {
    const Json* value = find_value(key);
    if (value != nullptr && *value != only) refuse(key, describe_json(*value), only.dump(), hint);
  }

  void finish(const std::vector<std::string>& ignored = {}) const {
    for (const auto& [key, value] : object_.items()) {
      if (known_.count(key) > 0) continue;
      bool is_ignored = false;
      for (const std::string& name : ignored) is_ignored = is_ignored || key == name;
      if (is_ignored) continue;
      std::vector<std::string> names(known_.begin(), known_.end());
      names.insert(names.end(), ignored.begin(), ignored.end());
      const std::string nearest = nearest_name(key, names);
      throw_bad_input({where_, prefix_ + key, "an unknown key (" + describe_json(value) + ")",
                       nearest.empty() ? "a key of a DeepSeek config.json" : "\"" + nearest + "\"",
                       "what it would change is not known here, so it is not ignored"});
    }
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& found,
                           const std::string& expected, const std::string& hint = "") const {
    throw_bad_input({where_, prefix_ + key, found, expected, hint});
  }

 private:
  const Json& required(const std::string& key, const std::string& expected) {
    const Json* value = find(key);
    if (value == nullptr) refuse(key, "nothing", expected, "the key is missing");
    return *value;
  }
  int64_t to_integer(const std::string& key, const Json& value) const {
    if (!value.is_number_integer()) refuse(key, describe_json(value), "an integer");
    if (value.is_number_unsigned() &&
        value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      refuse(key, describe_json(value), "an integer below 2^63");
    }
    return value.get<int64_t>();
  }
  double to_number(const std::string& key, const Json& value) const {
    if (!value.is_number()) refuse(key, describe_json(value), "a number");
    return value.get<double>();
  }
  bool to_boolean(const std::string& key, const Json& value) const {
    if (!value.is_boolean()) refuse(key, describe_json(value), "true or false");
    return value.get<bool>();
  }
  std::string to_string(const std::string& key, const Json& value) const {
    if (!value.is_string()) refuse(key, describe_json(value), "a string");
    return value.get<std::string>();
  }

  const Json& object_;
  std::string where_;
  std::string prefix_;
  std::set<std::string> known_;
};

void read_rope(KeyReader& top, const std::string& where, ModelConfig& config) {
  const Json* scaling = top.find_value("rope_scaling");
  const Json* parameters = top.find_value("rope_parameters");
  const Json* theta = top.find("rope_theta");
  if (scaling != nullptr && parameters != nullptr) {
    top.refuse("rope_parameters", "rope_scaling as well", "one of the two");
  }
  const Json* object = parameters != nullptr ? parameters : scaling;
  const std::string name = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  if (theta != nullptr) config.rope_theta = top.number("rope_theta");
  if (object == nullptr) {
    if (theta == nullptr) top.refuse("rope_theta", "nothing", "a number", "the key is missing");
    return;
  }
  if (!object->is_object()) top.refuse(name, describe_json(*object), "an object or null");

  KeyReader rope(*object, where, name + ".");
  if (rope.find("rope_theta") != nullptr) {
    const double inner = rope.number("rope_theta");
    if (theta != nullptr && inner != config.rope_theta) {
      rope.refuse("rope_theta", fmt::format("{}", inner),
                  fmt::format("{} as beside it", config.rope_theta));
    }
    config.rope_theta = inner;
  } else if (theta == nullptr) {
    top.refuse("rope_theta", "nothing", "a number", "the key is missing");
  }
  if (rope.find("type") == nullptr && rope.find("rope_type") == nullptr) {
    rope.refuse("type", "nothing", "\"yarn\" or \"default\"", "the key is missing");
  }
  const std::vector<std::string> types{"default", "yarn"};
  const size_t absent = types.size();
  const size_t old_type = rope.choice("type", types, absent);
  const size_t new_type = rope.choice("rope_type", types, absent);
  if (old_type != absent && new_type != absent && old_type != new_type) {
    rope.refuse("rope_type", types[new_type], types[old_type] + " as in \"type\"");
  }
  RopeScaling& s = config.rope_scaling;
  if ((new_type != absent ? new_type : old_type) == 1) {
    s.type = RopeType::kYarn;
    s.factor = rope.number("factor");
    s.original_max_position_embeddings = rope.integer("original_max_position_embeddings");
    s.beta_fast = rope.number_or("beta_fast", s.beta_fast);
    s.beta_slow = rope.number_or("beta_slow", s.beta_slow);
    s.mscale = rope.number_or("mscale", s.mscale);
    s.mscale_all_dim = rope.number_or("mscale_all_dim", s.mscale_all_dim);
    rope.must_be("attention_factor", nullptr, "the factor follows from mscale and mscale_all_dim");
  }
  rope.finish();
}

void read_quantization(KeyReader& top, const std::string& where, ModelConfig& config) {
  const Json* object = top.find_value("quantization_config");
  if (object == nullptr) return;
  if (!object->is_object()) top.refuse("quantization_config", describe_json(*object), "an object");
  KeyReader quantization(*object, where, "quantization_config.");
  quantization.choice("quant_method", {"fp8"}, 1);
  quantization.choice("fmt", {"e4m3"}, 0);
  quantization.choice("activation_scheme", {"dynamic"}, 0);
  // V3.1: scales are powers of two, still stored as numbers.
  quantization.choice("scale_fmt", {"float", "ue8m0"}, 0);
  quantization.find("modules_to_not_convert");  // the manifest says which tensors are FP8
  const Json* block = quantization.find("weight_block_size");
  const std::string expected = "two positive integers";
  if (block == nullptr || !block->is_array() || block->size() != 2) {
    quantization.refuse("weight_block_size", block == nullptr ? "nothing" : describe_json(*block),
                        expected);
  }
  for (const Json& size : *block) {
    if (!size.is_number_integer() || size.get<double>() < 1 || size.get<double>() > 65536) {
      quantization.refuse("weight_block_size", describe_json(size), expected);
    }
  }
  if (quantization.find("quant_method") == nullptr)
    quantization.refuse("quant_method", "nothing", "\"fp8\"");
  config.fp8_block_rows = (*block)[0].get<int64_t>();
  config.fp8_block_cols = (*block)[1].get<int64_t>();
  quantization.finish();
}

void read_experts(KeyReader& top, ModelConfig& config) {
  const bool v2 = config.architecture == "DeepseekV2ForCausalLM";
  config.n_routed_experts = top.integer_or_null("n_routed_experts", 0);
  config.n_shared_experts = top.integer_or_null("n_shared_experts", 0);
  config.num_experts_per_tok = top.integer("num_experts_per_tok");
  config.moe_intermediate_size = top.integer("moe_intermediate_size");
  config.n_group = top.integer_or_null("n_group", 1);
  config.topk_group = top.integer_or_null("topk_group", 1);
  config.first_k_dense_replace = top.integer("first_k_dense_replace");
  config.moe_layer_freq = top.integer_or("moe_layer_freq", 1);
  config.norm_topk_prob = top.boolean("norm_topk_prob");
  config.routed_scaling_factor = top.number("routed_scaling_factor");
  // transformers leaves these two out: its classes know no other.
  config.scoring_func = top.choice("scoring_func", {"sigmoid", "softmax"}, v2 ? 1 : 0) == 0
                            ? ScoringFunc::kSigmoid
                            : ScoringFunc::kSoftmax;
  constexpr std::array kMethods = {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy,
                                   TopkMethod::kNoauxTc};
  config.topk_method = kMethods[top.choice(
      "topk_method", {"greedy", "group_limited_greedy", "noaux_tc"}, v2 ? 0 : 2)];
}

// Keys that transformers' writer derives from others, and switches that this family has one way
// only.
void check_fixed(KeyReader& top, const ModelConfig& config) {
  const std::string derived = "it follows from other keys";
  top.must_be("num_key_value_heads", config.num_attention_heads,
              "latent attention has one key head per query head");
  top.must_be("qk_head_dim", config.qk_head_dim(), derived);
  top.must_be("head_dim", config.qk_rope_head_dim, derived);
  top.must_be("rope_interleave", true, "the checkpoints' layout");
  top.must_be("hidden_act", "silu");
  top.must_be("attention_bias", false);
  top.must_be("mlp_bias", false);
  top.must_be("attention_dropout", 0.0);
}

const char* topk_method_name(TopkMethod method) {
  switch (method) {
    case TopkMethod::kGreedy:
      return "greedy";
    case TopkMethod::kGroupLimitedGreedy:
      return "group_limited_greedy";
    case TopkMethod::kNoauxTc:
      return "noaux_tc";
  }
  FATHOM_CHECK(false, "topk method {}", static_cast<int>(method));
}

}  // namespace

ModelConfig parse_config_json(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where);
  if (!root.is_object()) throw_bad_input({where, "", describe_json(root), "an object", ""});
  KeyReader top(root, where, "");
  ModelConfig config;

  const Json* architectures = top.find("architectures");
  if (architectures == nullptr || !architectures->is_array() || architectures->size() != 1 ||
      !(*architectures)[0].is_string()) {
    top.refuse("architectures",
               architectures == nullptr ? "nothing" : describe_json(*architectures),
               "a list of one name");
  }
  config.architecture = (*architectures)[0].get<std::string>();
  config.model_type = top.string("model_type");
  // Before the other keys: another family's file should say so, not complain about a missing key.
  const bool family = config.architecture == "DeepseekV3ForCausalLM" ||
                      config.architecture == "DeepseekV2ForCausalLM";
  if (!family) {
    top.refuse("architectures", "\"" + config.architecture + "\"",
               "DeepseekV3ForCausalLM or DeepseekV2ForCausalLM");
  }

  config.vocab_size = top.integer("vocab_size");
  config.hidden_size = top.integer("hidden_size");
  config.num_hidden_layers = top.integer("num_hidden_layers");
  config.num_nextn_predict_layers = top.integer_or("num_nextn_predict_layers", 0);
  config.num_attention_heads = top.integer("num_attention_heads");
  config.q_lora_rank = top.integer_or_null("q_lora_rank", 0);
  if (config.q_lora_rank == 0 && top.find_value("q_lora_rank") != nullptr) {
    top.refuse("q_lora_rank", "number 0", "a positive integer, or null for no query compression");
  }
  config.kv_lora_rank = top.integer("kv_lora_rank");
  config.qk_nope_head_dim = top.integer("qk_nope_head_dim");
  config.qk_rope_head_dim = top.integer("qk_rope_head_dim");
  config.v_head_dim = top.integer("v_head_dim");
  config.intermediate_size = top.integer("intermediate_size");
  read_experts(top, config);
  config.rms_norm_eps = top.number("rms_norm_eps");
  config.max_position_embeddings = top.integer("max_position_embeddings");
  read_rope(top, where, config);
  config.tie_word_embeddings = top.boolean_or("tie_word_embeddings", false);
  config.initializer_range = top.number_or("initializer_range", 0.02);
  config.bos_token_id = top.integer("bos_token_id");
  config.eos_token_id = top.integer("eos_token_id");
  config.torch_dtype = top.string_or("torch_dtype", top.string_or("dtype", "bfloat16"));
  if (top.find_value("dtype") != nullptr && top.string("dtype") != config.torch_dtype) {
    top.refuse("dtype", "\"" + top.string("dtype") + "\"",
               config.torch_dtype + " as in \"torch_dtype\"");
  }
  config.mtp_hidden = top.choice("mtp_hidden", {"post_norm", "pre_norm"}, 0) == 0
                          ? MtpHidden::kPostNorm
                          : MtpHidden::kPreNorm;
  read_quantization(top, where, config);
  validate(config, where);
  check_fixed(top, config);
  top.finish({kIgnoredKeys.begin(), kIgnoredKeys.end()});
  return config;
}

std::string to_config_json(const ModelConfig& config) {
  nlohmann::json root;  // sorted by key, as the published files are
  root["architectures"] = {config.architecture};
  root["attention_bias"] = false;
  root["attention_dropout"] = 0.0;
  root["bos_token_id"] = config.bos_token_id;
  root["eos_token_id"] = config.eos_token_id;
  root["first_k_dense_replace"] = config.first_k_dense_replace;
  root["hidden_act"] = "silu";
  root["hidden_size"] = config.hidden_size;
  root["initializer_range"] = config.initializer_range;
  root["intermediate_size"] = config.intermediate_size;
  root["kv_lora_rank"] = config.kv_lora_rank;
  root["max_position_embeddings"] = config.max_position_embeddings;
  root["model_type"] = config.model_type;
  root["moe_intermediate_size"] = config.moe_intermediate_size;
  root["moe_layer_freq"] = config.moe_layer_freq;
  root["n_group"] = config.n_group;
  root["n_routed_experts"] = config.n_routed_experts;
  root["n_shared_experts"] = config.n_shared_experts;
  root["norm_topk_prob"] = config.norm_topk_prob;
  root["num_attention_heads"] = config.num_attention_heads;
  root["num_experts_per_tok"] = config.num_experts_per_tok;
  root["num_hidden_layers"] = config.num_hidden_layers;
  root["num_key_value_heads"] = config.num_attention_heads;
  root["num_nextn_predict_layers"] = config.num_nextn_predict_layers;
  if (config.q_lora_rank > 0) {
    root["q_lora_rank"] = config.q_lora_rank;
  } else {
    root["q_lora_rank"] = nullptr;
  }
  root["qk_nope_head_dim"] = config.qk_nope_head_dim;
  root["qk_rope_head_dim"] = config.qk_rope_head_dim;
  root["rms_norm_eps"] = config.rms_norm_eps;
  root["rope_scaling"] = nullptr;
  if (const RopeScaling& s = config.rope_scaling; s.type == RopeType::kYarn) {
    root["rope_scaling"] = {
        {"beta_fast", s.beta_fast},
        {"beta_slow", s.beta_slow},
        {"factor", s.factor},
        {"mscale", s.mscale},
        {"mscale_all_dim", s.mscale_all_dim},
        {"original_max_position_embeddings", s.original_max_position_embeddings},
        {"type", "yarn"}};
  }
  root["rope_theta"] = config.rope_theta;
  root["routed_scaling_factor"] = config.routed_scaling_factor;
  root["scoring_func"] = config.scoring_func == ScoringFunc::kSigmoid ? "sigmoid" : "softmax";
  root["tie_word_embeddings"] = config.tie_word_embeddings;
  root["topk_group"] = config.topk_group;
  root["topk_method"] = topk_method_name(config.topk_method);
  root["torch_dtype"] = config.torch_dtype;
  root["use_cache"] = true;
  root["v_head_dim"] = config.v_head_dim;
  root["vocab_size"] = config.vocab_size;
  if (config.mtp_hidden == MtpHidden::kPreNorm)
    root["mtp_hidden"] = "pre_norm";  // ours; others ignore it
  if (config.fp8_block_rows > 0) {
    root["quantization_config"] = {
        {"activation_scheme", "dynamic"},
        {"fmt", "e4m3"},
        {"quant_method", "fp8"},
        {"weight_block_size", {config.fp8_block_rows, config.fp8_block_cols}}};
  }
  return root.dump(2) + "\n";
}

}  // namespace fathom
