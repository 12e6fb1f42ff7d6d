// Entries of the dispatch table for MLA attention on the CPU.
#pragma once

#include "kernels/kernels.h"

namespace fathom::cpu {

// f32 or bf16 activations; the bf16 entries, bf16 activations alone.
bool attention_forward_supports(const MlaAttentionForward& p);
bool attention_backward_supports(const MlaAttentionBackward& p);
bool attention_forward_bf16_supports(const MlaAttentionForward& p);
bool attention_backward_bf16_supports(const MlaAttentionBackward& p);
bool mla_decode_supports(const MlaDecodeParams& p);
bool mla_decode_bf16_supports(const MlaDecodeParams& p);

void mla_attention_forward_avx2(Context& ctx, const MlaAttentionForward& p);
void mla_attention_forward_avx512(Context& ctx, const MlaAttentionForward& p);
void mla_attention_forward_avx512bf16(Context& ctx, const MlaAttentionForward& p);
void mla_attention_backward_avx2(Context& ctx, const MlaAttentionBackward& p);
void mla_attention_backward_avx512(Context& ctx, const MlaAttentionBackward& p);
void mla_attention_backward_avx512bf16(Context& ctx, const MlaAttentionBackward& p);
void mla_decode_avx2(Context& ctx, const MlaDecodeParams& p);
void mla_decode_avx512(Context& ctx, const MlaDecodeParams& p);
void mla_decode_avx512bf16(Context& ctx, const MlaDecodeParams& p);

}  // namespace fathom::cpu
