// `fathom bench`: its shapes are those of the shipped configurations, and its JSON is what outside
// checks rely on. No times are judged.
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "core/file.h"
#include "core/json.h"
#include "kernels/bench/bench.h"
#include "model/config_json.h"
#include "runtime/cpu.h"

namespace fathom {
namespace {

struct Outcome {
  int status = -1;
  std::string output;
};
Outcome bench(const std::string& arguments) {
  const std::string command =
      fmt::format("'{}/fathom' bench {} 2>&1", FATHOM_BINARY_DIR, arguments);
  Outcome outcome;
  std::FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  for (size_t n = 0; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    outcome.output.append(buffer, n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

TEST(Bench, ShapesAreThoseOfTheConfigurations) {
  const std::map<std::string, std::string> files = {{"demo", "demo.json"},
                                                    {"671b", "deepseek-v3.json"}};
  int64_t num_compared = 0;
  for (const BenchModel& m : bench_models()) {
    if (!files.contains(m.name)) continue;
    const std::string path = FATHOM_SOURCE_DIR "/configs/models/" + files.at(m.name);
    const ModelConfig c = parse_config_json(local_file_system().read_all(path), path);
    EXPECT_EQ(m.hidden, c.hidden_size);
    EXPECT_EQ(m.heads, c.num_attention_heads);
    EXPECT_EQ(m.q_lora, c.q_lora_rank);
    EXPECT_EQ(m.kv_lora, c.kv_lora_rank);
    EXPECT_EQ(m.nope, c.qk_nope_head_dim);
    EXPECT_EQ(m.rope, c.qk_rope_head_dim);
    EXPECT_EQ(m.value, c.v_head_dim);
    EXPECT_EQ(m.dense_width, c.intermediate_size);
    EXPECT_EQ(m.expert_width, c.moe_intermediate_size);
    EXPECT_EQ(m.num_experts, c.n_routed_experts);
    EXPECT_EQ(m.num_active, c.num_experts_per_tok);
    EXPECT_EQ(m.n_group, c.n_group);
    EXPECT_EQ(m.topk_group, c.topk_group);
    EXPECT_EQ(m.vocab, c.vocab_size);
    ++num_compared;
  }
  EXPECT_EQ(num_compared, 2);
}

TEST(Bench, JsonIsAListWithTheContractsFields) {
  const Outcome outcome =
      bench("--json --quiet --rounds 1 --threads 1 --filter '^demo (gemm_nt q_a|cast)|^machine'");
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  const Json list = Json::parse(outcome.output);
  ASSERT_TRUE(list.is_array());
  std::set<std::string> names;
  for (const Json& one : list) {
    names.insert(one.at("name"));
    EXPECT_FALSE(one.at("shape").get<std::string>().empty());
    EXPECT_EQ(one.at("threads"), 1);
    EXPECT_FALSE(one.at("isa").get<std::string>().empty());
    const Json& rate = one.contains("gflops") ? one.at("gflops") : one.at("gbps");
    EXPECT_GT(rate.get<double>(), 0) << one.dump();
    EXPECT_GT(one.at("percent_of_limit").get<double>(), 0) << one.dump();
  }
  for (const char* name : {"gemm_nt q_a", "cast", "read_bandwidth", "peak_bf16"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("gemm_nt q_b"));
}

TEST(Bench, SaysWhichLevelRan) {
  for (const IsaLevel level : supported_isa_levels()) {
    setenv("FATHOM_FORCE_ISA", std::string(isa_name(level)).c_str(), 1);
    const Outcome outcome =
        bench("--json --quiet --rounds 1 --threads 1 --filter '^demo gemm_nt kv_a'");
    ASSERT_EQ(outcome.status, 0) << outcome.output;
    EXPECT_EQ(Json::parse(outcome.output).at(0).at("isa"), isa_name(level));
  }
  unsetenv("FATHOM_FORCE_ISA");
}

TEST(Bench, BadFiltersAreUsageErrors) {
  for (const char* filter : {"'('", "'no such kernel'"}) {
    const Outcome outcome = bench(fmt::format("--filter {}", filter));
    EXPECT_EQ(outcome.status, 2) << outcome.output;
    EXPECT_NE(outcome.output.find("--filter"), std::string::npos) << outcome.output;
  }
}

}  // namespace
}  // namespace fathom
