#include <cstring>

#include "kernels/cpu/row_loop.h"
#include "kernels/cpu/row_ops.h"

namespace fathom::cpu {

void gather_rows(Context& ctx, const GatherRowsParams& p, const RowKernels&) {
  const int64_t width = p.x_TD.dim(1);
  const int32_t* token = p.token_U.as<int32_t>();
  const size_t bytes = static_cast<size_t>(width * dtype_bytes(p.x_TD.dtype));
  for_rows(ctx, p.y_UD.dim(0), width, [&](int64_t u, int) {
    std::memcpy(row_at(p.y_UD, u), row_at(p.x_TD, token[u]), bytes);
  });
}

void combine_rows(Context& ctx, const CombineRowsParams& p, const RowKernels& rows) {
  const int64_t width = p.x_UD.dim(1), top_k = p.position_TA.dim(1);
  const auto kernel = rows.combine[is_bf16(p.x_UD)][is_bf16(p.y_TD)];
  for_rows(ctx, p.y_TD.dim(0), width * (top_k + 1), [&](int64_t t, int) {
    kernel(p.x_UD.data, p.x_UD.stride[0], p.position_TA.as<int32_t>() + t * p.position_TA.stride[0],
           top_k, p.accumulate, row_at(p.y_TD, t), width);
  });
}

void embedding_forward(Context& ctx, const EmbeddingForwardParams& p, const RowKernels& rows) {
  const int64_t width = p.table_VD.dim(1);
  const auto kernel = rows.cast[is_bf16(p.table_VD)][is_bf16(p.y_TD)];
  for_rows(ctx, p.y_TD.dim(0), width, [&](int64_t t, int) {
    kernel(row_at(p.table_VD, p.ids_T[t]), row_at(p.y_TD, t), width);
  });
}

// Threads own columns: every one walks all tokens in order, so rows that occur twice need no locks
// and their sums have one order.
void embedding_backward(Context& ctx, const EmbeddingBackwardParams& p, const RowKernels& rows) {
  constexpr int64_t kColumns = 64;
  const int64_t num_tokens = p.dy_TD.dim(0), width = p.dtable_VD.dim(1);
  const auto kernel = rows.add[is_bf16(p.dy_TD)][0];
  for_blocks(ctx, width, kColumns, [&](int64_t begin, int64_t count, int64_t) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      kernel(element_at(p.dy_TD, t * p.dy_TD.stride[0] + begin),
             element_at(p.dtable_VD, p.ids_T[t] * p.dtable_VD.stride[0] + begin), count);
    }
  });
}

}  // namespace fathom::cpu
