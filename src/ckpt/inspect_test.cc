#include "ckpt/inspect.h"

#include "ckpt/safetensors.h"
#include "core/json.h"

namespace fathom {
namespace {

std::string published(const std::string& name) {
  return join_path(FATHOM_SOURCE_DIR, "configs/models/" + name + ".json");
}
std::string golden(const std::string& name) {
  return join_path(FATHOM_GOLDEN_DIR, "models/" + name);
}

TEST(Inspect, DeepSeekV3FromItsConfigurationAlone) {
  const ModelSummary summary = inspect_model(local_file_system(), published("deepseek-v3"));
  const Json json = parse_json(summary_json(summary), "inspect");
  EXPECT_EQ(json["architecture"], "DeepseekV3ForCausalLM");
  EXPECT_EQ(json["parameters_total"], 671'026'419'200);
  EXPECT_EQ(json["parameters_active"], 37'552'297'472);
  EXPECT_EQ(json["parameters_mtp_with_copies"], 13'463'426'304);
  EXPECT_EQ(json["mtp_layers"], 1);
  EXPECT_EQ(json["moe_layers"], 58);
  EXPECT_EQ(json["context_length"], 163840);
  EXPECT_EQ(json["kv_bytes_per_token"], 70'272);  // 61 layers x 576 x 2
  EXPECT_EQ(json["quantization"], "fp8 e4m3, 128x128 blocks");
  EXPECT_FALSE(json.contains("problems"));
  // Two bytes a parameter at least, and no machine of ours holds it.
  EXPECT_GE(json["memory_needed"]["inference_bf16"]["bytes"].get<int64_t>(),
            2 * (671'026'419'200 + 11'610'068'224));
  EXPECT_FALSE(json["memory_needed"]["training_bf16"]["fits"].get<bool>());
  EXPECT_NE(summary_text(summary).find("671.03 B total, 37.55 B active per token (5.6 %)"),
            std::string::npos);
}

TEST(Inspect, FoldersReportTheirTensors) {
  const ModelSummary summary = inspect_model(local_file_system(), golden("fp8_v3"));
  EXPECT_TRUE(summary.problems.empty()) << summary.problems.front();
  EXPECT_TRUE(summary.mtp_stored);
  EXPECT_EQ(summary.num_shards, 1);
  EXPECT_EQ(summary.bytes_on_disk,
            local_file_system().info(golden("fp8_v3") + "/model.safetensors").bytes);
  EXPECT_GT(summary.stored.at("F8_E4M3").num_tensors, 30);
  // Elements on disk: the model with its copies, and the scales.
  int64_t elements = -summary.stored.at("F32").num_elements;
  for (const auto& [dtype, stored] : summary.stored) elements += stored.num_elements;
  const int64_t biases =
      2 * summary.config.n_routed_experts;  // fp32, in one MoE layer and the module
  EXPECT_EQ(elements + biases, summary.count.main_model + summary.count.mtp_stored);
  for (const ModelSummary::Need& need : summary.needs) EXPECT_TRUE(need.fits) << need.use;
  EXPECT_NE(summary_text(summary).find("problems    none"), std::string::npos);
}

TEST(Inspect, ProblemsAreListedNotThrown) {
  FileSystem& files = local_file_system();
  const std::string folder = testing::TempDir() + "fathom_inspect";
  files.remove_all(folder);
  files.make_directories(folder);
  write_file_atomically(files, join_path(folder, "config.json"),
                        files.read_all(golden("v3_base") + "/config.json"));
  EXPECT_EQ(inspect_model(files, folder).problems.size(), 1u);  // no weights at all
  float x[2] = {1, 2};
  write_safetensors(files, join_path(folder, "model.safetensors"),
                    {TensorView(x, DType::kF32, Shape{2}, "model.norm.weight"),
                     TensorView(x, DType::kF32, Shape{1}, "extra")});
  const ModelSummary summary = inspect_model(files, folder);
  const Json problems = parse_json(summary_json(summary), "inspect")["problems"];
  EXPECT_EQ(problems[0], "missing: lm_head.weight");
  EXPECT_NE(problems[20].get<std::string>().find("more like these"), std::string::npos);
  EXPECT_EQ(problems[21], "unexpected: extra");
  EXPECT_EQ(problems[22], "malformed: model.norm.weight: found [2], expected [24]");
  files.remove_all(folder);
  EXPECT_THROW(inspect_model(files, folder), Error);
}

}  // namespace
}  // namespace fathom
