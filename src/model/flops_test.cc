#include "model/flops.h"

#include "core/file.h"
#include "model/config_json.h"
#include "model/parameters.h"

namespace fathom {
namespace {

ModelConfig published(const std::string& name) {
  const std::string path = std::string(FATHOM_SOURCE_DIR "/configs/models/") + name;
  return parse_config_json(local_file_system().read_all(path), path);
}

// Every weight of a matrix that a token meets costs one multiply and one add: the parameter list
// knows how many there are.
TEST(FlopsTest, MatrixProductsAreTwiceTheActiveWeights) {
  for (const char* name : {"deepseek-v3.json", "deepseek-v2-lite.json", "deepseek-v2.json",
                           "moonlight-16b-a3b.json"}) {
    ModelConfig config = published(name);
    config.num_nextn_predict_layers = 0;
    double weights = 0;
    for (const ParameterSpec& spec : parameter_specs(config)) {
      if (spec.kind == ParameterKind::kNorm || spec.kind == ParameterKind::kRouterBias) continue;
      if (spec.name == "model.embed_tokens.weight" && !config.tie_word_embeddings) continue;
      if (spec.expert_idx >= config.num_experts_per_tok)
        continue;  // a token meets as many as it has slots
      weights += static_cast<double>(spec.shape.num_elements());
    }
    const FlopCount flops = forward_flops_per_token(config, 4096);
    EXPECT_EQ(flops.attention_projections + flops.feed_forward + flops.head, 2 * weights) << name;
    EXPECT_EQ(flops.mtp, 0);
  }
}

TEST(FlopsTest, AttentionCountsCausalKeysAndMtpItsHead) {
  const ModelConfig config = published("deepseek-v3.json");
  ASSERT_EQ(config.num_nextn_predict_layers, 1);
  const FlopCount one = forward_flops_per_token(config, 1),
                  three = forward_flops_per_token(config, 3);
  // At context 1 a token sees itself: one key of 192 and one value of 128 for each of 128 heads in
  // 61 layers.
  EXPECT_EQ(one.attention_scores, 61 * 128 * 2 * (192 + 128));
  EXPECT_EQ(three.attention_scores, 2 * one.attention_scores);  // 1, 2 and 3 keys
  EXPECT_GT(one.mtp, one.head + 2 * 2 * 7168.0 * 7168.0);
  EXPECT_EQ(training_flops_per_token(config, 3), 3 * three.total());
}

}  // namespace
}  // namespace fathom
