#include "train/checkpoint.h"

#include <filesystem>

#include "ckpt/hf_folder.h"
#include "core/faulty_file.h"
#include "train/train_test_util.h"
#include "train/trainer.h"

namespace fathom {
namespace {

class Messages final : public LogSink {
 public:
  void step(const StepRecord&) override {}
  void message(std::string_view text) override { lines.emplace_back(text); }
  std::vector<std::string> lines;
};

std::unique_ptr<Trainer> make_trainer(Context& ctx, const TrainConfig& config = toy_config(),
                                      FileSystem& files = local_file_system()) {
  return std::make_unique<Trainer>(ctx, files, config, toy_model(),
                                   toy_loader(config, toy_model()));
}

// Everything that a later step could depend on.
std::vector<std::vector<uint8_t>> state_bits(Trainer& t) {
  return {bits_of(t.step().master()), bits_of(t.step().model().weights()),
          bits_of(t.step().optimizer().m()), bits_of(t.step().optimizer().v()),
          bits_of(*t.step().average())};
}

TEST(CheckpointTest, ResumingAtAnyStepEqualsNeverStopping) {
  const TestFolder folder("resume");
  Context ctx(1);
  TrainConfig config = toy_config();
  config.train.precision = "bf16";
  config.train.optimizer.moments = "bf16";
  config.checkpoint = {.every_steps = 1, .keep_last = 100};
  constexpr int64_t kSteps = 6;
  auto whole = make_trainer(ctx, config);
  whole->start(folder / "whole");
  whole->run_until(kSteps, {});
  const auto expected = state_bits(*whole);
  for (int64_t stop = 0; stop < kSteps; ++stop) {
    const std::string run = folder / std::to_string(stop);
    {
      auto first = make_trainer(ctx, config);
      first->start(run);
      if (stop > 0) first->run_until(stop, {});
    }
    Messages messages;
    auto second = make_trainer(ctx, config);
    second->resume(run, &messages);
    EXPECT_EQ(second->steps_done(), stop);
    second->run_until(kSteps, {});
    EXPECT_EQ(state_bits(*second), expected) << "stopped at " << stop;
    EXPECT_EQ(second->loader().cursor(), whole->loader().cursor());
    const auto log = read_metrics(local_file_system(), run),
               whole_log = read_metrics(local_file_system(), folder / "whole");
    ASSERT_EQ(log.size(), static_cast<size_t>(kSteps));
    for (size_t i = 0; i < log.size(); ++i) {
      EXPECT_EQ(log[i].step, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(log[i].loss, whole_log[i].loss);
      EXPECT_EQ(log[i].grad_norm, whole_log[i].grad_norm);
    }
  }
}

// A full disk, a failing disk or a lost process at any moment of a save: the checkpoint from before
// stays and a run goes on from it to the same bits.
TEST(CheckpointTest, AnyFailingWriteLeavesTheLastCheckpoint) {
  const TestFolder folder("faults");
  const std::string run = folder / "run";
  Context ctx(1);
  TrainConfig config = toy_config();
  config.checkpoint.keep_last = 1;  // so that deleting the old one is among the changes
  FaultyFileSystem files(local_file_system());
  auto trainer = make_trainer(ctx, config, files);
  trainer->start(run);
  trainer->run_until(1, {});
  const std::string first = trainer->checkpoint_folder(1), second = trainer->checkpoint_folder(2);
  const auto bits_at_1 = state_bits(*trainer);
  const std::string kept = folder / "kept";
  std::filesystem::copy(first, kept, std::filesystem::copy_options::recursive);
  const auto restore_first = [&] {
    local_file_system().remove_all(second);
    if (!local_file_system().info(first).exists)
      std::filesystem::copy(kept, first, std::filesystem::copy_options::recursive);
  };

  const auto step_in_memory = [&] {
    files.fail_at(0, FaultyFileSystem::Fault::kError);
    try {
      trainer->run_until(2, {});
    } catch (const Error&) {
      // The save at the end failed; the second step is done.
    }
    ASSERT_EQ(trainer->steps_done(), 2);
  };
  // At the first checkpoint again, with the second step done in memory: a trainer saves a step
  // once.
  const auto fresh = [&] {
    restore_first();
    trainer = make_trainer(ctx, config, files);
    files.fail_at(-1, FaultyFileSystem::Fault::kError);
    trainer->resume(run, nullptr);
    step_in_memory();
  };
  step_in_memory();
  const auto bits_at_2 = state_bits(*trainer);
  ASSERT_NE(bits_at_1, bits_at_2);
  files.fail_at(-1, FaultyFileSystem::Fault::kError);
  trainer->save_checkpoint();
  const int64_t num_changes = files.num_changes();
  fresh();
  bool failed = true;
  int64_t at = 0, resumed = 0;
  // A save is mostly appends of one tensor after the other: of those in the middle every seventh.
  for (; failed; at += at > 30 && at < num_changes - 40 ? 7 : 1) {
    for (const auto fault :
         {FaultyFileSystem::Fault::kError, FaultyFileSystem::Fault::kPowerLoss}) {
      restore_first();
      files.fail_at(at, fault);
      failed = false;
      try {
        trainer->save_checkpoint();
      } catch (const Error&) {
        failed = true;
      }
      ASSERT_EQ(failed, files.failed());
      if (!failed) break;  // past the last change
      std::vector<std::string> skipped;
      const std::optional<int64_t> latest =
          find_latest_checkpoint(local_file_system(), run, skipped);
      ASSERT_TRUE(latest == 1 || latest == 2) << "change " << at;
      EXPECT_TRUE(skipped.empty()) << skipped[0];
      if (at % 16 != 0 && latest != 2) continue;
      ++resumed;
      auto again = make_trainer(ctx, config);
      again->resume(run, nullptr);
      EXPECT_EQ(state_bits(*again), again->steps_done() == 1 ? bits_at_1 : bits_at_2);
      EXPECT_EQ(again->steps_done(), *latest);
      again->run_until(2, {});
      EXPECT_EQ(state_bits(*again), bits_at_2) << "change " << at;
      for (const std::string& name : local_file_system().list(run + "/checkpoints")) {
        EXPECT_EQ(name.find("tmp"), std::string::npos) << "change " << at << " left " << name;
      }
      if (latest == 1) continue;
      fresh();  // durable, though the old one could not be deleted
    }
  }
  EXPECT_GT(at, 40);
  EXPECT_GT(resumed, 4);
  EXPECT_FALSE(local_file_system().info(first).exists);
}

TEST(CheckpointTest, DamagedAndIncompleteOnesArePassedOver) {
  const TestFolder folder("damaged");
  Context ctx(1);
  TrainConfig config = toy_config();
  config.checkpoint = {.every_steps = 1, .keep_last = 10};
  auto trainer = make_trainer(ctx, config);
  trainer->start(folder / "run");
  trainer->run_until(4, {});
  FileSystem& files = local_file_system();
  const auto path = [&](int64_t step, const std::string& name) {
    return trainer->checkpoint_folder(step) + "/" + name;
  };
  files.remove_all(path(4, "training/state.json"));
  std::string tensors = files.read_all(path(3, "training/master.safetensors"));
  tensors[tensors.size() / 2] = static_cast<char>(tensors[tensors.size() / 2] ^ 1);
  write_file_atomically(files, path(3, "training/master.safetensors"), tensors);
  files.truncate(path(2, "config.json"), 10);
  Messages messages;
  auto again = make_trainer(ctx, config);
  again->resume(folder / "run", &messages);
  EXPECT_EQ(again->steps_done(), 1);
  ASSERT_EQ(messages.lines.size(), 4u);
  EXPECT_NE(messages.lines[0].find("step-00000004 is not complete: it has no training/state.json"),
            std::string::npos);
  EXPECT_NE(messages.lines[1].find(
                "step-00000003 is damaged: training/master.safetensors does not match its hash"),
            std::string::npos);
  EXPECT_NE(messages.lines[2].find("step-00000002 is damaged: config.json has 10 bytes instead of"),
            std::string::npos);
  again->run_until(4, {});
  EXPECT_EQ(state_bits(*again), state_bits(*trainer));
}

TEST(CheckpointTest, KeepsWhatThePolicySays) {
  const TestFolder folder("keep");
  Context ctx(1);
  TrainConfig config = toy_config();
  config.checkpoint = {.every_steps = 1, .keep_last = 2, .keep_every = 4};
  auto trainer = make_trainer(ctx, config);
  trainer->start(folder / "run");
  trainer->run_until(11, {});
  std::vector<std::string> skipped;
  EXPECT_EQ(list_checkpoints(local_file_system(), folder / "run", skipped),
            (std::vector<int64_t>{4, 8, 10, 11}));
}

TEST(CheckpointTest, IsAFolderThatAnyoneLoads) {
  const TestFolder folder("hf");
  Context ctx(1);
  TrainConfig config = toy_config();
  config.train.precision = "bf16";
  auto trainer = make_trainer(ctx, config);
  trainer->start(folder / "run");
  trainer->run_until(2, {});
  const CheckpointReader reader(local_file_system(), trainer->checkpoint_folder(2));
  EXPECT_TRUE(check_manifest(reader, {}).empty());
  ParameterSet loaded("loaded", parameter_specs(reader.config()),
                      trainer->model().policy().weight_dtypes());
  load_weights(ctx, reader, loaded);
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias",
                    matrix = "model.layers.1.mlp.experts.2.up_proj.weight";
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_EQ(loaded[bias].as<float>()[i], trainer->model().weights()[bias].as<float>()[i]);
  for (int64_t i = 0; i < loaded[matrix].num_elements(); ++i) {
    EXPECT_EQ(loaded[matrix].as<bf16>()[i].bits,
              trainer->model().weights()[matrix].as<bf16>()[i].bits);
  }
  EXPECT_EQ(Tokenizer::load(local_file_system(), trainer->checkpoint_folder(2)).vocab_size(),
            toy_tokenizer().vocab_size());
}

TEST(CheckpointTest, ResumesOnlyTheSameRun) {
  const TestFolder folder("same");
  Context ctx(1);
  auto trainer = make_trainer(ctx);
  trainer->start(folder / "run");
  trainer->run_until(1, {});
  const auto error_of = [&](const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(
      error_of([&] { make_trainer(ctx)->start(folder / "run"); }).find("--resume goes on with it"),
      std::string::npos);
  TrainConfig config = toy_config();
  config.schedule.lr[0].lr = 0.5;
  EXPECT_NE(error_of([&] {
              make_trainer(ctx, config)->resume(folder / "run", nullptr);
            }).find("schedule.lr.0.lr: 0.003 -> 0.5"),
            std::string::npos);
  EXPECT_EQ(
      error_of([&] {
        make_trainer(ctx, config)->resume(folder / "run", nullptr, {.allow_config_change = true});
      }),
      "no error");
  config = toy_config();
  config.seed = 6;
  EXPECT_NE(error_of([&] {
              make_trainer(ctx, config)->resume(folder / "run", nullptr);
            }).find("another seed"),
            std::string::npos);
  config = toy_config();
  config.max_steps = 9;
  config.threads = 2;
  config.checkpoint.keep_last = 7;
  EXPECT_EQ(error_of([&] { make_trainer(ctx, config)->resume(folder / "run", nullptr); }),
            "no error");
}

TEST(CheckpointTest, StoppingSavesAndAnUnwritableFolderIsAnErrorAtTheStart) {
  const TestFolder folder("stop");
  Context ctx(1);
  auto trainer = make_trainer(ctx);
  trainer->start(folder / "run");
  const auto end =
      trainer->run_until(30, {.should_stop = [&] { return trainer->steps_done() == 3; }});
  EXPECT_EQ(end, Trainer::End::kStopped);
  std::vector<std::string> skipped;
  EXPECT_EQ(find_latest_checkpoint(local_file_system(), folder / "run", skipped), 3);
  // A file where the folder should be; permissions would not stop root.
  write_file_atomically(local_file_system(), folder / "file", "x");
  EXPECT_THROW(make_trainer(ctx)->start(folder / "file/run"), Error);
  EXPECT_EQ(local_file_system().read_all(folder / "file"), "x");
}

}  // namespace
}  // namespace fathom
