#include <algorithm>

#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {
namespace {

constexpr DType kActs[] = {DType::kF64, DType::kF32, DType::kBF16};

TEST(RefDispatch, SortsPairsByExpertThenToken) {
  Context ctx(1, IsaLevel::kReference);
  for (const auto& [num_tokens, top_k, num_experts] :
       std::vector<std::array<int64_t, 3>>{{0, 2, 3}, {1, 1, 1}, {50, 4, 7}, {9, 3, 40}}) {
    TestTensor idx(DType::kI32, {num_tokens, top_k}, "idx", 1),
        token(DType::kI32, {num_tokens * top_k}, "token"),
        position(DType::kI32, {num_tokens, top_k}, "position", 2);
    std::vector<std::array<int64_t, 3>> pairs;  // expert, token, slot
    const Random random(1, RandomPurpose::kTest);
    for (int64_t t = 0; t < num_tokens; ++t) {
      std::vector<int64_t> experts;  // distinct, as a router's are
      for (uint64_t draw = 0; static_cast<int64_t>(experts.size()) < top_k; ++draw) {
        const auto e = static_cast<int64_t>(random.below(static_cast<uint64_t>(t) * 1000 + draw,
                                                         static_cast<uint64_t>(num_experts)));
        if (std::find(experts.begin(), experts.end(), e) == experts.end()) experts.push_back(e);
      }
      for (int64_t a = 0; a < top_k; ++a) {
        idx.set(t * top_k + a, static_cast<double>(experts[static_cast<size_t>(a)]));
        pairs.push_back({experts[static_cast<size_t>(a)], t, a});
      }
    }
    std::sort(pairs.begin(), pairs.end());
    std::vector<int64_t> offsets(static_cast<size_t>(num_experts) + 1, -7);
    plan_dispatch(ctx, {.idx_TA = idx,
                        .num_experts = num_experts,
                        .offsets = offsets.data(),
                        .token_U = token,
                        .position_TA = position});
    for (size_t u = 0; u < pairs.size(); ++u) {
      EXPECT_EQ(token[static_cast<int64_t>(u)], static_cast<double>(pairs[u][1]));
      EXPECT_EQ(position[pairs[u][1] * top_k + pairs[u][2]], static_cast<double>(u));
    }
    for (int64_t e = 0; e <= num_experts; ++e) {
      const auto before =
          std::count_if(pairs.begin(), pairs.end(), [&](const auto& p) { return p[0] < e; });
      EXPECT_EQ(offsets[static_cast<size_t>(e)], before);
    }
    EXPECT_TRUE(token.guards_intact() && position.guards_intact());
  }
}

// Combining is the transpose of gathering: <gather(x), y> = <x, combine(y)>.
TEST(RefDispatch, GatherAndCombineAreTransposes) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t num_tokens = 4, top_k = 2, width = 5;
  TestTensor token(DType::kI32, {8}, "token"),
      position(DType::kI32, {num_tokens, top_k}, "position");
  const std::vector<int> order = {5, 0, 3, 6, 1, 7, 2, 4};  // row of pair p
  for (int64_t p = 0; p < 8; ++p) {
    position.set(p, order[static_cast<size_t>(p)]);
    token.set(order[static_cast<size_t>(p)], static_cast<double>(p / top_k));
  }
  for (const DType dtype : kActs) {
    TestTensor x(dtype, {num_tokens, width}, "x", 1), rows(dtype, {8, width}, "rows", 2),
        y(dtype, {8, width}, "y"),
        back(dtype == DType::kBF16 ? DType::kF32 : dtype, {num_tokens, width}, "back", 3);
    x.normal(1);
    y.normal(2);
    gather_rows(ctx, x, token, rows);
    combine_rows(ctx, y, position, back, false);
    EXPECT_NEAR(dot(rows, y), dot(x, back), 100 * unit_roundoff(back.view().dtype) * 10);
    const std::vector<double> once = back.values();
    combine_rows(ctx, y, position, back, true);
    for (int64_t i = 0; i < back.size(); ++i)
      EXPECT_NEAR(back[i], 2 * once[static_cast<size_t>(i)], 1e-5);
    EXPECT_TRUE(rows.guards_intact() && back.guards_intact());
  }
}

