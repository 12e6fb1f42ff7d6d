// The service as processes on machines: two that share their cache, and one in little memory.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "ckpt/convert_folder.h"
#include "tests/serve_fixture.h"

namespace fathom {
namespace {

using testing_serve::Answer;
using testing_serve::Server;
using testing_serve::ServeTest;

// One server reads prompts, another goes on with them (SYSTEMS 93): what is between them is the
// latent cache, in files of one folder, and what comes out is what one server alone says.
TEST_F(ServeTest, PrefillAndDecodingInTwoProcesses) {
  const std::string folder = path("shared-prefixes");
  const std::vector<std::string> options = {"--no-auth", "--prefix-cache", folder};
  const auto decoder = start(options), prefiller = start(options);
  const auto ask = [](const Server& server, int64_t first, int64_t max_tokens) {
    Json prompt = Json::array();
    for (int64_t i = 0; i < 330; ++i) prompt.push_back(20 + (first + i * 7) % 200);
    return server
        .post(
            "/v1/completions",
            {{"model", "tiny"}, {"prompt", prompt}, {"max_tokens", max_tokens}, {"temperature", 0}})
        .json();
  };
  const auto num_files = [&] {
    int64_t count = 0;
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder))
      count += file.path().extension() == ".unit" ? 1 : 0;
    return count;
  };
  int64_t files = 0;
  for (int64_t first = 0; first < 5; ++first) {
    EXPECT_EQ(ask(*prefiller, first, 1)["usage"]["prompt_cache_hit_tokens"], 0);
    files += 5;
    for (int wait = 0; wait < 500 && num_files() < files; ++wait) usleep(10'000);
    ASSERT_EQ(num_files(), files);
    const Json reply = ask(*decoder, first, 40), alone = ask(*server_, first, 40);
    EXPECT_EQ(reply["usage"]["prompt_cache_hit_tokens"], 320);
    EXPECT_EQ(reply["choices"][0]["text"], alone["choices"][0]["text"]);
    EXPECT_EQ(alone["usage"]["prompt_cache_hit_tokens"], 0);
  }
  // What is shipped: for each token and layer a latent and a rotated key, in bf16.
  const ModelConfig config = testing_models::tiny_config();
  const int64_t layers = config.num_hidden_layers + config.num_nextn_predict_layers;
  const int64_t page = 64 * layers * (config.kv_lora_rank + config.qk_rope_head_dim) * 2;
  for (const auto& file : std::filesystem::recursive_directory_iterator(folder)) {
    if (file.is_regular_file()) {
      EXPECT_EQ(file.file_size(), 72 + 64 * 4 + page);
    }
  }
  EXPECT_EQ(prefiller->end(), 0);
  // The decoder alone goes on, on what the other one left.
  EXPECT_EQ(ask(*decoder, 0, 40)["usage"]["prompt_cache_hit_tokens"], 320);
  EXPECT_EQ(decoder->end(), 0);
}

// SYSTEMS 107: a model in 4 bits is served by one processor within a stated amount of memory, and
// where that is too little the reason is told at once.
TEST_F(ServeTest, ServesWithinAStatedMemoryOnOneProcessor) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers reserve addresses without end";
#endif
  ModelConfig config = testing_models::tiny_config();
  config.hidden_size = 64;
  config.q_lora_rank = config.kv_lora_rank = config.qk_nope_head_dim = config.v_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.intermediate_size = 96;
  config.moe_intermediate_size = 32;
  testing_serve::write_tiny_folder(path("small"), config);
  Context ctx(1);
  convert_folder(ctx, local_file_system(), path("small"), path("small-int4"), FolderFormat::kInt4);
  const auto start_within = [&](int64_t kib) {
    const std::string script = path("limited.sh");
    write_file_atomically(local_file_system(), script,
                          fmt::format("#!/bin/sh\nulimit -v {}\nexec taskset -c 0 {}/fathom \"$@\"\n",
                                      kib, FATHOM_BINARY_DIR));
    EXPECT_EQ(chmod(script.c_str(), 0700), 0);
    setenv("FATHOM_SERVE_PROGRAM", script.c_str(), 1);
    auto server = std::make_unique<Server>(std::vector<std::string>{
        "--model", "tiny=" + path("small-int4"), "--port", "0", "--threads", "1", "--no-auth"});
    unsetenv("FATHOM_SERVE_PROGRAM");
    return server;
  };
  const int64_t stated_kib = 160'000;
  const auto server = start_within(stated_kib);
  ASSERT_GT(server->port(), 0) << server->log();
  for (int i = 0; i < 10; ++i) {
    const Answer answer = server->post("/chat/completions", chat_body(20));
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.json()["usage"]["completion_tokens"], 20);
  }
  std::ifstream status(fmt::format("/proc/{}/status", server->pid()));
  int64_t addresses_kib = 0, resident_kib = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPeak:")) addresses_kib = std::stoll(line.substr(7));
    if (line.starts_with("VmHWM:")) resident_kib = std::stoll(line.substr(6));
  }
  ASSERT_GT(resident_kib, 0);
  EXPECT_LT(resident_kib, stated_kib / 2) << "at most, KiB";
  EXPECT_LT(addresses_kib, stated_kib / 4 * 3) << "at most, KiB: heaps reserved that no one uses?";
  EXPECT_EQ(server->end(), 0);

  const auto starved = start_within(40'000);
  EXPECT_EQ(starved->port(), 0);
  EXPECT_NE(starved->log().find("error: "), std::string::npos) << starved->log();
}

}  // namespace
}  // namespace fathom
