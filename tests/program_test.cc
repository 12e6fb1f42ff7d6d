// The program as outside checks use it: verbs, files, exit statuses.
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "ckpt/safetensors.h"
#include "core/file.h"
#include "core/json.h"

namespace fathom {
namespace {

struct Outcome {
  int status = -1;
  std::string output;  // standard output
  std::string errors;  // standard error
};

class ProgramTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fmt::format("{}/program_test_files/{}", FATHOM_BINARY_DIR,
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    files().remove_all(folder_);
    files().make_directories(folder_);
  }
  void TearDown() override { files().remove_all(folder_); }

  static FileSystem& files() { return local_file_system(); }
  std::string path(const std::string& name) const { return join_path(folder_, name); }
  std::string write(const std::string& name, const std::string& text) const {
    write_file_atomically(files(), path(name), text);
    return path(name);
  }
  static std::string golden(const std::string& name) {
    return fmt::format("{}/models/{}", FATHOM_GOLDEN_DIR, name);
  }

  Outcome run(const std::string& arguments) const {
    const std::string command =
        fmt::format("'{}/fathom' {} 2> '{}'", FATHOM_BINARY_DIR, arguments, path("stderr.txt"));
    Outcome outcome;
    std::FILE* pipe = popen(command.c_str(), "r");
    char buffer[4096];
    for (size_t n = 0; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
      outcome.output.append(buffer, n);
    }
    const int status = pclose(pipe);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.errors = files().read_all(path("stderr.txt"));
    return outcome;
  }
  std::string token_file(const SafetensorsReader& reader, const std::string& tensor) const {
    const SafetensorsEntry& entry = reader.at(tensor);
    const std::vector<int64_t> ids = reader.read_int64(entry);
    Json rows = Json::array();
    for (int64_t b = 0; b < entry.shape[0]; ++b) {
      const auto begin = ids.begin() + b * entry.shape[1];
      rows.push_back(std::vector<int64_t>(begin, begin + entry.shape[1]));
    }
    return write(tensor + ".json", rows.dump());
  }
  static std::vector<float> floats(const SafetensorsReader& reader, const std::string& name) {
    const SafetensorsEntry& entry = reader.at(name);
    std::vector<float> values(static_cast<size_t>(entry.shape.num_elements()));
    reader.read_converted(entry, TensorView(values.data(), DType::kF32, entry.shape, "values"));
    return values;
  }

  std::string folder_;
};

TEST_F(ProgramTest, InspectTellsWhatV3Is) {
  const Outcome outcome = run(
      fmt::format("inspect --model {}/configs/models/deepseek-v3.json --json", FATHOM_SOURCE_DIR));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const Json json = parse_json(outcome.output, "inspect");
  EXPECT_EQ(json["architecture"], "DeepseekV3ForCausalLM");
  EXPECT_EQ(json["parameters_total"], 671026419200);
  EXPECT_EQ(json["parameters_active"], 37552297472);
  EXPECT_EQ(json["mtp_layers"], 1);
  EXPECT_EQ(json["context_length"], 163840);
}

TEST_F(ProgramTest, LogitsAndGradientsOfAGoldenModel) {
  const std::string model = golden("mtp_d1");
  const SafetensorsReader expected(files(), model + "/golden.safetensors");
  const std::string tokens = token_file(expected, "tokens");
  Outcome outcome = run(fmt::format("logits --model {} --tokens {} --out {}", model, tokens,
                                    path("logits.safetensors")));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const SafetensorsReader logits(files(), path("logits.safetensors"));
  for (const char* name : {"logits", "mtp_logits_1"}) {
    EXPECT_EQ(logits.at(name).shape, expected.at(name).shape) << name;
    const std::vector<float> a = floats(logits, name), b = floats(expected, name);
    for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-4) << name << " " << i;
  }

