// kill -9 at random moments of `data prepare`: a child process prepares shards, dies without
// warning, another one goes on, until the folder is done. It has the bytes of the undisturbed one.
// FATHOM_KILLS sets the number of kills (script/kill_prepare runs fifty).
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <thread>

#include "data/text/prepare.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

using Contents = std::map<std::string, std::string>;

[[noreturn]] void prepare_and_exit(const TextFolder& folder, const std::string& out) {
  try {
    PrepareConfig config;
    config.segment_bytes = 60'000;
    config.shard_tokens = 25'000;
    ThreadPool threads(2);
    prepare_shards(threads, local_file_system(), config,
                   {.inputs = {folder / "in"},
                    .tokenizer_path = folder / "tokenizer",
                    .out = out,
                    .memory_bytes = 20'000});
    ::_exit(0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    ::_exit(1);
  }
}

pid_t spawn(const TextFolder& folder, const std::string& out) {
  const pid_t child = ::fork();
  if (child == 0) prepare_and_exit(folder, out);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

Contents contents(const std::string& folder) {
  Contents all;
  for (const std::string& name : local_file_system().list(folder)) {
    const std::string path = join_path(folder, name);
    all[name] = local_file_system().info(path).is_directory ? "a folder"
                                                            : local_file_system().read_all(path);
  }
  return all;
}

TEST(KillPrepareTest, KilledRunsEndWithTheBytesOfTheUndisturbedOne) {
  const char* wanted = std::getenv("FATHOM_KILLS");
  const int64_t num_kills = wanted != nullptr ? std::atoll(wanted) : 6;
  const TextFolder folder("kill_prepare");
  save_tokenizer(local_file_system(), text_tokenizer(), folder / "tokenizer");
  local_file_system().make_directories(folder / "in");
  for (int file = 0; file < 3; ++file) {
    std::string lines;
    for (uint64_t i = 0; i < 1500; ++i)
      lines += json_text(invented_text(i * (file == 1 ? 1 : 3), 30 + static_cast<int64_t>(i % 90)));
    lines += "{\"broken\n";
    folder.write("in/" + std::to_string(file) + (file == 2 ? ".jsonl.zst" : ".jsonl"),
                 file == 2 ? pack_zstd(lines) : lines);
  }
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(wait_for(spawn(folder, folder / "whole")), 0);
  const double whole_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  const Contents expected = contents(folder / "whole");
  ASSERT_GT(expected.size(), 12u);

  const Random random(static_cast<uint64_t>(num_kills), RandomPurpose::kTest);
  int64_t kills = 0, finished = 0, attempt = 0;
  while (kills < num_kills || attempt == 0) {
    const std::string out = folder / fmt::format("run_{}", finished);
    const pid_t child = spawn(folder, out);
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(
        random.uniform(static_cast<uint64_t>(attempt++)) * whole_ms / 2));
    ::kill(child, SIGKILL);
    const int status = wait_for(child);
    if (WIFSIGNALED(status)) {
      if (++kills < num_kills) continue;
      ASSERT_EQ(wait_for(spawn(folder, out)), 0);
    } else {
      ASSERT_EQ(status, 0);  // it was done before the signal came
    }
    ASSERT_EQ(contents(out), expected) << "run " << finished << " after " << kills << " kills";
    local_file_system().remove_all(out);
    ++finished;
  }
  std::printf("[ KILLS    ] %lld kills, %lld folders finished\n", static_cast<long long>(kills),
              static_cast<long long>(finished));
}

}  // namespace
}  // namespace fathom