TEST(RefEmbedding, ForwardCopiesRowsBackwardSumsThem) {
  Context ctx(1, IsaLevel::kReference);
  const std::vector<int32_t> ids = {2, 0, 2, 2};
  for (const DType dtype : kActs) {
    const DType wide = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
    TestTensor table(dtype, {3, 4}, "table", 1), y(wide, {4, 4}, "y", 2), dy(dtype, {4, 4}, "dy"),
        dtable(wide, {3, 4}, "dtable");
    table.normal(1);
    dy.normal(2);
    dtable.fill(10);
    embedding_forward(ctx, table, ids.data(), y);
    embedding_backward(ctx, dy, ids.data(), dtable);
    for (int64_t d = 0; d < 4; ++d) {
      for (int64_t t = 0; t < 4; ++t)
        EXPECT_EQ(y[t * 4 + d], table[ids[static_cast<size_t>(t)] * 4 + d]);
      EXPECT_NEAR(dtable[0 + d], 10 + dy[4 + d], 1e-5);
      EXPECT_EQ(dtable[4 + d], 10);
      EXPECT_NEAR(dtable[8 + d], 10 + dy[d] + dy[8 + d] + dy[12 + d], 1e-5);
    }
    EXPECT_TRUE(y.guards_intact() && dtable.guards_intact());
  }
  TestTensor table(DType::kF32, {3, 4}, "embed"), y(DType::kF32, {1, 4}, "y");
  const int32_t outside = 3;
  EXPECT_THROW(embedding_forward(ctx, table, &outside, y), CheckFailure);
}

TEST(RefCrossEntropy, MatchesTheDefinitionAndItsDerivative) {
  Context ctx(1, IsaLevel::kReference);
  const int64_t vocab = 7;
  const std::vector<int32_t> labels = {3, -1, 0, 6};
  TestTensor logits(DType::kF64, {4, vocab}, "logits", 1),
      dlogits(DType::kF64, {4, vocab}, "dlogits", 2), loss(DType::kF64, {4}, "loss");
  logits.normal(1, 2.0);
  const double grad_scale = 0.31;
  const CrossEntropyParams p{.logits_TV = logits,
                             .labels_T = labels.data(),
                             .grad_scale = grad_scale,
                             .dlogits_TV = dlogits,
                             .loss_T = loss};
  cross_entropy(ctx, p);
  for (int64_t t = 0; t < 4; ++t) {
    const int32_t label = labels[static_cast<size_t>(t)];
    double total = 0;
    for (int64_t v = 0; v < vocab; ++v) total += std::exp(logits[t * vocab + v]);
    EXPECT_NEAR(loss[t], label < 0 ? 0.0 : -std::log(std::exp(logits[t * vocab + label]) / total),
                1e-14);
    if (label < 0) {
      for (int64_t v = 0; v < vocab; ++v) EXPECT_EQ(dlogits[t * vocab + v], 0);
    }
  }
  CrossEntropyParams forward_only = p;
  forward_only.dlogits_TV = {};
  EXPECT_TRUE(gradient_matches(logits, dlogits, [&] {
    cross_entropy(ctx, forward_only);
    return grad_scale * (loss[0] + loss[1] + loss[2] + loss[3]);
  }));
  // In place.
  const std::vector<double> separate = dlogits.values();
  TestTensor in_place = logits;
  CrossEntropyParams q = p;
  q.logits_TV = q.dlogits_TV = in_place;
  cross_entropy(ctx, q);
  EXPECT_EQ(in_place.values(), separate);
}

TEST(RefCrossEntropy, SurvivesHugeLogits) {
  Context ctx(1, IsaLevel::kReference);
  TestTensor logits(DType::kF32, {2, 3}, "logits"), loss(DType::kF32, {2}, "loss"),
      dlogits(DType::kBF16, {2, 3}, "dlogits");
  const std::vector<double> values = {1e30, -1e30, 0, -3e38, -3e38, -3e38};
  for (int64_t i = 0; i < 6; ++i) logits.set(i, values[static_cast<size_t>(i)]);
  const std::vector<int32_t> labels = {0, 2};
  cross_entropy(ctx, {.logits_TV = logits,
                      .labels_T = labels.data(),
                      .grad_scale = 1,
                      .dlogits_TV = dlogits,
                      .loss_T = loss});
  EXPECT_EQ(loss[0], 0);
  EXPECT_NEAR(loss[1], std::log(3.0), 1e-6);
  EXPECT_EQ(dlogits[0], 0);
  EXPECT_NEAR(dlogits[3], 1.0 / 3, 1e-2);
}

}  // namespace
}  // namespace fathom
