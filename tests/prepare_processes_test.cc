// `data prepare` as processes under mpirun: the folder of one process, whatever their number, and
// after the death of one of them.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <thread>

#include "core/json.h"
#include "data/text/text_test_util.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {
namespace {

#ifdef FATHOM_MPI

class PrepareProcesses : public testing::Test {
 protected:
  void SetUp() override {
    save_tokenizer(local_file_system(), text_tokenizer(), folder_ / "tokenizer");
    local_file_system().make_directories(folder_ / "in");
    std::string lines;
    for (uint64_t i = 0; i < 3000; ++i) lines += json_text(invented_text(i % 2500, 60));
    folder_.write("in/a.jsonl", lines);
    folder_.write("in/b.jsonl.zst", pack_zstd(lines.substr(0, 100'000)));
  }
  std::string command(const std::string& out, int processes) const {
    const std::string launcher =
        processes == 1
            ? ""
            : fmt::format("mpirun --allow-run-as-root --oversubscribe -n {} ", processes);
    return fmt::format(
        "{}{}/fathom data prepare --input {} --tokenizer {} --out {} --threads 1 --quiet --json "
        "--set segment_bytes=20000 --set shard_tokens=20000",
        launcher, FATHOM_BINARY_DIR, folder_ / "in", folder_ / "tokenizer", folder_ / out);
  }
  // Exit status; what it said goes to the files "output" and "errors".
  int run(const std::string& line) const {
    return ::system((line + " > " + (folder_ / "output") + " 2> " + (folder_ / "errors")).c_str());
  }
  std::map<std::string, std::string> contents(const std::string& out) const {
    std::map<std::string, std::string> all;
    for (const std::string& name : local_file_system().list(folder_ / out))
      all[name] = local_file_system().read_all(folder_ / out + "/" + name);
    return all;
  }
  int64_t work_files(const std::string& out) const {
    const std::string work = folder_ / out + "/work";
    return local_file_system().info(work).exists ? std::ssize(local_file_system().list(work)) : 0;
  }
  const TextFolder folder_{"prepare_processes"};
};

TEST_F(PrepareProcesses, WriteTheFolderOfOne) {
  ASSERT_EQ(run(command("one", 1)), 0) << local_file_system().read_all(folder_ / "errors");
  const std::string said = local_file_system().read_all(folder_ / "output");
  ASSERT_EQ(run(command("three", 3)), 0) << local_file_system().read_all(folder_ / "errors");
  EXPECT_EQ(contents("three"), contents("one"));
  EXPECT_GT(contents("one").size(), 10u);
  const Json one = parse_json(said, "one");
  const Json three = parse_json(local_file_system().read_all(folder_ / "output"), "three");
  for (const char* field : {"documents_in", "documents_out", "bytes_in", "tokens", "shards"})
    EXPECT_EQ(one.at(field), three.at(field)) << field;
  EXPECT_EQ(one.at("work").at("tokenise").at("bytes"), three.at("work").at("tokenise").at("bytes"));
}

TEST_F(PrepareProcesses, OneKilledEndsTheJobAndOthersGoOn) {
  ASSERT_EQ(run(command("one", 1)), 0);
  int status = 0;
  bool killed = false;
  std::string out;
  // A job that was done before anybody looked is tried again.
  for (int attempt = 0; attempt < 10 && !killed; ++attempt) {
    out = fmt::format("killed_{}", attempt);
    const pid_t job = ::fork();
    if (job == 0) {
      const std::string line = "exec " + command(out, 3) + " > /dev/null 2>&1";
      ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      ::_exit(127);
    }
    while (!killed && ::waitpid(job, &status, WNOHANG) == 0) {
      std::ifstream children(fmt::format("/proc/{0}/task/{0}/children", job));
      std::vector<pid_t> ranks;
      for (pid_t pid = 0; children >> pid;) ranks.push_back(pid);
      if (work_files(out) >= 4 && ranks.size() >= 3) {
        killed = ::kill(ranks.back(), SIGKILL) == 0;
        ::waitpid(job, &status, 0);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  ASSERT_TRUE(killed);
  EXPECT_NE(status, 0);
  ASSERT_EQ(run(command(out, 2)), 0) << local_file_system().read_all(folder_ / "errors");
  EXPECT_EQ(contents(out), contents("one"));
}

TEST_F(PrepareProcesses, RefuseDifferentOrdersInOneMessage) {
  const std::string mpirun = "mpirun --allow-run-as-root --oversubscribe -n 1 ";
  EXPECT_NE(run(mpirun + command("out", 1) + " : -n 1 " + command("out", 1) +
                " --set duplicates.threshold=0.7"),
            0);
  const std::string errors = local_file_system().read_all(folder_ / "errors");
  EXPECT_NE(errors.find("rank 1 with another configuration"), std::string::npos) << errors;
}

#endif

}  // namespace
}  // namespace fathom
