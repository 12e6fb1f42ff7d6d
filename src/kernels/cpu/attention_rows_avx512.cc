#include "kernels/cpu/attention_rows_simd.h"

namespace fathom::cpu {

const AttentionRows kAttentionRowsAvx512 = kRows;

}  // namespace fathom::cpu
