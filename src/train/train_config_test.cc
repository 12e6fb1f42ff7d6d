#include "train/train_test_util.h"
#include "train/trainer.h"

namespace fathom {
namespace {

TrainConfig read_run_file(const std::string& path) {
  TrainConfig config;
  ConfigFields fields = fields_of(config);
  ConfigOrigins origins;
  read_toml(local_file_system().read_all(path), path, fields, origins);
  return config;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TrainConfigTest, ShippedRunFilesAreWhole) {
  for (const char* name : {"tiny.toml", "deepseek-v3.toml"}) {
    TrainConfig config = read_run_file(std::string(FATHOM_SOURCE_DIR "/configs/runs/") + name);
    const Schedule schedule(config.schedule, config.train.context, name);
    EXPECT_GT(schedule.total_steps(), 100);
    if (!config.model.config.empty())
      config.model.config = std::string(FATHOM_SOURCE_DIR "/") + config.model.config;
    const ModelConfig model = load_model_config(local_file_system(), config.model);
    EXPECT_EQ(model.num_nextn_predict_layers, 1);
    // What is printed reads back to the same.
    TrainConfig again;
    ConfigFields fields = fields_of(again);
    ConfigOrigins origins;
    read_toml(print_config(fields_of(config), {}), "printed", fields, origins);
    EXPECT_EQ(diff_config(fields_of(config), fields), std::vector<std::string>{});
  }
}

TEST(TrainConfigTest, RunsFromAFileAndTextAlone) {
  const TestFolder folder("run_file");
  std::string text;
  for (const std::string& t : toy_texts()) text += t;
  write_file_atomically(local_file_system(), folder / "text.txt", text);
  TrainConfig config = read_run_file(FATHOM_SOURCE_DIR "/configs/runs/tiny.toml");
  ConfigFields fields = fields_of(config);
  ConfigOrigins origins;
  for (const auto& [path, value] :
       {std::pair<std::string, std::string>{"data.sources.0.path", folder / "text.txt"},
        {"model.architecture.vocab_size", "400"},
        {"train.context", "32"},
        {"schedule.total_tokens", "20K"}}) {
    apply_override(path, value, fields, origins);
  }
  ModelConfig model = load_model_config(local_file_system(), config.model);
  EXPECT_EQ(model.vocab_size, 400);
  Context ctx(1);
  std::vector<std::string> report;
  auto loader = load_data(ctx, local_file_system(), config, model, report);
  EXPECT_EQ(model.eos_token_id, loader->tokenizer().special().eos);
  EXPECT_LE(loader->tokenizer().vocab_size(), 400);
  EXPECT_FALSE(report.empty());
  Trainer trainer(ctx, local_file_system(), config, model, std::move(loader));
  trainer.run_until(1, {});
  EXPECT_GT(trainer.records()[0].bits_per_byte, 0.5);
  EXPECT_GT(trainer.records()[0].mfu, 0);
}

TEST(TrainConfigTest, WhatIsMissingOrDoesNotFitIsNamed) {
  Context ctx(1);
  std::vector<std::string> report;
  ModelConfig model = toy_model();
  TrainConfig config;
  EXPECT_NE(
      error_of([&] { load_model_config(local_file_system(), config.model); }).find("model.config"),
      std::string::npos);
  EXPECT_NE(error_of([&] {
              load_data(ctx, local_file_system(), config, model, report);
            }).find("data.sources"),
            std::string::npos);
  config.model.architecture = to_config_json(toy_model());
  config.model.architecture.insert(1, "\"hiden_size\": 64,");
  EXPECT_NE(
      error_of([&] { load_model_config(local_file_system(), config.model); }).find("hiden_size"),
      std::string::npos);
  config.data.sources = {{.path = "/nowhere.txt"}};
  EXPECT_NE(error_of([&] {
              load_data(ctx, local_file_system(), config, model, report);
            }).find("/nowhere.txt"),
            std::string::npos);
  const TestFolder folder("misfit");
  write_file_atomically(local_file_system(), folder / "a.txt", "some text for a document");
  config.data.sources = {{.path = folder / "a.txt"}};
  save_tokenizer(local_file_system(), toy_tokenizer(), folder / "");
  config.data.tokenizer = folder / "";
  model.vocab_size = 300;
  EXPECT_NE(error_of([&] {
              load_data(ctx, local_file_system(), config, model, report);
            }).find("at most the model's vocab_size, 300"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
