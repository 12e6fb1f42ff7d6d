// The kernels between the products of a layer: bound by memory, so GB/s of what must be read and
// written.
#include <fmt/format.h>

#include "kernels/bench/bench_case.h"
#include "kernels/kernels.h"

namespace fathom::bench {
namespace {

constexpr DType kBf = DType::kBF16, kF = DType::kF32;

class RowCases {
 public:
  RowCases(const BenchModel& model, std::vector<Case>& cases) : m_(model), cases_(cases) {}

  void add_all() {
    norm_and_rope();
    feed_forward();
    routing();
    loss_and_optimizer();
  }

 private:
  // `bytes_per_row` of `rows` rows.
  void add(const char* name, const std::string& shape, int64_t rows, int64_t bytes_per_row,
           std::function<Call(Operands&)> prepare) {
    cases_.push_back({.model = m_.name,
                      .name = name,
                      .shape = shape,
                      .dtype = kBf,
                      .bytes = static_cast<double>(rows * bytes_per_row),
                      .bandwidth_bound = true,
                      .writes_much = true,
                      .prepare = std::move(prepare)});
  }
  std::string rows_of(int64_t rows, int64_t width) const {
    return fmt::format("bf16 {}x{}", rows, width);
  }

  void norm_and_rope() {
    const int64_t T = T_, D = m_.hidden, H = m_.heads, R = m_.rope;
    add("rms_norm_forward", rows_of(T, D), T, 4 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kBf, {T, D}), w = o.make(kF, {D}), y = o.zeros(kBf, {T, D}),
                       rstd = o.zeros(kF, {T});
      return [=](Context& ctx) { rms_norm_forward(ctx, {x, w, 1e-6, y, rstd}); };
    });
    add("rms_norm_backward", rows_of(T, D), T, 8 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kBf, {T, D}), w = o.make(kF, {D}), rstd = o.make(kF, {T}),
                       dy = o.make(kBf, {T, D}), dx = o.make(kBf, {T, D}), dw = o.zeros(kF, {D});
      return [=](Context& ctx) { rms_norm_backward(ctx, {x, w, rstd, dy, dx, true, dw}); };
    });
    add("rope", fmt::format("bf16 {} tokens, {} heads of {}", T, H, R), T, 4 * H * R,
        [=, num_nope = m_.nope, S = m_.row_tokens](Operands& o) -> Call {
          const TensorView q = o.make(kBf, {T, H, num_nope + R}), table = o.make(kF, {S, R}),
                           positions = o.zeros(DType::kI32, {T});
          for (int64_t t = 0; t < T; ++t) positions.as<int32_t>()[t] = static_cast<int32_t>(t % S);
          TensorView rotated = q;
          rotated.data = static_cast<std::byte*>(q.data) + num_nope * 2;
          rotated.shape.dim[2] = R;
          return [=](Context& ctx) { rope(ctx, {rotated, table, positions.as<int32_t>(), false}); };
        });
  }

  void feed_forward() {
    const int64_t T = T_, F = m_.dense_width;
    add("swiglu_forward", rows_of(T, F), T, 6 * F, [=](Operands& o) -> Call {
      const TensorView gate_up = o.make(kBf, {T, 2 * F}), h = o.zeros(kBf, {T, F});
      return [=](Context& ctx) { swiglu_forward(ctx, {gate_up, {}, h}); };
    });
    add("swiglu_backward", rows_of(T, F), T, 10 * F, [=](Operands& o) -> Call {
      const TensorView gate_up = o.make(kBf, {T, 2 * F}), dh = o.make(kBf, {T, F}),
                       dgate_up = o.zeros(kBf, {T, 2 * F});
      return [=](Context& ctx) { swiglu_backward(ctx, {gate_up, {}, dh, dgate_up, {}}); };
    });
  }

  void routing() {
    const int64_t T = T_, D = m_.hidden, E = m_.num_experts, A = m_.num_active, U = T * A;
    const BenchModel m = m_;
    add("router_forward", fmt::format("f32 {}x{}, top {}", T, E, A), T, 8 * E + 8 * A,
        [=](Operands& o) -> Call {
          const TensorView logits = o.make(kF, {T, E}), bias = o.make(kF, {E}),
                           scores = o.zeros(kF, {T, E}), idx = o.zeros(DType::kI32, {T, A}),
                           weight = o.zeros(kF, {T, A});
          return [=](Context& ctx) {
            router_forward(ctx, {.logits_TE = logits,
                                 .bias_E = bias,
                                 .n_group = m.n_group,
                                 .topk_group = m.topk_group,
                                 .num_experts_per_tok = m.num_active,
                                 .scores_TE = scores,
                                 .idx_TA = idx,
                                 .weight_TA = weight});
          };
        });
    add("gather_rows", rows_of(U, D), U, 4 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kBf, {T, D}), token = o.distinct(A, T, T),
                       y = o.zeros(kBf, {U, D});
      const TensorView token_U(token.data, DType::kI32, {U}, "token");
      return [=](Context& ctx) { gather_rows(ctx, x, token_U, y); };
    });
    add("combine_rows", rows_of(U, D), U, 2 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kBf, {U, D}), position = o.distinct(1, U, U),
                       y = o.zeros(kBf, {T, D});
      const TensorView position_TA(position.data, DType::kI32, {T, A}, "position");
      return [=](Context& ctx) { combine_rows(ctx, x, position_TA, y, false); };
    });
  }

  void loss_and_optimizer() {
    const int64_t T = std::min<int64_t>(T_, 256), V = m_.vocab, D = m_.hidden;
    add("cross_entropy", fmt::format("f32 to bf16 {}x{}", T, V), T, 6 * V,
        [=](Operands& o) -> Call {
          const TensorView logits = o.make(kF, {T, V}), dlogits = o.zeros(kBf, {T, V}),
                           loss = o.zeros(kF, {T}), labels = o.zeros(DType::kI32, {T});
          return [=](Context& ctx) {
            cross_entropy(ctx, {logits, labels.as<int32_t>(), 1e-3, dlogits, loss});
          };
        });
    const int64_t n = m_.expert_width * D * 2;
    // Master, gradient and both moments are read, all but the gradient and the weights written.
    add("adamw", fmt::format("f32, weights bf16, {}", n), n, 16 + 12 + 2, [=](Operands& o) -> Call {
      const TensorView master = o.make(kF, {n}), grad = o.make(kF, {n}), m = o.zeros(kF, {n}),
                       v = o.zeros(kF, {n}), weights = o.zeros(kBf, {n});
      return [=](Context& ctx) {
        adamw(ctx,
              {.master = master, .grad = grad, .m = m, .v = v, .weights = weights, .lr = 1e-4});
      };
    });
    const int64_t rows = T_;
    add("cast", fmt::format("f32 to bf16 {}x{}", rows, D), rows, 6 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kF, {rows, D}), y = o.zeros(kBf, {rows, D});
      return [=](Context& ctx) { cast(ctx, x, y); };
    });
    add("add", fmt::format("bf16 to f32 {}x{}", rows, D), rows, 10 * D, [=](Operands& o) -> Call {
      const TensorView x = o.make(kBf, {rows, D}), y = o.zeros(kF, {rows, D});
      return [=](Context& ctx) { fathom::add(ctx, x, y); };
    });
  }

  const BenchModel& m_;
  std::vector<Case>& cases_;
  const int64_t T_ = m_.row_tokens * m_.num_rows;
};

}  // namespace

void add_row_cases(const BenchModel& model, std::vector<Case>& cases) {
  RowCases(model, cases).add_all();
}

}  // namespace fathom::bench
