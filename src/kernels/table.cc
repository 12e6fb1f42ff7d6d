// The lists themselves. An entry's `supports` may assume operands that passed the public function's
// checks; the reference supports everything those let through.
#include "kernels/table.h"

#include "kernels/cpu/matmul.h"
#include "kernels/ref/ref.h"

namespace fathom {
namespace {

template <typename Params>
bool any(const Params&) {
  return true;
}

template <typename Params>
constexpr KernelEntry<Params> reference(void (*run)(Context&, const Params&)) {
  return {"ref", IsaLevel::kReference, any<Params>, run};
}

}  // namespace

// Matrix products and attention: fast versions in cpu/gemm_* and cpu/attention_*.

template <> std::span<const KernelEntry<GemmParams>> kernel_entries() {
  static constexpr KernelEntry<GemmParams> kEntries[] = {
      {"avx512bf16", IsaLevel::kAvx512Bf16, cpu::gemm_bf16_supports, cpu::gemm_avx512bf16},
      {"avx512", IsaLevel::kAvx512, cpu::gemm_supports, cpu::gemm_avx512},
      {"avx2", IsaLevel::kAvx2, cpu::gemm_supports, cpu::gemm_avx2},
      reference<GemmParams>(ref::gemm),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<GroupedGemmParams>> kernel_entries() {
  static constexpr KernelEntry<GroupedGemmParams> kEntries[] = {
      {"avx512bf16", IsaLevel::kAvx512Bf16, cpu::grouped_gemm_bf16_supports, cpu::grouped_gemm_avx512bf16},
      {"avx512", IsaLevel::kAvx512, cpu::grouped_gemm_supports, cpu::grouped_gemm_avx512},
      {"avx2", IsaLevel::kAvx2, cpu::grouped_gemm_supports, cpu::grouped_gemm_avx2},
      reference<GroupedGemmParams>(ref::grouped_gemm),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<MlaAttentionForward>> kernel_entries() {
  static constexpr KernelEntry<MlaAttentionForward> kEntries[] = {
      reference<MlaAttentionForward>(ref::mla_attention_forward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<MlaAttentionBackward>> kernel_entries() {
  static constexpr KernelEntry<MlaAttentionBackward> kEntries[] = {
      reference<MlaAttentionBackward>(ref::mla_attention_backward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<MlaDecodeParams>> kernel_entries() {
  static constexpr KernelEntry<MlaDecodeParams> kEntries[] = {
      reference<MlaDecodeParams>(ref::mla_decode),
  };
  return kEntries;
}

// Everything else is bandwidth-bound: fast versions in the other files of cpu/.

template <> std::span<const KernelEntry<RmsNormForward>> kernel_entries() {
  static constexpr KernelEntry<RmsNormForward> kEntries[] = {
      reference<RmsNormForward>(ref::rms_norm_forward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<RmsNormBackward>> kernel_entries() {
  static constexpr KernelEntry<RmsNormBackward> kEntries[] = {
      reference<RmsNormBackward>(ref::rms_norm_backward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<RopeParams>> kernel_entries() {
  static constexpr KernelEntry<RopeParams> kEntries[] = {
      reference<RopeParams>(ref::rope),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<SwigluForward>> kernel_entries() {
  static constexpr KernelEntry<SwigluForward> kEntries[] = {
      reference<SwigluForward>(ref::swiglu_forward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<SwigluBackward>> kernel_entries() {
  static constexpr KernelEntry<SwigluBackward> kEntries[] = {
      reference<SwigluBackward>(ref::swiglu_backward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<RouterForward>> kernel_entries() {
  static constexpr KernelEntry<RouterForward> kEntries[] = {
      reference<RouterForward>(ref::router_forward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<RouterBackward>> kernel_entries() {
  static constexpr KernelEntry<RouterBackward> kEntries[] = {
      reference<RouterBackward>(ref::router_backward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<BalanceLossCall>> kernel_entries() {
  static constexpr KernelEntry<BalanceLossCall> kEntries[] = {
      reference<BalanceLossCall>(ref::balance_loss),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<DispatchPlan>> kernel_entries() {
  static constexpr KernelEntry<DispatchPlan> kEntries[] = {
      reference<DispatchPlan>(ref::plan_dispatch),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<GatherRowsParams>> kernel_entries() {
  static constexpr KernelEntry<GatherRowsParams> kEntries[] = {
      reference<GatherRowsParams>(ref::gather_rows),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<CombineRowsParams>> kernel_entries() {
  static constexpr KernelEntry<CombineRowsParams> kEntries[] = {
      reference<CombineRowsParams>(ref::combine_rows),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<EmbeddingForwardParams>> kernel_entries() {
  static constexpr KernelEntry<EmbeddingForwardParams> kEntries[] = {
      reference<EmbeddingForwardParams>(ref::embedding_forward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<EmbeddingBackwardParams>> kernel_entries() {
  static constexpr KernelEntry<EmbeddingBackwardParams> kEntries[] = {
      reference<EmbeddingBackwardParams>(ref::embedding_backward),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<CrossEntropyParams>> kernel_entries() {
  static constexpr KernelEntry<CrossEntropyParams> kEntries[] = {
      reference<CrossEntropyParams>(ref::cross_entropy),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<CastParams>> kernel_entries() {
  static constexpr KernelEntry<CastParams> kEntries[] = {
      reference<CastParams>(ref::cast),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<AddParams>> kernel_entries() {
  static constexpr KernelEntry<AddParams> kEntries[] = {
      reference<AddParams>(ref::add),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<ScaleParams>> kernel_entries() {
  static constexpr KernelEntry<ScaleParams> kEntries[] = {
      reference<ScaleParams>(ref::scale),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<SumOfSquaresParams>> kernel_entries() {
  static constexpr KernelEntry<SumOfSquaresParams> kEntries[] = {
      reference<SumOfSquaresParams>(ref::sum_of_squares),
  };
  return kEntries;
}

template <> std::span<const KernelEntry<AdamwParams>> kernel_entries() {
  static constexpr KernelEntry<AdamwParams> kEntries[] = {
      reference<AdamwParams>(ref::adamw),
  };
  return kEntries;
}

}  // namespace fathom
