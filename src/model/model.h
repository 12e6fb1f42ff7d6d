// The whole model: embedding, blocks, final norm and head, MTP modules, over one copy of the
// weights. A Model is what training and inference share; it holds no activations. TrainingPass
// (training_pass.h) runs it forward and backward over packed rows; forward_cached.h runs it over
// the inference cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/block.h"
#include "model/config.h"
#include "model/mtp.h"
#include "model/parameters.h"
#include "model/policy.h"

namespace fathom {

// Views over one ParameterSet, sorted by where they are used. A set may hold a part of the model:
// what is not there is empty, and only the layers that are there have a block, in order.
struct ModelParameters {
  TensorView embedding_VD, head_VD, final_norm_D;  // a tied head is the embedding
  std::vector<int64_t> layers;                     // of the blocks
  LinearView head;  // the same head; where it is kept in codes, head_VD is not its values
  std::vector<BlockParameters> blocks;
  std::vector<MtpParameters> mtp_modules;  // all or none

  static ModelParameters of(const ParameterSet& set, const ModelConfig& config);
};

// What one rank of many holds: some layers, some of their experts. The default is all of it.
struct ModelPart {
  std::vector<ParameterSpec> specs;         // empty: the whole model's
  const TokenExchange* exchange = nullptr;  // reaches the other experts; null: all are here
};

class Model {
 public:
  // Weights are zero until loaded or initialised. The rotation table covers `max_positions`
  // positions (0: the configuration's max_position_embeddings).
  Model(const ModelConfig& config, const Policy& policy, int64_t max_positions = 0,
        const ModelPart& part = {});
  // Over weights that are there already, of parameter_specs(config) or a part of them (inference:
  // some or all in codes, or in mapped files).
  Model(const ModelConfig& config, const Policy& policy, ParameterSet weights,
        int64_t max_positions = 0, const TokenExchange* exchange = nullptr);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  const Policy& policy() const { return policy_; }
  ParameterSet& weights() { return weights_; }
  const ParameterSet& weights() const { return weights_; }

  // Routed experts come from `source` (inference; null: from the weights). It must outlive its use.
  void use_expert_source(ExpertSource* source);
  // The same with a source over these weights that lives and ends with the model.
  void keep_expert_source(std::unique_ptr<ExpertSource> source);

  const ModelParameters& parameters() const { return parameters_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::vector<MtpModule>& mtp_modules() const { return mtp_modules_; }
  // [positions, R] of cos, sin pairs.
  TensorView cos_sin_SR() const { return cos_sin_SR_; }
  int64_t max_positions() const { return cos_sin_SR_.dim(0); }

 private:
  ModelConfig config_;
  Policy policy_;
  ParameterSet weights_;
  ModelParameters parameters_;
  TensorView cos_sin_SR_;
  Arena tables_;  // filled through cos_sin_SR_, which stands before it
  std::vector<Block> blocks_;
  std::vector<MtpModule> mtp_modules_;
  std::unique_ptr<ExpertSource> kept_source_;  // reads weights_
};

// MoE layers in the order of expert_counts: the main model's, then the MTP modules'.
std::vector<int64_t> moe_layers(const ModelConfig& config);

// Name of the output head's parameter: lm_head.weight, or the embedding when they are tied.
std::string head_name(const ModelConfig& config);

// Report section 4.2: matrices, embedding, head and router from N(0, initializer_range), norms 1,
// the router bias 0. A draw depends on (seed, index of the parameter in the whole model, element)
// alone. Any dtype.
void initialize_parameters(const ModelConfig& config, uint64_t seed, ParameterSet& parameters);

// Copies every parameter, converting dtypes and quantising where `to` has scales (master to compute
// copy).
void copy_parameters(Context& ctx, const ParameterSet& from, ParameterSet& to);

}  // namespace fathom
