// kill -9 at random moments: a child process trains, dies without warning, another one resumes,
// until the run is done. It ends with the bits of the undisturbed run. FATHOM_KILLS sets the number
// of kills (script/kill_100 runs a hundred).
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <thread>

#include "core/random.h"
#include "train/train_test_util.h"

namespace fathom {
namespace {

constexpr int64_t kSteps = 40;

TrainConfig kill_config() {
  TrainConfig config = toy_config();
  config.checkpoint = {.every_steps = 1, .keep_last = 2, .keep_every = 15};
  return config;
}

// Runs to the end, resuming whatever is there. Exits the process.
[[noreturn]] void train_and_exit(const std::string& run) {
  try {
    Context ctx(1);
    Trainer trainer(ctx, local_file_system(), kill_config(), toy_model(),
                    toy_loader(kill_config(), toy_model()));
    trainer.resume(run, nullptr);
    trainer.run_until(kSteps, {});
    ::_exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    ::_exit(1);
  }
}

pid_t spawn(const std::string& run) {
  const pid_t child = ::fork();
  if (child == 0) train_and_exit(run);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> contents;
  for (const char* name :
       {"model.safetensors", "training/master.safetensors", "training/first_moments.safetensors",
        "training/second_moments.safetensors", "training/average.safetensors"}) {
    contents[name] = local_file_system().read_all(join_path(folder, name));
  }
  return contents;
}

TEST(KillTest, KilledRunsEndWithTheBitsOfTheUndisturbedOne) {
  const char* wanted = std::getenv("FATHOM_KILLS");
  const int64_t num_kills = wanted != nullptr ? std::atoll(wanted) : 8;
  toy_tokenizer();  // once, before the children copy it
  const TestFolder folder("kill");
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(wait_for(spawn(folder / "whole")), 0);
  const double whole_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  const std::string last = "/checkpoints/" + checkpoint_name(kSteps);
  const auto expected = files_of(folder / "whole" + last);
  const auto expected_log = read_metrics(local_file_system(), folder / "whole");

  const Random random(static_cast<uint64_t>(num_kills), RandomPurpose::kTest);
  int64_t kills = 0, finished = 0, attempt = 0;
  while (kills < num_kills) {
    const std::string run = folder / fmt::format("run_{}", finished);
    const pid_t child = spawn(run);
    // Anywhere from start-up to a few steps on.
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(
        random.uniform(static_cast<uint64_t>(attempt++)) * whole_ms / 3));
    ::kill(child, SIGKILL);
    const int status = wait_for(child);
    if (WIFSIGNALED(status)) {
      ++kills;
    } else {
      ASSERT_EQ(status, 0);  // it was done before the signal came
    }
    if (WIFSIGNALED(status) && kills < num_kills) {
      std::vector<std::string> skipped;
      find_latest_checkpoint(local_file_system(), run, skipped);
      EXPECT_TRUE(skipped.empty()) << skipped[0];  // nothing half written under a checkpoint's name
      continue;
    }
    ASSERT_EQ(wait_for(spawn(run)), 0);
    EXPECT_EQ(files_of(run + last), expected) << "run " << finished;
    const auto log = read_metrics(local_file_system(), run);
    ASSERT_EQ(log.size(), expected_log.size());
    for (size_t i = 0; i < log.size(); ++i) {
      EXPECT_EQ(log[i].step, static_cast<int64_t>(i) + 1);
      EXPECT_EQ(log[i].loss, expected_log[i].loss);
    }
    local_file_system().remove_all(run);
    ++finished;
  }
  std::printf("[ KILLS    ] %lld kills, %lld runs finished\n", static_cast<long long>(kills),
              static_cast<long long>(finished));
}

}  // namespace
}  // namespace fathom
