// Where tokens meet their experts. The model calls this seam; in a single process it only reorders
// rows. Under expert parallelism another implementation sends them to the ranks that hold the
// experts: the backward of dispatch has the communication pattern of combine, and the other way
// round.
#pragma once

#include "core/tensor.h"
#include "kernels/kernels.h"
#include "runtime/context.h"

namespace fathom {

// The routing of one micro-batch in dispatch order: U = T * A rows sorted by expert, then by token.
struct RoutedRows {
  TensorView idx_TA;       // i32: the experts of each token
  TensorView position_TA;  // i32: the row of each (token, slot)
  TensorView token_U;      // i32: the token of each row
  TensorView offsets;      // i64 [E + 1]: rows of expert e are [offsets[e], offsets[e+1])
};

class TokenExchange {
 public:
  virtual ~TokenExchange() = default;
  // Fills position_TA, token_U and offsets from idx_TA.
  virtual void plan(Context& ctx, const RoutedRows& rows) const = 0;
  // x_UD[u] = x_TD[token of u]
  virtual void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                        const TensorView& x_UD) const = 0;
  // y_TD[t] (+)= sum over the token's rows, in the order of its slots
  virtual void combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows,
                       const TensorView& y_TD, bool accumulate) const = 0;
  // One value a (token, slot), to dispatch order and back.
  virtual void dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                               const TensorView& v_U) const = 0;
  virtual void combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                              const TensorView& v_TA) const = 0;
};

// All experts are here.
const TokenExchange& local_token_exchange();

}  // namespace fathom
