// A toy run for tests: a model with every mechanism on, text that can be learnt, everything in
// memory.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer/bpe_trainer.h"
#include "model/config_json.h"
#include "train/trainer.h"

namespace fathom {

inline ModelConfig toy_model() {
  ModelConfig c;
  c.vocab_size = 320;
  c.hidden_size = 32;
  c.num_hidden_layers = 2;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = 16;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 8;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 8;
  c.intermediate_size = 48;
  c.moe_intermediate_size = 16;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 1;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 64;
  c.initializer_range = 0.05;
  validate(c, "toy model");
  return c;
}

inline std::vector<std::string> toy_texts() {
  std::vector<std::string> texts;
  for (int i = 0; i < 60; ++i) {
    texts.push_back("item " + std::to_string(i) + " is followed by item " + std::to_string(i + 1) +
                    ".\nThe sea is deep; " +
                    std::string(i % 3 == 0 ? "the light is green" : "水深十尋") + ".\n");
  }
  return texts;
}

inline const Tokenizer& toy_tokenizer() {
  static const Tokenizer tokenizer = [] {
    const std::vector<std::string> texts = toy_texts();
    return train_bpe(std::vector<std::string_view>(texts.begin(), texts.end()),
                     {.vocab_size = 320});
  }();
  return tokenizer;
}

inline TrainConfig toy_config() {
  TrainConfig c;
  c.seed = 5;
  c.train.precision = "fp32";
  c.train.context = 24;
  c.train.micro_batch_rows = 2;
  c.train.average_decay = 0.9;
  c.data.loader.held_out = 0.05;
  c.schedule.total_tokens = {.tokens = 24 * 4 * 40};
  c.schedule.warmup_steps = 2;
  c.schedule.batch_rows = 4;
  c.schedule.lr = {{.lr = 3e-3}};
  c.checkpoint.every_steps = 0;
  return c;
}

inline std::unique_ptr<Loader> toy_loader(const TrainConfig& config, const ModelConfig& model) {
  Source source{.name = "toy"};
  for (std::string& text : toy_texts()) source.documents.push_back({.text = std::move(text)});
  return std::make_unique<Loader>(toy_tokenizer(), std::vector<Source>{std::move(source)},
                                  config.data.loader, static_cast<uint64_t>(config.seed),
                                  config.train.context, model.num_nextn_predict_layers);
}

// All bits of a parameter set.
inline std::vector<uint8_t> bits_of(const ParameterSet& set) {
  std::vector<uint8_t> bits;
  for (int64_t i = 0; i < set.size(); ++i) {
    const auto* begin = static_cast<const uint8_t*>(set.view(i).data);
    bits.insert(bits.end(), begin, begin + set.view(i).num_bytes());
  }
  return bits;
}

// A folder of its own, removed at the end; in memory where the system has such a place, since a
// checkpoint waits for the disk a dozen times.
class TestFolder {
 public:
  explicit TestFolder(const std::string& name)
      : path_((::access("/dev/shm", W_OK) == 0 ? "/dev/shm/" : ::testing::TempDir()) +
              fmt::format("fathom_{}_{}", name, ::getpid())) {
    local_file_system().remove_all(path_);
    local_file_system().make_directories(path_);
  }
  ~TestFolder() { local_file_system().remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  std::string operator/(const std::string& name) const { return join_path(path_, name); }

 private:
  std::string path_;
};

}  // namespace fathom
