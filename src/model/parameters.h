// Parameters have their Hugging Face names from birth. parameter_specs() lists every tensor of a
// configuration; loading, saving, optimizer groups, initialisation and counting are rules over that
// list. ParameterSet lays one copy of all of them (weights, gradients, moments ...) into an arena.
//
// The order of the list is the order in memory. Tensors that are also used fused with their
// neighbours (q_a with kv_a, gate with up, all experts) follow each other without a gap.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/arena.h"
#include "model/config.h"

namespace fathom {

enum class ParameterKind {
  kEmbedding,   // [V, D]: embed_tokens, lm_head
  kMatrix,      // Linear weights [out, in]
  kNorm,        // RMSNorm weights
  kRouter,      // gate.weight [E, D]
  kRouterBias,  // e_score_correction_bias [E]: no gradient, not in the optimizer
};

struct ParameterSpec {
  std::string name;
  Shape shape;
  ParameterKind kind = ParameterKind::kMatrix;
  int64_t layer_idx = -1;         // -1: outside the layers
  int64_t expert_idx = -1;        // routed experts only
  bool fp8_in_published = false;  // a Linear that DeepSeek publishes in FP8 (SPEC C.2)
  bool packed = false;            // directly behind the previous tensor in memory
};

// A name that exists in files only: an MTP module's copies of the embedding and the head, or a tied
// lm_head. It must equal the tensor that it stands for.
struct ParameterAlias {
  std::string name;
  std::string target;
};

std::vector<ParameterSpec> parameter_specs(const ModelConfig& config);
std::vector<ParameterAlias> parameter_aliases(const ModelConfig& config);

struct ParameterCount {
  int64_t main_model = 0;                // without MTP modules
  int64_t mtp_unique = 0;                // MTP modules without their copies of embedding and head
  int64_t mtp_stored = 0;                // with them
  int64_t active = 0;                    // per token: main model, with embedding and head
  int64_t active_without_embedding = 0;  // with head only
  int64_t active_without_both = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

// Which dtype each kind of parameter has in one copy.
struct ParameterDtypes {
  DType matrix = DType::kF32;  // matrices, embedding, head
  DType small = DType::kF32;   // norms, router, router bias
  DType of(ParameterKind kind) const {
    return kind == ParameterKind::kMatrix || kind == ParameterKind::kEmbedding ? matrix : small;
  }
};

class ParameterSet {
 public:
  ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
               ParameterDtypes dtypes);

  int64_t size() const { return static_cast<int64_t>(views_.size()); }
  const ParameterSpec& spec(int64_t i) const { return (*specs_)[static_cast<size_t>(i)]; }
  const TensorView& view(int64_t i) const { return views_[static_cast<size_t>(i)]; }
  bool contains(std::string_view name) const { return index_.count(std::string(name)) > 0; }
  // A parameter by its name; it must exist.
  TensorView operator[](const std::string& name) const;
  // `count` parameters from `first_name` on, fused: rows joined into [sum of rows, cols], for
  // neighbours in memory.
  TensorView fused_rows(const std::string& first_name, int64_t count) const;
  // The same seen as [groups, rows, cols]: experts' matrices.
  TensorView stacked(const std::string& first_name, int64_t count, int64_t groups) const;
  int64_t num_bytes() const { return arena_.used_bytes(); }

 private:
  std::shared_ptr<const std::vector<ParameterSpec>> specs_;
  std::vector<TensorView> views_;
  Arena arena_;  // filled through views_, which stands before it
  std::unordered_map<std::string, int64_t> index_;
};

}  // namespace fathom
