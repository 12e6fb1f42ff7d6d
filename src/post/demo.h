// The ten-minute tour behind `fathom demo`: a small DeepSeek-V3 with every mechanism on learns from
// the text that the repository ships and from a small invented world, is taught to answer questions
// about that world, and is examined on questions that it has not seen.
//
// Each part is an ordinary training run in its own folder (RUN/pretrain, RUN/finetune):
// interrupted, it goes on where it stopped.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/tasks/world.h"
#include "data/tokenizer/tokenizer.h"
#include "train/trainer.h"

namespace fathom {

// The architecture; configs/models/demo.json is the same as a file (its special tokens differ: the
// demo trains its own tokenizer).
ModelConfig demo_model_config();

struct DemoConfig {
  uint64_t seed = 0;
  std::string data_folder;  // English, Chinese and code as JSONL
  std::string run_folder;
  int64_t pretrain_steps = 0;  // 0: the demo's own numbers
  int64_t finetune_steps = 0;
  int64_t max_questions = 0;  // 0: all held-out questions
};

enum class DemoStage { kPretrain, kFinetune, kExamine };

// What happens, as it happens.
class DemoObserver : public LogSink {
 public:
  // A trainer is about to run from its steps_done() to `last_step`; it lives until the next stage
  // has begun.
  virtual void begin_training(DemoStage stage, const Trainer& trainer, int64_t last_step) = 0;
  virtual void answered(const WorldQuestion& question, const std::string& reply, bool right) = 0;
};

struct DemoScore {
  int64_t right = 0, asked = 0;
};

struct DemoResult {
  bool stopped = false;  // on request; the run folder is resumable
  double held_out_accuracy = 0;
  std::map<std::string, DemoScore> by_kind;
  double seconds = 0;                 // of this process
  double final_loss = 0;              // mean of the last 20 pre-training steps
  double held_out_bits_per_byte = 0;  // of documents of all sources that were kept back
  double max_violation = 0;           // worst layer's max / mean - 1 over the last nine tenths of
                             // pre-training, each value over a window of 50 steps
  std::string model_folder;  // the taught model, as everyone reads it
};

class Demo {
 public:
  // Reads the text, makes the world, trains the tokenizer. Errors name files.
  Demo(Context& ctx, FileSystem& files, const DemoConfig& config);
  ~Demo();

  const World& world() const;
  const Tokenizer& tokenizer() const;
  const ModelConfig& model_config() const;
  DemoResult run(DemoObserver& observer, const std::function<bool()>& should_stop);
  // The taught model; after run().
  const Model& model() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
