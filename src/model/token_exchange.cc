#include "model/token_exchange.h"

namespace fathom {
namespace {

class LocalTokenExchange final : public TokenExchange {
 public:
  void plan(Context& ctx, const RoutedRows& rows, Half half) const override {
    if (!sends(half)) return;
    plan_dispatch(ctx, {.idx_TA = rows.idx_TA,
                        .num_experts = rows.offsets.dim(0) - 1,
                        .offsets = rows.offsets.as<int64_t>(),
                        .token_U = rows.token_U,
                        .position_TA = rows.position_TA});
  }
  void dispatch(Context& ctx, const TensorView& x_TD, const RoutedRows& rows,
                const TensorView& x_UD, Half half) const override {
    if (sends(half)) gather_rows(ctx, x_TD, rows.token_U, x_UD);
  }
  void combine(Context& ctx, const TensorView& x_UD, const RoutedRows& rows, const TensorView& y_TD,
               bool accumulate, Half half) const override {
    if (receives(half)) combine_rows(ctx, x_UD, rows.position_TA, y_TD, accumulate);
  }
  void dispatch_values(Context& ctx, const TensorView& v_TA, const RoutedRows& rows,
                       const TensorView& v_U, Half half) const override {
    (void)ctx;
    if (sends(half)) move_values(v_TA, rows, v_U, /*to_dispatch_order=*/true);
  }
  void combine_values(Context& ctx, const TensorView& v_U, const RoutedRows& rows,
                      const TensorView& v_TA, Half half) const override {
    (void)ctx;
    if (receives(half)) move_values(v_TA, rows, v_U, /*to_dispatch_order=*/false);
  }

 private:
  // A few bytes per token: not worth a kernel.
  static void move_values(const TensorView& v_TA, const RoutedRows& rows, const TensorView& v_U,
                          bool to_dispatch_order) {
    FATHOM_CHECK(v_TA.dtype == v_U.dtype && v_TA.contiguous() && v_U.contiguous(), "{} and {}",
                 to_string(v_TA), to_string(v_U));
    const int32_t* position = rows.position_TA.as<int32_t>();
    const int64_t count = rows.position_TA.num_elements();
    const auto move = [&](auto* by_token, auto* by_row) {
      for (int64_t i = 0; i < count; ++i) {
        if (to_dispatch_order) {
          by_row[position[i]] = by_token[i];
        } else {
          by_token[i] = by_row[position[i]];
        }
      }
    };
    if (v_TA.dtype == DType::kF64) {
      move(v_TA.as<double>(), v_U.as<double>());
    } else {
      move(v_TA.as<float>(), v_U.as<float>());
    }
  }
};

}  // namespace

const TokenExchange& local_token_exchange() {
  static const LocalTokenExchange exchange;  // stateless
  return exchange;
}

}  // namespace fathom
