// Parameters have their Hugging Face names from birth. parameter_specs() lists every tensor of a
// configuration; loading, saving, optimizer groups, initialisation and counting are rules over that
// list. ParameterSet lays one copy of all of them (weights, gradients, moments ...) into an arena.
//
// The order of the list is the order in memory. Tensors that are also used fused with their
// neighbours (q_a with kv_a, gate with up, all experts) follow each other without a gap.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/arena.h"
#include "kernels/panel.h"
#include "kernels/scaled.h"
#include "model/config.h"

namespace fathom {

enum class ParameterKind {
  kEmbedding,   // [V, D]: embed_tokens, lm_head
  kMatrix,      // Linear weights [out, in]
  kNorm,        // RMSNorm weights
  kRouter,      // gate.weight [E, D]
  kRouterBias,  // e_score_correction_bias [E]: no gradient, not in the optimizer
  kBias,        // of a Linear [out] (Qwen2's query, key and value)
};

struct ParameterSpec {
  std::string name;
  Shape shape;
  ParameterKind kind = ParameterKind::kMatrix;
  int64_t layer_idx = -1;         // -1: outside the layers
  int64_t expert_idx = -1;        // routed experts only
  bool fp8_in_published = false;  // a Linear that DeepSeek publishes in FP8 (SPEC C.2)
  bool packed = false;            // directly behind the previous tensor in memory
  int64_t row_part = 0;  // products also read parts of multiples of so many rows (kv_b_proj, by
                         // head: keys and values), which they contract; 0: only the whole
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
  DType matrix = DType::kF32;  // matrices and their biases, embedding, head
  DType small = DType::kF32;   // norms, router, router bias
  // Codes of the Linears that DeepSeek keeps in FP8, with scales of this grain; kNone: such a
  // Linear is a matrix like the others.
  DType linear_codes = DType::kE4M3;
  ScaleGrain linear_grain = ScaleGrain::kNone;

  bool scaled(const ParameterSpec& spec) const {
    return spec.fp8_in_published && linear_grain != ScaleGrain::kNone;
  }
  DType of(const ParameterSpec& spec) const {
    if (scaled(spec)) return linear_codes;
    const bool is_matrix = spec.kind == ParameterKind::kMatrix ||
                           spec.kind == ParameterKind::kEmbedding ||
                           spec.kind == ParameterKind::kBias;
    return is_matrix ? matrix : small;
  }
};

// Where one parameter lies in a ParameterSet, and as what.
struct ParameterPlace {
  DType dtype = DType::kF32;
  ScaleGrain grain = ScaleGrain::kNone;  // kNone: values, without scales
  // Memory of somebody else (a mapped file), which is never written to; null: the set's arena.
  // Contiguous; codes and scales in the layout of their grain.
  const void* data = nullptr;
  const void* scales = nullptr;
};

// A Linear as its products read it: one parameter, neighbours in memory that read the same input
// (their rows joined), or a stack of experts' matrices of either kind.
struct LinearView {
  TensorView w;  // [N, K], of experts [E, N, K]
  // With codes: scales of w, stacked like it. The tiles of each parameter begin at its own first
  // row; where that is not the border of a tile of the joined rows, the parameters are two parts,
  // multiplied one after the other.
  TensorView scales;
  ScaleGrain grain = ScaleGrain::kNone;
  int64_t num_parts = 1;
  int64_t part_rows[2] = {0, 0};  // of each part; used where num_parts is 2

  int64_t rows() const { return w.dim(w.shape.num_dims - 2); }
  int64_t part_begin(int64_t part) const { return part == 0 ? 0 : part_rows[0]; }
  int64_t part_size(int64_t part) const { return num_parts == 1 ? rows() : part_rows[part]; }
  ScaledView part(int64_t part) const;
};

// Of each parameter, whether the products that read it would take it in panels (kernels/panel.h):
// it is plain bf16 or e4m3 in blocks, as are those that a product joins with it. Not an embedding
// that is also the head.
std::vector<bool> fit_for_panels(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                                 const std::vector<ParameterPlace>& places);

// Whether these tensors make one matrix of `groups` = 1, or a stack of so many: the tensors of a
// group neighbours in memory and of one kind, the groups alike and evenly apart.
bool tensors_join(std::span<const TensorView> views, int64_t groups);

class ParameterSet {
 public:
  ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
               ParameterDtypes dtypes);
  // `places` by parameter; `owner` keeps their memory alive.
  ParameterSet(const std::string& arena_name, const std::vector<ParameterSpec>& specs,
               std::shared_ptr<const void> owner, const std::vector<ParameterPlace>& places);

  int64_t size() const { return static_cast<int64_t>(views_.size()); }
  const ParameterSpec& spec(int64_t i) const { return (*specs_)[static_cast<size_t>(i)]; }
  const TensorView& view(int64_t i) const { return views_[static_cast<size_t>(i)]; }
  bool contains(std::string_view name) const { return index_.count(std::string(name)) > 0; }
  // A parameter by its name; it must exist.
  TensorView operator[](const std::string& name) const;
  // `count` vectors from `first_name` on, neighbours in memory, joined: [1, sum of sizes].
  TensorView fused_row(const std::string& first_name, int64_t count) const;
  // `count` Linears from `first_name` on, joined (groups = 1) or stacked, with their scales.
  LinearView linear(const std::string& first_name, int64_t count = 1, int64_t groups = 1) const;
  // Codes and scales of a scaled parameter.
  bool is_scaled(int64_t i) const { return !scales_[static_cast<size_t>(i)].empty(); }
  ScaledView scaled(int64_t i) const;
  // Lies in memory of somebody else.
  bool is_mapped(int64_t i) const { return places_[static_cast<size_t>(i)].data != nullptr; }
  // Of the set's own memory.
  int64_t num_bytes() const { return arena_.used_bytes() + keys_arena_.used_bytes(); }
  // Brings what fits (fit_for_panels) and lies in memory of the set's own into panels: products
  // give the same bits, those of few rows faster. Views made before do not know.
  void to_panels(Context& ctx, const ModelConfig& config);
  // Of a kv_b_proj that was brought into panels: each head's key rows transposed, [H, C, N], as the
  // absorbed form multiplies queries with them, in panels too. Empty otherwise.
  TensorView transposed_keys(const std::string& name) const;

 private:
  std::shared_ptr<const std::vector<ParameterSpec>> specs_;
  std::vector<ParameterPlace> places_;
  std::shared_ptr<const void> owner_;  // of mapped parameters
  std::vector<TensorView> views_;
  std::vector<TensorView> scales_;           // empty for parameters that have none
  std::vector<TensorView> transposed_keys_;  // by parameter, behind to_panels
  Arena arena_;  // filled through views_ and scales_, which stand before it
  Arena keys_arena_{"transposed_keys"};
  std::unordered_map<std::string, int64_t> index_;

  void transpose_keys(Context& ctx, const ModelConfig& config, const std::vector<bool>& fits);
  int64_t index_of(const std::string& name) const;
};

}  // namespace fathom
