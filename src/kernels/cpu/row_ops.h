// The drivers of the bandwidth-bound operations over any RowKernels: strides, threads, scratch.
// What an index of a parallel loop covers depends on the shapes alone, never on the number of
// threads, and sums across indices are taken in index order afterwards.
//
// They serve fp32 and bf16; fp64 goes to the reference.
#pragma once

#include "kernels/cpu/row_kernels.h"
#include "kernels/table.h"

namespace fathom::cpu {

void rms_norm_forward(Context& ctx, const RmsNormForward& p, const RowKernels& rows);
void rms_norm_backward(Context& ctx, const RmsNormBackward& p, const RowKernels& rows);
void rope(Context& ctx, const RopeParams& p, const RowKernels& rows);
void swiglu_forward(Context& ctx, const SwigluForward& p, const RowKernels& rows);
void swiglu_backward(Context& ctx, const SwigluBackward& p, const RowKernels& rows);
void router_forward(Context& ctx, const RouterForward& p, const RowKernels& rows);
void router_backward(Context& ctx, const RouterBackward& p, const RowKernels& rows);
void balance_loss(Context& ctx, const BalanceLossCall& call, const RowKernels& rows);
void gather_rows(Context& ctx, const GatherRowsParams& p, const RowKernels& rows);
void combine_rows(Context& ctx, const CombineRowsParams& p, const RowKernels& rows);
void embedding_forward(Context& ctx, const EmbeddingForwardParams& p, const RowKernels& rows);
void embedding_backward(Context& ctx, const EmbeddingBackwardParams& p, const RowKernels& rows);
void cross_entropy(Context& ctx, const CrossEntropyParams& p, const RowKernels& rows);
void cast(Context& ctx, const CastParams& p, const RowKernels& rows);
void add(Context& ctx, const AddParams& p, const RowKernels& rows);
void scale(Context& ctx, const ScaleParams& p, const RowKernels& rows);
void sum_of_squares(Context& ctx, const SumOfSquaresParams& p, const RowKernels& rows);
void adamw(Context& ctx, const AdamwParams& p, const RowKernels& rows);

// Whether no operand is fp64. The public functions have checked that fp64 does not come mixed,
// except in cast.
inline bool narrow_type(const TensorView& v) { return v.dtype != DType::kF64; }
inline bool narrow_types(const RmsNormForward& p) { return narrow_type(p.x_TD); }
inline bool narrow_types(const RmsNormBackward& p) { return narrow_type(p.x_TD); }
inline bool narrow_types(const RopeParams& p) { return narrow_type(p.x_THR); }
inline bool narrow_types(const SwigluForward& p) { return narrow_type(p.gate_up_TX); }
inline bool narrow_types(const SwigluBackward& p) { return narrow_type(p.gate_up_TX); }
inline bool narrow_types(const RouterForward& p) { return narrow_type(p.logits_TE); }
inline bool narrow_types(const RouterBackward& p) { return narrow_type(p.scores_TE); }
inline bool narrow_types(const BalanceLossCall& c) { return narrow_type(c.p.scores_TE); }
inline bool narrow_types(const GatherRowsParams&) { return true; }  // copies bytes
inline bool narrow_types(const CombineRowsParams& p) { return narrow_type(p.y_TD); }
inline bool narrow_types(const EmbeddingForwardParams& p) { return narrow_type(p.y_TD); }
inline bool narrow_types(const EmbeddingBackwardParams& p) { return narrow_type(p.dtable_VD); }
inline bool narrow_types(const CrossEntropyParams& p) { return narrow_type(p.logits_TV); }
inline bool narrow_types(const CastParams& p) { return narrow_type(p.x) && narrow_type(p.y); }
inline bool narrow_types(const AddParams& p) { return narrow_type(p.y); }
inline bool narrow_types(const ScaleParams& p) { return narrow_type(p.x); }
inline bool narrow_types(const SumOfSquaresParams& p) { return narrow_type(p.x); }
inline bool narrow_types(const AdamwParams& p) { return narrow_type(p.master); }

}  // namespace fathom::cpu