  outcome =
      run(fmt::format("grads --model {} --tokens {} --out {} --mtp-weight {} --balance-weight {}",
                      model, tokens, path("grads.safetensors"), floats(expected, "mtp_weight")[0],
                      floats(expected, "balance_weight")[0]));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const SafetensorsReader gradients(files(), path("grads.safetensors"));
  EXPECT_NEAR(floats(gradients, "loss")[0], floats(expected, "loss")[0], 1e-5);
  int64_t compared = 0;
  for (const SafetensorsEntry& entry : expected.entries()) {
    if (!entry.name.starts_with("grad.")) continue;
    EXPECT_EQ(gradients.at(entry.name.substr(5)).shape, entry.shape) << entry.name;
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

TEST_F(ProgramTest, GenerateContinuesGreedily) {
  const std::string model = golden("v3_base");
  const SafetensorsReader expected(files(), model + "/golden.safetensors");
  const Outcome outcome =
      run(fmt::format("generate --model {} --tokens {} --max-tokens 200 --temperature 0 "
                      "--precision fp32 --ignore-eos --json",
                      model, token_file(expected, "prompt")));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  const Json json = parse_json(outcome.output, "generate");
  EXPECT_EQ(json["tokens"][0].get<std::vector<int64_t>>(),
            expected.read_int64(expected.at("generated")));
}

// transformers writes num_nextn_predict_layers without the modules' tensors.
TEST_F(ProgramTest, AModelWithoutItsMtpTensorsOpensAndSaysSo) {
  std::filesystem::copy(golden("v3_base"), path("model"));
  std::string config = files().read_all(path("model/config.json"));
  const std::string none = "\"num_nextn_predict_layers\": 0";
  ASSERT_NE(config.find(none), std::string::npos);
  config.replace(config.find(none), none.size(), "\"num_nextn_predict_layers\": 1");
  write("model/config.json", config);
  files().remove_all(path("model/golden.safetensors"));
  Outcome outcome = run(fmt::format("logits --model {} --tokens {} --out {}", path("model"),
                                    write("t.json", "[[1,2,3,4]]"), path("o.safetensors")));
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.errors.find("opened without"), std::string::npos) << outcome.errors;
  outcome = run("inspect --json --model " + path("model"));
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_EQ(parse_json(outcome.output, "inspect")["mtp_layers"], 0);
}

TEST_F(ProgramTest, TrainsResumesAndWritesWhatIsPromised) {
  std::string corpus;
  for (int i = 0; i < 400; ++i)
    corpus += fmt::format("Line {} of a text about {} things. ", i, i * 7 % 13);
  const std::string config = fmt::format("{}/configs/runs/tiny.toml", FATHOM_SOURCE_DIR);
  const auto train = [&](const std::string& more) {
    return run(
        fmt::format("train --config {} --out {} --threads 1 --quiet --set data.sources.0.path={} "
                    "--set model.architecture.vocab_size=512 {}",
                    config, path("run"), path("corpus.txt"), more));
  };
  write("corpus.txt", corpus);
  Outcome outcome = train("--steps 2 --seed 3 --precision fp32");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(train("--steps 2").status, 1) << "a run that is there is not begun again";
  outcome = train("--steps 4 --seed 3 --precision fp32 --resume");
  ASSERT_EQ(outcome.status, 0) << outcome.errors;

  const std::string metrics = files().read_all(path("run/metrics.jsonl"));
  int64_t step = 0;
  for (size_t begin = 0; begin < metrics.size();) {
    const size_t end = metrics.find('\n', begin);
    const Json line = parse_json(metrics.substr(begin, end - begin), "metrics.jsonl");
    begin = end + 1;
    EXPECT_EQ(line["step"], ++step);
    for (const char* key : {"tokens", "loss", "mtp_loss", "lr", "grad_norm", "tokens_per_second",
                            "mfu", "max_violation"}) {
      EXPECT_TRUE(line.contains(key) && line[key].is_number()) << key;
    }
  }
  EXPECT_EQ(step, 4);
  outcome = run("inspect --model " + path("run/checkpoints/step-00000004"));
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  outcome =
      run(fmt::format("generate --model {} --prompt 'Line 7' --max-tokens 4 --temperature 0 --json",
                      path("run/checkpoints/step-00000004")));
  ASSERT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_TRUE(parse_json(outcome.output, "generate").contains("text"));

  // A model of four steps writes noise; in the form that was asked for.
  const auto reply = [&](const std::string& options) {
    const Outcome generated =
        run(fmt::format("generate --model {} --prompt 'Line 7' --max-tokens 60 --json {}",
                        path("run/checkpoints/step-00000004"), options));
    EXPECT_EQ(generated.status, 0) << generated.errors;
    return parse_json(generated.output, "generate");
  };
  for (const char* speculate : {"on", "off"}) {
    const std::string rest = fmt::format(" --speculate {}", speculate);
    Json json = reply("--regex '[0-9]{3}-(ab|cd)'" + rest);
    const std::string text = json["text"];
    EXPECT_EQ(json["finish_reason"], "stop");
    ASSERT_EQ(text.size(), 6u) << text;
    EXPECT_EQ(text.find_first_not_of("0123456789"), 3u) << text;
    EXPECT_TRUE(text.ends_with("-ab") || text.ends_with("-cd")) << text;
    json = reply("--choice yes --choice no --choice 'perhaps, later'" + rest);
    EXPECT_TRUE(json["text"] == "yes" || json["text"] == "no" || json["text"] == "perhaps, later");
    const std::string schema =
        write("schema.json",
              R"({"type":"object","properties":{"a":{"enum":[1,2]}},"required":["a"],
                  "additionalProperties":false})");
    json = parse_json(reply("--json-schema " + schema + rest)["text"].get<std::string>(), "reply");
    EXPECT_TRUE(json["a"] == 1 || json["a"] == 2);
  }
  // Some stop string of the unstopped reply: what comes before it comes out.
  const Json whole = reply("--temperature 0");
  const std::string text = whole["text"];
  ASSERT_GT(text.size(), 8u);
  std::string stop;
  for (size_t i = 4; i + 3 < text.size() && stop.empty(); ++i) {
    const std::string three = text.substr(i, 3);
    if (std::all_of(three.begin(), three.end(),
                    [](char c) { return c >= ' ' && c <= '~' && c != '\''; }))
      stop = three;
  }
  ASSERT_FALSE(stop.empty());
  const Json cut = reply("--temperature 0 --stop nowhere-in-it --stop '" + stop + "'");
  EXPECT_EQ(cut["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(cut["stop"], stop);
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_LE(cut["tokens"].size(), whole["tokens"].size());
}

// A few steps of each stage, with everything that is shown on the way.
TEST_F(ProgramTest, TheDemoGoesThroughAllItsStages) {
  const std::string options = "demo --no-chat --json --pretrain-steps 3 --finetune-steps 3 --max-questions 2 --out '" +
                              path("demo") + "'";
  const Outcome demo = run(options);
  ASSERT_EQ(demo.status, 0) << demo.errors;
  for (const char* stage : {"1. Learning to read", "2. Learning to answer", "3. Examination"})
    EXPECT_NE(demo.errors.find(stage), std::string::npos) << stage;
  // Each training ends with its curve and its experts' load.
  const auto count = [&](std::string_view text) {
    int64_t found = 0;
    for (size_t at = 0; (at = demo.errors.find(text, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count(" loss\n"), 2) << demo.errors;
  EXPECT_EQ(count("layer 1 "), 2) << demo.errors;
  const Json result = parse_json(demo.output, "demo");
  EXPECT_EQ(result["by_kind"].size(), 2u);
  EXPECT_TRUE(files().info(join_path(result["model"].get<std::string>(), "config.json")).exists);
  // Asked again it finds its runs done, and examines.
  const Outcome again = run(options + " --quiet");
  ASSERT_EQ(again.status, 0) << again.errors;
  EXPECT_EQ(again.errors, "");
  EXPECT_EQ(parse_json(again.output, "demo")["by_kind"], result["by_kind"]);
}

TEST_F(ProgramTest, EachMistakeGetsOneClearError) {
  struct Mistake {
    std::string arguments;
    int status;
    std::string says;
  };
  const std::string model = golden("v3_base");
  const std::string tokens = write("t.json", "[[1,2,3]]");
  std::string broken = files().read_all(model + "/config.json");
  const size_t heads = broken.find("\"num_attention_heads\": ");
  broken.replace(heads, broken.find(',', heads) - heads, "\"num_attention_heads\": 0");
  write("broken.json", broken);
  files().make_directories(path("truncated"));
  write("truncated/config.json", files().read_all(model + "/config.json"));
  write("truncated/model.safetensors",
        files().read_all(model + "/model.safetensors").substr(0, 5000));
  const std::vector<Mistake> mistakes = {
      {"inspekt --model x", 2, "inspect"},
      {"inspect --modle x", 2, "--model"},
      {"inspect --model " + path("nowhere"), 1, "nowhere"},
      {"inspect --model " + path("broken.json"), 1, "num_attention_heads"},
      {fmt::format("logits --model {} --tokens {} --out {}", path("truncated"), tokens, path("o")),
       1, "model.safetensors"},
      {fmt::format("logits --model {} --tokens {} --out {}", model,
                   write("bad.json", "[[1,2,99999]]"), path("o")),
       1, "99999"},
      {fmt::format("logits --model {} --tokens {} --out {}", model,
                   write("ragged.json", "[[1,2],[1]]"), path("o")),
       1, "list 1"},
      {fmt::format("logits --model {} --tokens {} --out {}/no/such/folder/o", model, tokens,
                   folder_),
       1, "no/such/folder"},
      {fmt::format("generate --model {} --tokens {} --temperature -1", model, tokens), 2,
       "temperature"},
      {fmt::format("generate --model {}", model), 2, "--prompt"},
      {fmt::format("generate --model {} --tokens {} --stop x", model, tokens), 2, "--stop"},
      {fmt::format("generate --model {} --prompt x --regex '(a'", model), 2, "--regex"},
      {fmt::format("generate --model {} --prompt x --stop ''", model), 2, "--stop"},
      {fmt::format("generate --model {} --prompt x --json-schema {}", model,
                   write("schema.json", R"({"type":"objekt"})")),
       2, "--json-schema"},
      {fmt::format("generate --model {} --prompt x --json-schema {}", model, path("no.json")), 2,
       "no.json"},
      {fmt::format("generate --model {} --prompt x --regex a --choice b", model), 2, "--choice"},
      {fmt::format("generate --model {} --prompt x --choice b --ignore-eos", model), 2,
       "--ignore-eos"},
  };
  for (const Mistake& mistake : mistakes) {
    const Outcome outcome = run(mistake.arguments);
    EXPECT_EQ(outcome.status, mistake.status) << mistake.arguments << "\n" << outcome.errors;
    EXPECT_NE(outcome.errors.find(mistake.says), std::string::npos) << mistake.arguments << "\n"
                                                                    << outcome.errors;
    EXPECT_TRUE(outcome.output.empty()) << mistake.arguments;
    EXPECT_FALSE(files().info(path("o")).exists) << mistake.arguments;
  }
}

}  // namespace
}  // namespace fathom
