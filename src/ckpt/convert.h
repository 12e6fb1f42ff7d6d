// Conversions of stored numbers: from the bytes of a file, aligned or not, to a tensor in memory,
// and back. Everything goes through float (exact for 32 bits and fewer; from 64 to 16 bits it
// rounds twice).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/tensor.h"

namespace fathom {

bool is_float_dtype(DType dtype);

// `count` numbers of dtype `from` at `source` to dtype `to` at `destination`, rounded to nearest
// even. Equal dtypes are copied bit for bit; otherwise `to` must be f64, f32, bf16 or f16.
void convert_elements(DType from, const std::byte* source, DType to, std::byte* destination,
                      int64_t count);

// Dequantises E4M3 codes [rows, cols] with one fp32 scale per block of block_rows x block_cols
// (partial at the edges; scales [ceil(rows/block_rows), ceil(cols/block_cols)], unaligned): value =
// code * scale in fp32, rounded to bf16 first when told, then to `destination`'s dtype.
void dequantize_blocks(const std::byte* codes, const std::byte* scales, int64_t block_rows,
                       int64_t block_cols, bool round_to_bf16, const TensorView& destination);

}  // namespace fathom
