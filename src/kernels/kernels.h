// The one interface to numeric kernels. Modules call these functions on tensor views; which
// implementation runs is decided by the dispatch table (table.h) from the Context's instruction-set
// level and the operands' dtypes. Every function has a short reference version in ref/; fast
// versions live in cpu/ and are tested against it.
//
// Conventions
//  * Shape letters: docs/shapes.md. The last dimension of every operand is contiguous.
//  * Arithmetic is fp32 for operands of 32 bits or fewer, fp64 for fp64. Sums run in an order that
//  does
//    not depend on the number of threads.
//  * Activations are f64, f32 or bf16 ("act"); all act operands of one call have one dtype unless
//  said.
//  * Outputs are assigned, gradients of weights accumulate (+=); each field says which.
//  * Operands must not overlap unless said. Parameter structs are checked at entry.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/cache_rows.h"
#include "runtime/context.h"

namespace fathom {

// ---- Matrix products
// ------------------------------------------------------------------------------

// nt: c[m,n] = a[m,k] b[n,k]^T   (forward, y = x W^T)
// nn: c[m,n] = a[m,k] b[k,n]     (input gradient, dx = dy W)
// tn: c[m,n] = a[k,m]^T b[k,n]   (weight gradient, dW = dy^T x)
// With a leading dimension on all three, as many products side by side (the heads of a token).
enum class GemmLayout { kNt, kNn, kTn };

struct GemmParams {
  GemmLayout layout = GemmLayout::kNt;
  TensorView a;             // f64, f32 or bf16
  TensorView b;             // dtype of a
  TensorView c;             // dtype of a, or f32 for bf16 inputs
  bool accumulate = false;  // c += instead of c =
};
void gemm(Context& ctx, const GemmParams& p);

// One product per expert over a ragged partition of rows: expert e owns rows
// [offsets[e], offsets[e+1]) of the row operands; no padding, no dropping, empty experts are fine.
// nt: c[rows,n] = a[rows,k] b_e[n,k]^T;  nn: c[rows,n] = a[rows,k] b_e[k,n];
// tn: c_e[m,n] = a[rows,m]^T b[rows,n]   (an empty expert's c_e is zeroed, or left as it is when
//                                          accumulating)
struct GroupedGemmParams {
  GemmLayout layout = GemmLayout::kNt;
  TensorView a;                      // [U, ...] rows
  TensorView b;                      // [E, n, k] (nt), [E, k, n] (nn), [U, n] (tn)
  TensorView c;                      // [U, n] (nt, nn), [E, m, n] (tn)
  const int64_t* offsets = nullptr;  // [E + 1], offsets[0] = 0
  int64_t num_experts = 0;
  bool accumulate = false;
};
void grouped_gemm(Context& ctx, const GroupedGemmParams& p);

// ---- Normalisation
// ----------------------------------------------------------------------------------

// y = x / sqrt(mean(x^2) + eps) * w, per row. x and y may have different act dtypes (the residual
// stream can be wider than the activations).
struct RmsNormForward {
  TensorView x_TD;
  TensorView w_D;  // f32 (f64 when x is f64)
  double eps = 1e-6;
  TensorView y_TD;    // assigned; may be x_TD
  TensorView rstd_T;  // f32 (f64), assigned; may be empty
};
void rms_norm_forward(Context& ctx, const RmsNormForward& p);

struct RmsNormBackward {
  TensorView x_TD, w_D, rstd_T;
  TensorView dy_TD;
  TensorView dx_TD;            // dtype of its own choice among act
  bool accumulate_dx = false;  // dx += (residual path) or dx =
  TensorView dw_D;             // f32 (f64), +=; may be empty
};
void rms_norm_backward(Context& ctx, const RmsNormBackward& p);

// ---- Rotary embedding
// -------------------------------------------------------------------------------

// Rotates pairs of the last dimension by angle position * frequency: interleaved (x0,x1),(x2,x3),...
// as DeepSeek stores them, or half-split (x0,x[R/2]),(x1,x[R/2+1]),... as Qwen2 and Llama do.
// cos_sin_SR: [positions, R] (f32, or f64 for f64) holds cos,sin of pair i at columns 2i, 2i+1, or,
// half-split, at i and R/2 + i.
struct RopeParams {
  TensorView x_THR;  // [T, H, R], in place; rows may be strided (a slice of q or kv)
  TensorView cos_sin_SR;
  const int32_t* positions_T = nullptr;
  bool inverse = false;  // by minus the angle: the backward pass
  bool half_split = false;
};
void rope(Context& ctx, const RopeParams& p);

// ---- MLA attention, expanded form
// ---------------------------------------------------------------------

// Causal attention over rows of S tokens each (T = B * S). Query t of a row sees keys
// [first_key_T[t], t] of its own row (indices within the row; null = 0: the whole row so far).
//
// Forward may have more keys than queries, S of them in one row: the T queries are its last tokens.
struct MlaAttentionForward {
  TensorView q_THK;      // [T, H, N+R], rope applied to the last R
  TensorView kv_THX;     // [S, H, N+P]: per head nope key, then value (the layout of kv_b_proj)
  TensorView kpe_TR;     // [S, R], rope applied; shared by the heads; rows may be strided
  TensorView o_THP;      // [T, H, P], assigned
  TensorView lse_TH;     // f32 (f64): log-sum-exp of the scaled scores, assigned; may be empty
  int64_t num_rows = 1;  // B
  const int32_t* first_key_T = nullptr;
  double scale = 1.0;
};
void mla_attention_forward(Context& ctx, const MlaAttentionForward& p);

struct MlaAttentionBackward {
  TensorView q_THK, kv_THX, kpe_TR, o_THP, lse_TH;
  TensorView do_THP;
  TensorView dq_THK, dkv_THX, dkpe_TR;  // assigned; dkpe is summed over heads
  int64_t num_rows = 1;
  const int32_t* first_key_T = nullptr;
  double scale = 1.0;
};
void mla_attention_backward(Context& ctx, const MlaAttentionBackward& p);

// ---- MLA attention, absorbed form
// -----------------------------------------------------------------------

// One query token against the latents of its own sequence: MQA with one key (C+R wide) whose first
// C columns are also the value. Query i sees num_keys[i] entries of cache[i].
struct MlaDecodeParams {
  TensorView q_BHC;                   // W_UK^T q_nope
  TensorView qpe_BHR;                 // rope applied; may be strided
  const CacheRows* cache = nullptr;   // [B]: rows of latent and roped key
  const int64_t* num_keys = nullptr;  // [B]
  TensorView ctx_BHC;                 // assigned: sum_j p_j c_j
  double scale = 1.0;
};
void mla_decode(Context& ctx, const MlaDecodeParams& p);

// ---- Grouped-query attention
// -----------------------------------------------------------------------------------------------

// One query token against the keys and values of its own sequence: query t sees num_keys_T[t] rows
// of cache_T[t], each [keys of all key heads | their values], not in codes. Query head h reads key
// head h / (H / num_key_heads). Queries of one sequence that stand one behind the other are fastest.
struct GroupedAttentionParams {
  TensorView q_THK;                    // rope applied
  const CacheRows* cache_T = nullptr;  // [T]
  const int64_t* num_keys_T = nullptr;
  TensorView o_THK;  // assigned
  int64_t num_key_heads = 1;
  double scale = 1.0;
};
void grouped_attention(Context& ctx, const GroupedAttentionParams& p);

// ---- Feed-forward
// -----------------------------------------------------------------------------------------

// h = silu(gate) * up * row_scale, with [gate | up] side by side in one row. row_scale (the
// expert's gate weight for that row) is f32 (f64) and may be empty (1).
struct SwigluForward {
  TensorView gate_up_TX;  // [T, 2F]
  TensorView row_scale_T;
  TensorView h_TF;  // assigned
};
void swiglu_forward(Context& ctx, const SwigluForward& p);

struct SwigluBackward {
  TensorView gate_up_TX, row_scale_T;
  TensorView dh_TF;
  TensorView dgate_up_TX;   // assigned; may be gate_up_TX
  TensorView drow_scale_T;  // assigned; empty when row_scale is
};
void swiglu_backward(Context& ctx, const SwigluBackward& p);

// ---- Router
// --------------------------------------------------------------------------------------------------

enum class ScoringFunc { kSigmoid, kSoftmax };
enum class GroupScore { kTop2Sum, kMax };  // V3 (noaux_tc), V2 (group_limited_greedy)

// SPEC C.3. Scores s = sigmoid or softmax of the logits; experts are chosen by s + bias, within the
// topk_group best of n_group groups (others masked with -inf), ties to the lowest index; the
// weights come from s alone. A token with NaN scores still gets experts (the lowest free ones) and
// NaN weights, so that the loss shows it.
struct RouterForward {
  TensorView logits_TE;  // f32 (f64)
  TensorView bias_E;     // f32 (f64); may be empty (0)
  ScoringFunc scoring = ScoringFunc::kSigmoid;
  GroupScore group_score = GroupScore::kTop2Sum;
  int64_t n_group = 1, topk_group = 1, num_experts_per_tok = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  TensorView scores_TE;  // assigned: s
  TensorView idx_TA;     // i32, assigned: ascending by rank (best first)
  TensorView weight_TA;  // f32 (f64), assigned
};
void router_forward(Context& ctx, const RouterForward& p);

// dlogits = gradient through the weights of the chosen experts plus through dscores (the balance
// loss), which may be empty.
struct RouterBackward {
  TensorView scores_TE, idx_TA, weight_TA;
  ScoringFunc scoring = ScoringFunc::kSigmoid;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  TensorView dweight_TA;
  TensorView dscores_TE;  // may be empty
  TensorView dlogits_TE;  // assigned
};
void router_backward(Context& ctx, const RouterBackward& p);

// Balance loss (SPEC C.4) over spans of `span_tokens` tokens: a row (sequence-wise) or all
// (batch-wise).
//   f_i = E / (A * span) * #{t : i in top-A},  P_i = mean_t s'_{i,t},  L = sum_i f_i P_i, mean over
//   spans
// The top-A is of the unbiased scores without group limit, or the routing actually taken.
struct BalanceLossParams {
  TensorView scores_TE;       // f32 (f64)
  TensorView idx_TA;          // the routing taken
  bool from_routing = false;  // count idx_TA instead of the top-A of the scores
  int64_t span_tokens = 0;    // divides T
  double weight = 0;          // alpha / (anything the caller divides by)
  TensorView dscores_TE;      // +=: weight * dL/ds; may be empty
};
// Returns L (not multiplied by weight).
double balance_loss(Context& ctx, const BalanceLossParams& p);

// ---- Token movement
// ------------------------------------------------------------------------------------------

// The dispatch order: row u of the routed tensor is the u-th (token, slot) pair sorted by expert,
// then by token. position_TA[t, a] is the row of token t's a-th expert.
struct DispatchPlan {
  TensorView idx_TA;  // i32
  int64_t num_experts = 0;
  int64_t* offsets = nullptr;  // [E + 1], assigned
  TensorView token_U;          // i32, assigned: the token of each row
  TensorView position_TA;      // i32, assigned
};
void plan_dispatch(Context& ctx, const DispatchPlan& p);

// y_UD[u] = x_TD[token_U[u]], any dtype (codes and their scales too)
void gather_rows(Context& ctx, const TensorView& x_TD, const TensorView& token_U,
                 const TensorView& y_UD);
// y_TD[t] (+)= sum_a x_UD[position_TA[t, a]], in ascending a. y may be wider than x.
void combine_rows(Context& ctx, const TensorView& x_UD, const TensorView& position_TA,
                  const TensorView& y_TD, bool accumulate);

// ---- Embedding and loss
// ----------------------------------------------------------------------------------------

// y[t] = table[ids[t]]; y may be wider than the table.
void embedding_forward(Context& ctx, const TensorView& table_VD, const int32_t* ids_T,
                       const TensorView& y_TD);
// dtable[ids[t]] += dy[t], in ascending t. dtable is f32 (f64).
void embedding_backward(Context& ctx, const TensorView& dy_TD, const int32_t* ids_T,
                        const TensorView& dtable_VD);

// Cross-entropy of one chunk of rows. Rows with label < 0 do not count (their gradient is zero).
struct CrossEntropyParams {
  TensorView logits_TV;  // f32 (f64), assigned when dlogits is written in place
  const int32_t* labels_T = nullptr;
  double grad_scale = 0;  // d(total)/d(row loss)
  TensorView dlogits_TV;  // assigned, act dtype; may be logits_TV or empty
  TensorView loss_T;      // f32 (f64), assigned: -log p(label), 0 where not counted
};
void cross_entropy(Context& ctx, const CrossEntropyParams& p);

// ---- Elementwise and reductions
// --------------------------------------------------------------------------------

// y = x with another dtype (any of f64, f32, bf16; strided rows are fine). y may not overlap x.
void cast(Context& ctx, const TensorView& x, const TensorView& y);
// y += x; y may be wider.
void add(Context& ctx, const TensorView& x, const TensorView& y);
void fill_zero(Context& ctx, const TensorView& x);
// x *= factor (f32, f64).
void scale(Context& ctx, const TensorView& x, double factor);
// Sum of squares in fp64, in fixed blocks; NaN or infinity propagate.
double sum_of_squares(Context& ctx, const TensorView& x);
// Sum of f32/f64 values in fp64, in index order.
double sum(const TensorView& x);
// The index of the first element that is not finite, or -1.
int64_t first_non_finite(const TensorView& x);

// ---- Optimizer
// -------------------------------------------------------------------------------------------------

// One AdamW step on a flat tensor (Loshchilov & Hutter; the order of operations of
// torch.optim.AdamW): decay, moments, bias correction. moments are f32 or bf16; weights (the
// compute copy) are rewritten from the master.
struct AdamwParams {
  TensorView master;   // f32 (f64), updated
  TensorView grad;     // f32 (f64)
  TensorView m, v;     // f32 or bf16 (f64), updated
  TensorView weights;  // act dtype, assigned; may be empty or master itself
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  double grad_scale = 1;  // clipping factor
  int64_t step = 1;       // from 1
};
void adamw(Context& ctx, const AdamwParams& p);

}  // namespace fathom
