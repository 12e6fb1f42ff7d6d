// Experts from a bounded tier give the bits that experts in memory give.
#include "ckpt/expert_tier.h"

#include <gtest/gtest.h>

#include "ckpt/convert_folder.h"
#include "ckpt/load_model.h"
#include "infer/generate.h"
#include "infer/latent_cache.h"
#include "tests/tiny_model.h"

namespace fathom {
namespace {

class ExpertTiers : public testing::Test {
 protected:
  ExpertTiers() {
    files_.remove_all(root_);
    files_.make_directories(root_);
    config_ = testing_models::tiny_config();
    config_.vocab_size = 80;
    config_.hidden_size = 64;
    config_.q_lora_rank = 32;
    config_.kv_lora_rank = 32;
    config_.num_attention_heads = 2;
    config_.qk_rope_head_dim = 16;
    config_.moe_intermediate_size = 32;
    ParameterSet weights("source", parameter_specs(config_), kPolicyBf16.weight_dtypes());
    initialize_parameters(config_, 11, weights);
    save_hf_folder(files_, root_ + "/plain", config_, weights);
    prompt_ = testing_models::random_tokens(40, config_.vocab_size, 5);
  }
  ~ExpertTiers() override { files_.remove_all(root_); }

  std::unique_ptr<Model> open(const std::string& name) {
    return load_for_inference(ctx_, files_, root_ + "/" + name, kPolicyBf16, 0,
                              {.load = {.skip_mtp = true}});
  }
  // Answer tokens, and the logits behind the prompt as a generation's fingerprint.
  std::vector<int32_t> answer(const Model& model) {
    return generate(ctx_, model, prompt_, {.max_tokens = 30, .sampling = {.temperature = 0}})
        .tokens;
  }
  std::vector<float> logits(const Model& model) {
    LatentCache cache(CacheLayout::of(model.config(), DType::kBF16, false), 64);
    std::vector<float> out(prompt_.size() * static_cast<size_t>(config_.vocab_size));
    SequenceInput input = cache.input(prompt_);
    input.num_logits = static_cast<int64_t>(prompt_.size());
    forward_cached(
        ctx_, model, cache.layout(), {&input, 1},
        {.logits_LV = TensorView(out.data(), DType::kF32,
                                 Shape{input.num_logits, config_.vocab_size}, "logits")});
    return out;
  }

  FileSystem& files_ = local_file_system();
  Context ctx_{2};
  std::string root_ = testing::TempDir() + "fathom_expert_tier_" +
                      testing::UnitTest::GetInstance()->current_test_info()->name();
  ModelConfig config_;
  std::vector<int32_t> prompt_;
};

TEST_F(ExpertTiers, GiveTheSameBitsAtAnySize) {
  for (const auto& [name, format] :
       std::map<std::string, FolderFormat>{{"bf16", FolderFormat::kBf16},
                                           {"int8", FolderFormat::kInt8},
                                           {"int4", FolderFormat::kInt4},
                                           {"fp8", FolderFormat::kFp8Block}}) {
    convert_folder(ctx_, files_, root_ + "/plain", root_ + "/" + name, format);
    const auto in_memory = open(name);
    const std::vector<float> want = logits(*in_memory);
    const std::vector<int32_t> want_tokens = answer(*in_memory);
    for (const int64_t slots : {2, 7, 40, 1000}) {
      for (const int readers : {1, 3}) {
        const auto model = open(name);
        ExpertTier probe(config_, model->weights(), int64_t{1} << 30);
        const int64_t slot_bytes = probe.stats().slot_bytes;
        ExpertTier tier(config_, model->weights(), slots * slot_bytes + 17, readers);
        model->use_expert_source(&tier);
        EXPECT_EQ(logits(*model), want) << name << " " << slots;
        EXPECT_EQ(answer(*model), want_tokens) << name << " " << slots;
        const ExpertTierStats stats = tier.stats();
        EXPECT_EQ(stats.num_slots, std::min<int64_t>(slots, 2 * 16));
        EXPECT_EQ(stats.num_tokens, 40 + 40 + 29);
        EXPECT_LE(stats.num_hits + stats.num_late, stats.num_uses);
        EXPECT_EQ(stats.bytes_read, stats.num_reads * stats.bytes_read / stats.num_reads);
        if (slots >= 32) {
          EXPECT_LE(stats.num_reads, 32) << "nothing is read twice where all fits";
          EXPECT_GT(stats.hit_rate(), 0.8);
        }
        EXPECT_GT(stats.num_reads, slots == 2 ? 100 : 0);
      }
    }
    // A source that the model keeps ends with it.
    const auto keeper = open(name);
    keeper->keep_expert_source(
        std::make_unique<ExpertTier>(config_, keeper->weights(), int64_t{1} << 20));
    EXPECT_EQ(answer(*keeper), want_tokens) << name;
    // Negative control: another expert's weights in its place are seen.
    const auto model = open(name);
    struct Wrong final : ExpertSource {
      explicit Wrong(ExpertTier& tier_in) : tier(tier_in) {}
      void expect(int64_t, std::span<const int64_t>) override {}
      void begin(int64_t layer, std::span<const int64_t> experts, int64_t tokens) override {
        std::vector<int64_t> other(experts.begin(), experts.end());
        other[0] = other[0] == 0 ? 1 : 0;
        tier.begin(layer, other, tokens);
      }
      ExpertWeights next() override { return tier.next(); }
      void end() override { tier.end(); }
      ExpertTier& tier;
    };
    ExpertTier tier(config_, model->weights(), int64_t{1} << 30);
    Wrong wrong(tier);
    model->use_expert_source(&wrong);
    EXPECT_NE(logits(*model), want);
  }
}

TEST_F(ExpertTiers, LookAheadBringsWhatIsAskedFor) {
  convert_folder(ctx_, files_, root_ + "/plain", root_ + "/int8", FolderFormat::kInt8);
  const auto model = open("int8");
  ExpertTier tier(config_, model->weights(), int64_t{1} << 30, 2);
  const std::vector<int64_t> experts{3, 9, 12};
  tier.expect(3, experts);
  tier.begin(3, experts, 1);
  for (int i = 0; i < 3; ++i) tier.next();
  tier.end();
  const ExpertTierStats stats = tier.stats();
  EXPECT_EQ(stats.num_hits + stats.num_late, 3);
  EXPECT_EQ(stats.num_expected, 3);
  EXPECT_EQ(stats.num_reads, 3);
  // And once more: there, by itself.
  tier.begin(3, experts, 1);
  for (int i = 0; i < 3; ++i) tier.next();
  EXPECT_EQ(tier.stats().num_hits - stats.num_hits, 3);
  EXPECT_EQ(tier.stats().num_expected, 3);
  EXPECT_EQ(tier.stats().num_reads, 3);
}

TEST_F(ExpertTiers, RefuseWhatCannotWork) {
  const auto model = open("plain");
  EXPECT_THROW(ExpertTier(config_, model->weights(), 1000), Error);
  const auto copied = load_for_inference(ctx_, files_, root_ + "/plain", kPolicyBf16, 0,
                                         {.load = {.skip_mtp = true}, .map = false});
  try {
    ExpertTier(config_, copied->weights(), int64_t{1} << 30);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("fathom convert"), std::string::npos);
  }
}

}  // namespace
}  // namespace fathom
