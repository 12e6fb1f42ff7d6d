// Where tokens meet their experts. The model calls this seam; in a single process it only reorders
// rows. Under expert parallelism another implementation sends them to the ranks that hold the
// experts: the backward of dispatch has the communication pattern of combine, and the other way
// round.
#pragma once

#include <memory>

#include "core/tensor.h"
#include "kernels/kernels.h"
#include "runtime/context.h"

namespace fathom {

// What an exchange remembers of one routing until its backward pass is done.
class ExchangeLayout {
 public:
  virtual ~ExchangeLayout() = default;
};

// The routing of one micro-batch in dispatch order: rows sorted by expert, then by token. In a
// single process there are U = T * A of them; with experts elsewhere their number depends on where
// all ranks' tokens go, and position and token say nothing: the layout does.
struct RoutedRows {
  TensorView idx_TA;       // i32: the experts of each token
  TensorView position_TA;  // i32: the row of each (token, slot)
  TensorView token_U;      // i32: the token of each row
  TensorView offsets;      // i64: rows of the e-th expert here are [offsets[e], offsets[e+1])
  std::shared_ptr<ExchangeLayout> layout;

  int64_t num_rows() const { return offsets.as<int64_t>()[offsets.dim(0) - 1]; }
};

// A transfer in one piece, or its halves: between them other work is done while rows travel. Halves
// of two micro-batches may alternate; what is sent first is received first.
enum class Half { kBoth, kSend, kReceive };
inline bool sends(Half half) { return half != Half::kReceive; }
inline bool receives(Half half) { return half != Half::kSend; }

// The two directions of rows: dispatch() and what has its pattern, combine() and what has its.
enum class Way { kToExperts, kToTokens };

class TokenExchange {
 public:
  virtual ~TokenExchange() = default;
  virtual std::shared_ptr<ExchangeLayout> make_layout() const { return nullptr; }
  // The most rows that can come to `num_experts` experts when every rank has num_tokens tokens.
  virtual int64_t max_rows(int64_t num_tokens, int64_t experts_per_token,
                           int64_t num_experts) const {
    (void)num_experts;
    return num_tokens * experts_per_token;
  }
  // Fills position_TA, token_U and offsets (or the layout and offsets) from idx_TA.
  virtual void plan(Context& ctx, const RoutedRows& rows, Half half = Half::kBoth) const = 0;
  // Whether receiving would not wait: after plan(kSend), and after the send half of a transfer that
  // goes this way. A hint; true where nothing is known.
  virtual bool plan_has_come(const RoutedRows&) const { return true; }
  virtual bool has_come(const RoutedRows&, Way) const { return true; }
  // x_UD[u] = x_TD[token of u]; to receive, x_TD is not read.
  virtual void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                        const TensorView& x_UD, Half half = Half::kBoth) const = 0;
  // y_TD[t] (+)= sum over the token's rows, in the order of its slots
  virtual void combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows,
                       const TensorView& y_TD, bool accumulate, Half half = Half::kBoth) const = 0;
  // One value a (token, slot), to dispatch order and back.
  virtual void dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                               const TensorView& v_U, Half half = Half::kBoth) const = 0;
  virtual void combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                              const TensorView& v_TA, Half half = Half::kBoth) const = 0;
};

// All experts are here.
const TokenExchange& local_token_exchange();

}  // namespace fathom
