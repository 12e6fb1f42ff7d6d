#include "kernels/cpu/entry_walk.h"

namespace fathom {
namespace {

struct GatherCase {
  TestTensor x, token, y;
  GatherRowsParams params() const { return {x, token, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct CombineCase {
  TestTensor x, position, y;
  bool accumulate;
  CombineRowsParams params() const { return {x, position, y, accumulate}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct EmbeddingForwardCase {
  TestTensor table, y;
  std::vector<int32_t> ids;
  EmbeddingForwardParams params() const { return {table, ids.data(), y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct EmbeddingBackwardCase {
  TestTensor dy, dtable;
  std::vector<int32_t> ids;
  EmbeddingBackwardParams params() const { return {dy, ids.data(), dtable}; }
  std::vector<const TestTensor*> outputs() const { return {&dtable}; }
};

TEST(FastTokens, GiveTheBitsOfTheReference) {
  for (const Size& s : kSizes) {
    const int64_t num_sources = s.rows + 3, top_k = 3;
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < s.rows; ++t) ids.push_back(static_cast<int32_t>(t * t % num_sources));
    for (const DType from : kNarrow) {
      GatherCase gather{TestTensor(from, {num_sources, s.width}, "x", 1),
                        TestTensor(DType::kI32, {s.rows}, "token"),
                        TestTensor(from, {s.rows, s.width}, "y", 2)};
      gather.x.normal(1);
      for (int64_t t = 0; t < s.rows; ++t) gather.token.set(t, ids[static_cast<size_t>(t)]);
      expect_same_bits<GatherRowsParams>(gather);

      EmbeddingBackwardCase backward{TestTensor(from, {s.rows, s.width}, "dy", 1),
                                     TestTensor(DType::kF32, {num_sources, s.width}, "dtable", 2),
                                     ids};
      backward.dy.normal(2);
      backward.dtable.normal(3);
      expect_same_bits<EmbeddingBackwardParams>(backward);

      for (const DType to : kNarrow) {
        if (dtype_bytes(from) > dtype_bytes(to)) continue;
        EmbeddingForwardCase forward{TestTensor(from, {num_sources, s.width}, "table", 1),
                                     TestTensor(to, {s.rows, s.width}, "y", 2), ids};
        forward.table.normal(4);
        expect_same_bits<EmbeddingForwardParams>(forward);
        for (const bool accumulate : {false, true}) {
          CombineCase combine{TestTensor(from, {num_sources, s.width}, "x", 1),
                              TestTensor(DType::kI32, {s.rows, top_k}, "position", 1),
                              TestTensor(to, {s.rows, s.width}, "y", 2), accumulate};
          combine.x.normal(5);
          for (int64_t i = 0; i < combine.position.size(); ++i)
            combine.position.set(i, static_cast<double>(i * 5 % num_sources));
          if (accumulate) combine.y.normal(6);
          expect_same_bits<CombineRowsParams>(combine);
        }
      }
    }
  }
}

struct CastCase {
  TestTensor x, y;
  CastParams params() const { return {x, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct AddCase {
  TestTensor x, y;
  AddParams params() const { return {x, y}; }
  std::vector<const TestTensor*> outputs() const { return {&y}; }
};
struct ScaleCase {
  TestTensor x;
  ScaleParams params() const { return {x, 1.0 / 3}; }
  std::vector<const TestTensor*> outputs() const { return {&x}; }
};

TEST(FastElementwise, GivesTheBitsOfTheReference) {
  for (const Shape& shape : std::vector<Shape>{
           {0}, {1}, {7}, {16}, {40000}, {3, 5}, {2, 3, 33}, {5, 0, 2}, {130, 200}}) {
    for (const int64_t padding : {0, 3}) {
      for (const DType from : kNarrow) {
        TestTensor x(from, shape, "x", padding);
        x.normal(1);
        for (const DType to : kNarrow) {
          expect_same_bits<CastParams>(CastCase{x, TestTensor(to, shape, "y", padding)});
          if (dtype_bytes(from) > dtype_bytes(to)) continue;
          AddCase sum{x, TestTensor(to, shape, "y", 2 * padding)};
          sum.y.normal(2);
          expect_same_bits<AddParams>(sum);
        }
        if (from == DType::kF32) expect_same_bits<ScaleParams>(ScaleCase{x});
      }
    }
  }
}

struct SquaresCase {
  TestTensor x, result;
  SumOfSquaresParams params() const { return {x, static_cast<double*>(result.view().data)}; }
  std::vector<const TestTensor*> outputs() const { return {&result}; }
};

TEST(FastElementwise, SumOfSquaresMatchesReference) {
  for (const Shape& shape : std::vector<Shape>{{0}, {1}, {33}, {100000}, {70, 5, 33}}) {
    for (const DType dtype : kNarrow) {
      SquaresCase c{TestTensor(dtype, shape, "x", shape.num_dims == 3 ? 2 : 0),
                    TestTensor(DType::kF64, {1}, "result")};
      c.x.normal(1);
      expect_entries_match<SumOfSquaresParams, SquaresCase>(
          c, [&](const auto& want, size_t, int64_t) {
            return static_cast<double>(c.x.size()) * 0x1p-53 * want.result[0];
          });
    }
  }
}

struct AdamwCase {
  TestTensor master, grad, m, v, weights;
  int weights_mode;  // 0 none, 1 separate, 2 the master itself
  AdamwParams params() const {
    return {.master = master,
            .grad = grad,
            .m = m,
            .v = v,
            .weights = weights_mode == 0   ? TensorView()
                       : weights_mode == 1 ? weights.view()
                                           : master.view(),
            .lr = 3e-4,
            .grad_scale = 0.37,
            .step = 3};
  }
  std::vector<const TestTensor*> outputs() const {
    if (weights_mode == 1) return {&master, &m, &v, &weights};
    return {&master, &m, &v};
  }
};

TEST(FastAdamw, GivesTheBitsOfTheReference) {
  for (const int64_t count : {0, 1, 15, 16, 17, 50001}) {
    for (const DType moments : kNarrow) {
      for (const DType weights : kNarrow) {
        for (const int mode : {0, 1, 2}) {
          AdamwCase c{
              TestTensor(DType::kF32, {count}, "master"), TestTensor(DType::kF32, {count}, "grad"),
              TestTensor(moments, {count}, "m"),          TestTensor(moments, {count}, "v"),
              TestTensor(weights, {count}, "weights"),    mode};
          c.master.normal(1);
          c.grad.normal(2);
          c.m.normal(3, 0.1);
          c.v.normal(4, 0.01);
          for (int64_t i = 0; i < count; ++i) c.v.set(i, std::fabs(c.v[i]));
          expect_same_bits<AdamwParams>(c);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
