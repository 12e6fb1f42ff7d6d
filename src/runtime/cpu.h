// What this processor can do, and the instruction-set level that kernels run at. The level is
// chosen once, by the Context; the environment variable FATHOM_FORCE_ISA forces a lower one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Ordered: a level implies those before it.
enum class IsaLevel { kReference = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

std::string_view isa_name(IsaLevel level);  // "ref", "avx2", "avx512", "avx512bf16"

struct CpuInfo {
  std::string model_name;
  int num_cpus = 0;  // that this process may use
  bool avx2_fma = false;
  bool f16c = false;
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512_bf16 = false;
  bool avx512_vnni = false;
  bool amx_bf16 = false;
};

const CpuInfo& cpu_info();
int64_t total_memory_bytes();  // of the machine, or of the container if that is less
int64_t available_memory_bytes();

// The levels that this processor supports, lowest first.
std::vector<IsaLevel> supported_isa_levels();
// The highest supported level, or the one that FATHOM_FORCE_ISA names: ref, avx2, avx512,
// avx512bf16 or amx. A usage error where the name is unknown, the processor lacks it, or this build
// has no kernels for it (amx).
IsaLevel choose_isa_level();
// What FATHOM_FORCE_ISA says; empty where nothing is forced.
std::string_view forced_isa_name();

}  // namespace fathom
