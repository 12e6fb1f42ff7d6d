#include "kernels/cpu/attention_rows_simd.h"

namespace fathom::cpu {

const AttentionRows kAttentionRowsAvx2 = kRows;

}  // namespace fathom::cpu
