// Whole runs on many ranks: the same files from threads, from processes and from one process; any
// mesh reads any checkpoint; a killed rank ends the job, and the run that goes on ends with the
// bits of the undisturbed one. FATHOM_RANK_KILLS sets the number of kills (script/kill_200_ranks:
// 200).
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <regex>
#include <sstream>
#include <thread>

#include "ckpt/hf_folder.h"
#include "ckpt/safetensors.h"
#include "comm/in_process.h"
#include "core/random.h"
#include "train/train_test_util.h"

namespace fathom {
namespace {

ModelConfig model_of_test() {
  ModelConfig model = toy_model();
  model.num_hidden_layers = 4;
  model.num_nextn_predict_layers = 0;  // or the embedding's gradient would be two sums
  return model;
}

TrainConfig config_of_test(int ranks, int64_t pp, int64_t ep, const char* schedule) {
  TrainConfig config = toy_config();
  config.train.micro_batch_rows = 1;
  config.schedule.batch_rows = 8;
  config.log.evaluate_every = 3;
  config.parallel.ranks = ranks;
  config.parallel.pp = pp;
  config.parallel.ep = ep;
  config.parallel.schedule = schedule;
  return config;
}

// Trains in `folder` until `steps` are done, from what is there.
void train(const TrainConfig& config, const std::string& folder, int64_t steps) {
  const auto run = [&](const Communicator* world) {
    Context ctx(1);
    const bool first = world == nullptr || world->rank() == 0;
    Trainer trainer(ctx, local_file_system(), config, model_of_test(),
                    first ? toy_loader(config, model_of_test()) : nullptr, world);
    trainer.resume(folder, nullptr);
    trainer.run_until(steps, {});
  };
  if (config.parallel.ranks == 1) return run(nullptr);
  run_ranks(static_cast<int>(config.parallel.ranks), {.comm = {.timeout_seconds = 60}},
            [&](Communicator& world) { run(&world); });
}

// Every tensor of a checkpoint, whichever of its files it is in: "training/master: NAME".
std::map<std::string, std::string> files_of(const std::string& folder) {
  FileSystem& files = local_file_system();
  std::map<std::string, std::string> contents;
  for (const char* below : {"", "training"}) {
    for (const std::string& name : files.list(join_path(folder, below))) {
      if (!name.ends_with(".safetensors")) continue;
      const SafetensorsReader reader(files, join_path(join_path(folder, below), name));
      const std::string stem = name.substr(0, name.find_first_of("-."));
      for (const SafetensorsEntry& entry : reader.entries()) {
        const bool is_new =
            contents
                .emplace(fmt::format("{}/{}: {}", below, stem, entry.name),
                         std::string(reinterpret_cast<const char*>(reader.bytes(entry)),
                                     static_cast<size_t>(entry.num_bytes())))
                .second;
        EXPECT_TRUE(is_new) << entry.name << " is in two files";
      }
    }
  }
  EXPECT_FALSE(contents.empty());
  return contents;
}

std::map<std::string, std::string> checkpoint(const std::string& run, int64_t step) {
  return files_of(join_path(join_path(run, "checkpoints"), checkpoint_name(step)));
}

TEST(DistributedRun, APipelineWritesTheFilesOfOneProcess) {
  const TestFolder folder("distributed_run_one");
  train(config_of_test(1, 1, 1, "1f1b"), folder / "one", 6);
  train(config_of_test(4, 4, 1, "zb1p"), folder / "many", 6);
  train(config_of_test(2, 4, 1, "dualpipev"), folder / "folded", 6);
  const auto expected = checkpoint(folder / "one", 6);
  EXPECT_EQ(checkpoint(folder / "many", 6), expected);
  EXPECT_EQ(checkpoint(folder / "folded", 6), expected);
  // Evaluations and losses too, but for times.
  const auto one = read_metrics(local_file_system(), folder / "one");
  const auto many = read_metrics(local_file_system(), folder / "many");
  ASSERT_EQ(one.size(), many.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].loss, many[i].loss);
    EXPECT_EQ(one[i].total_loss, many[i].total_loss);
    EXPECT_EQ(one[i].bits_per_byte, many[i].bits_per_byte);
    EXPECT_EQ(one[i].held_out_bits_per_byte, many[i].held_out_bits_per_byte);
    EXPECT_EQ(one[i].grad_norm, many[i].grad_norm);
  }
}

TEST(DistributedRun, ResumesExactlyAndOnAnotherMesh) {
  const TestFolder folder("distributed_run_resume");
  const TrainConfig dual = config_of_test(4, 2, 2, "dualpipe");
  train(dual, folder / "through", 6);
  train(dual, folder / "halves", 3);
  train(dual, folder / "halves", 6);
  EXPECT_EQ(checkpoint(folder / "halves", 6), checkpoint(folder / "through", 6));
  // The first half of one process, the rest on a pipeline whose sums have its order: its bits.
  train(config_of_test(1, 1, 1, "1f1b"), folder / "one", 6);
  train(config_of_test(1, 1, 1, "1f1b"), folder / "moved", 3);
  train(config_of_test(2, 2, 1, "1f1b"), folder / "moved", 5);
  train(config_of_test(4, 4, 1, "zb1p"), folder / "moved", 6);
  EXPECT_EQ(checkpoint(folder / "moved", 6), checkpoint(folder / "one", 6));
  // What many ranks wrote, one process reads; each of them wrote a part.
  const std::string parts = join_path(folder / "through", "checkpoints/step-00000006");
  for (int rank = 1; rank <= 4; ++rank) {
    for (const char* stem : {"model", "training/master", "training/average"}) {
      const std::string name = fmt::format("{}-{:05}-of-00004.safetensors", stem, rank);
      EXPECT_TRUE(local_file_system().info(join_path(parts, name)).exists) << name;
    }
  }
  const CheckpointReader published(local_file_system(), parts);  // its index and shards agree
  EXPECT_EQ(published.num_shards(), 4);
  train(config_of_test(4, 2, 2, "dualpipe"), folder / "gathered", 3);
  train(config_of_test(1, 1, 1, "1f1b"), folder / "gathered", 3);
  train(config_of_test(1, 1, 1, "1f1b"), folder / "gathered", 4);
  train(config_of_test(4, 2, 2, "dualpipe"), folder / "gathered", 6);
  const auto gathered = read_metrics(local_file_system(), folder / "gathered");
  const auto through = read_metrics(local_file_system(), folder / "through");
  ASSERT_EQ(gathered.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(gathered[i].loss, through[i].loss, 1e-5);
  // And on one whose sums have another: within rounding.
  train(config_of_test(1, 1, 1, "1f1b"), folder / "other", 3);
  train(dual, folder / "other", 6);
  const auto one = read_metrics(local_file_system(), folder / "one");
  const auto other = read_metrics(local_file_system(), folder / "other");
  ASSERT_EQ(other.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(one[i].loss, other[i].loss, 1e-5);
}

#ifdef FATHOM_MPI

constexpr const char* kMpirun = "mpirun --allow-run-as-root --oversubscribe";

class ProgramRuns : public testing::Test {
 protected:
  void SetUp() override {
    // What --allow-run-as-root says, where the program starts mpirun itself.
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    std::ofstream corpus(folder_ / "corpus.jsonl");
    for (const std::string& text : toy_texts()) {
      std::string escaped;
      for (const char c : text) escaped += c == '\n' ? std::string("\\n") : std::string(1, c);
      corpus << "{\"text\": \"" << escaped << "\"}\n";
    }
    std::ofstream config(folder_ / "run.toml");
    config << R"(seed = 3
[model.architecture]
architectures = ["DeepseekV3ForCausalLM"]
model_type = "deepseek_v3"
vocab_size = 320
hidden_size = 32
num_hidden_layers = 2
num_nextn_predict_layers = 1
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
intermediate_size = 48
moe_intermediate_size = 16
n_routed_experts = 8
num_experts_per_tok = 2
n_group = 2
topk_group = 1
n_shared_experts = 1
topk_method = "noaux_tc"
scoring_func = "sigmoid"
norm_topk_prob = true
routed_scaling_factor = 2.5
first_k_dense_replace = 1
moe_layer_freq = 1
max_position_embeddings = 64
rms_norm_eps = 1e-6
rope_theta = 10000.0
tie_word_embeddings = false
initializer_range = 0.05
bos_token_id = 0
eos_token_id = 1
torch_dtype = "float32"
hidden_act = "silu"
attention_bias = false
[train]
precision = "fp32"
context = 24
micro_batch_rows = 1
[[data.sources]]
path = ")" << (folder_ / "corpus.jsonl")
           << R"("
[schedule]
total_tokens = 100000
batch_rows = 4
lr = [{shape = "constant", lr = 3e-3}]
[checkpoint]
every_steps = 1
keep_last = 2
)";
  }
  std::string command(const std::string& out, int64_t steps, const std::string& more) const {
    return fmt::format("{}/fathom train --config {} --out {} --steps {} --quiet --threads 1 {}",
                       FATHOM_BINARY_DIR, folder_ / "run.toml", folder_ / out, steps, more);
  }
  std::string output_of(const std::string& line, int* status) const {
    *status = ::system((line + " > " + (folder_ / "output") + " 2>&1").c_str());
    return local_file_system().read_all(folder_ / "output");
  }
  const TestFolder folder_{"distributed_programs"};
};

TEST_F(ProgramRuns, ThreadsAndProcessesWriteTheSameFiles) {
  const std::string mesh = "--pp 2 --ep 2 --schedule dualpipe --set schedule.batch_rows=8";
  int status = 0;
  std::string output = output_of(command("threads", 3, mesh + " --ranks 4"), &status);
  ASSERT_EQ(status, 0) << output;
  output = output_of(std::string(kMpirun) + " -n 4 " + command("processes", 3, mesh), &status);
  ASSERT_EQ(status, 0) << output;
  EXPECT_EQ(checkpoint(folder_ / "threads", 3), checkpoint(folder_ / "processes", 3));
  EXPECT_TRUE(local_file_system().info(folder_ / "processes/timeline.svg").exists);
}

TEST_F(ProgramRuns, RefusesWhatDoesNotGoInOneMessage) {
  const auto lines_with = [](const std::string& text, const std::string& part) {
    std::istringstream stream(text);
    int count = 0;
    for (std::string line; std::getline(stream, line);) count += line.find(part) != line.npos;
    return count;
  };
  int status = 0;
  std::string output = output_of(command("a", 3, "--ranks 3 --pp 2"), &status);
  EXPECT_NE(status, 0);
  EXPECT_EQ(lines_with(output, "the nearest is 4"), 1) << output;
  output = output_of(std::string(kMpirun) + " -n 3 " + command("b", 3, "--pp 2"), &status);
  EXPECT_NE(status, 0);
  EXPECT_EQ(lines_with(output, "the nearest is 4"), 1) << output;
  // One rank with another seed.
  output = output_of(fmt::format("{} -n 1 {} : -n 1 {}", kMpirun, command("c", 3, "--pp 2"),
                                 command("c", 3, "--pp 2 --seed 4")),
                     &status);
  EXPECT_NE(status, 0);
  EXPECT_EQ(lines_with(output, "rank 1 with another configuration"), 1) << output;
  // A checkpoint of another model, by ranks as threads and as processes.
  output = output_of(command("d", 1, "--pp 2 --ranks 2"), &status);
  ASSERT_EQ(status, 0) << output;
  std::string config = local_file_system().read_all(folder_ / "run.toml");
  config.replace(config.find("intermediate_size = 48"), 22, "intermediate_size = 40");
  std::ofstream(folder_ / "run.toml") << config;
  for (const std::string& line : {command("d", 2, "--pp 2 --ranks 2 --resume"),
                                  kMpirun + (" -n 2 " + command("d", 2, "--pp 2 --resume"))}) {
    output = output_of(line, &status);
    EXPECT_NE(status, 0);
    EXPECT_EQ(lines_with(output, "another architecture than the run file's"), 1) << output;
    EXPECT_EQ(lines_with(output, "fathom: error"), 1) << output;
  }
}

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", parent));
  return {std::istream_iterator<pid_t>(file), {}};
}

std::string name_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  file >> name;
  return name;
}

// The ranks of a job, from mpirun or from a launcher above it.
std::vector<pid_t> ranks_of(pid_t above) {
  std::vector<pid_t> ranks;
  for (const pid_t child : children_of(above)) {
    if (name_of(child) == "fathom" && name_of(above) != "fathom") {
      ranks.push_back(child);
    } else {
      const std::vector<pid_t> below = ranks_of(child);
      ranks.insert(ranks.end(), below.begin(), below.end());
    }
  }
  return ranks;
}

pid_t start_job(const std::string& line, const std::string& output = "/dev/null") {
  const pid_t job = ::fork();
  if (job == 0) {
    ::execl("/bin/sh", "sh", "-c", ("exec " + line + " > " + output + " 2>&1").c_str(), nullptr);
    ::_exit(127);
  }
  return job;
}

// Ranks as threads of a child that the launcher starts again.
TEST_F(ProgramRuns, RestartsGoOnFromTheLastCheckpoint) {
  const std::string mesh = "--pp 2 --ep 2 --schedule 1f1b --ranks 4";
  int status = 0;
  std::string output = output_of(command("through", 30, mesh), &status);
  ASSERT_EQ(status, 0) << output;
  const pid_t launcher = start_job(command("restarted", 30, mesh + " --restarts 3"));
  int kills = 0;
  for (int waited = 0; waited < 3000 && kills < 2; ++waited) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::vector<std::string> skipped;
    const std::vector<pid_t> run = children_of(launcher);
    const auto saved = list_checkpoints(local_file_system(), folder_ / "restarted", skipped);
    if (run.empty() || saved.empty() || saved.back() < 5 * (kills + 1)) continue;
    ::kill(run[0], SIGKILL);
    ++kills;
  }
  ASSERT_EQ(::waitpid(launcher, &status, 0), launcher);
  EXPECT_EQ(kills, 2);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(checkpoint(folder_ / "restarted", 30), checkpoint(folder_ / "through", 30));
  // What would fail alike is not tried again.
  output = output_of(command("none", 3, "--ranks 3 --pp 2 --restarts 1"), &status);
  EXPECT_NE(status, 0);
  EXPECT_EQ(output.find("restart 1"), std::string::npos) << output;
}

// Ranks as processes that the program starts itself, and starts again; told to end, they save.
TEST_F(ProgramRuns, StartsItsRanksAsProcesses) {
  const std::string mesh = "--pp 2 --ep 2 --schedule 1f1b --ranks 4";
  int status = 0;
  std::string output = output_of(command("through", 30, mesh), &status);
  ASSERT_EQ(status, 0) << output;
  const auto saved = [&] {
    std::vector<std::string> skipped;
    const auto steps = list_checkpoints(local_file_system(), folder_ / "processes", skipped);
    return steps.empty() ? 0 : steps.back();
  };
  const auto when_saved = [&](int64_t step, pid_t job, const std::function<void()>& act) {
    for (int waited = 0; waited < 3000; ++waited) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      if (saved() < step || ranks_of(job).size() != 4) continue;
      return act();
    }
    FAIL() << "no checkpoint of step " << step;
  };
  pid_t launcher = start_job(command("processes", 30, mesh + " --processes --restarts 1"));
  when_saved(3, launcher, [&] { ::kill(ranks_of(launcher)[2], SIGKILL); });
  when_saved(8, launcher, [&] { ::kill(launcher, SIGTERM); });
  ASSERT_EQ(::waitpid(launcher, &status, 0), launcher);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 75) << status;
  EXPECT_LT(saved(), 30);
  // Without its launcher a job does not live on.
  launcher = start_job(command("processes", 30, mesh + " --processes --resume"));
  when_saved(saved() + 1, launcher, [&] {
    const std::vector<pid_t> ranks = ranks_of(launcher);
    ::kill(launcher, SIGKILL);
    ::waitpid(launcher, &status, 0);
    const auto lives = [](pid_t rank) { return name_of(rank) == "fathom"; };
    for (int waited = 0; waited < 500 && std::any_of(ranks.begin(), ranks.end(), lives); ++waited)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(std::any_of(ranks.begin(), ranks.end(), lives));
  });
  output = output_of(command("processes", 30, mesh + " --processes --resume"), &status);
  EXPECT_EQ(status, 0) << output;
  EXPECT_EQ(checkpoint(folder_ / "processes", 30), checkpoint(folder_ / "through", 30));
  // What would fail alike is not tried again.
  output = output_of(command("none", 3, "--ranks 3 --pp 2 --processes --restarts 1"), &status);
  EXPECT_EQ(status, 256 * 2) << output;
  EXPECT_NE(output.find("the nearest is 4"), std::string::npos) << output;
  EXPECT_EQ(output.find("restart 1"), std::string::npos) << output;
}

// One thread of a rank stops while its watch goes on telling that it lives.
TEST_F(ProgramRuns, AHungRankIsNamedAndEndsTheJob) {
  const pid_t job =
      start_job(std::string(kMpirun) + " -n 2 " +
                    command("hung", 100000, "--pp 2 --set parallel.timeout_seconds=10"),
                folder_ / "said");
  std::vector<std::string> skipped;
  const auto started = [&] {
    return !list_checkpoints(local_file_system(), folder_ / "hung", skipped).empty();
  };
  for (int waited = 0; waited < 300 && !started(); ++waited)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ASSERT_TRUE(started());
  const std::vector<pid_t> ranks = ranks_of(job);
  ASSERT_EQ(ranks.size(), 2u);
  const pid_t hung = ranks[1];
  if (::ptrace(PTRACE_SEIZE, hung, nullptr, nullptr) != 0) GTEST_SKIP() << "may not stop a thread";
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, hung, nullptr, nullptr), 0);
  int status = 0;
  // Who stopped a process must take note of its end before mpirun can.
  while (::waitpid(job, &status, WNOHANG) == 0) {
    ::waitpid(hung, nullptr, WNOHANG | __WALL);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_NE(status, 0);
  const std::string said = local_file_system().read_all(folder_ / "said");
  // Stopped while it computes or waits, it is said to hang; while MPI was at work for it, which its
  // watch then waits for, to be silent.
  EXPECT_TRUE(std::regex_search(
      said, std::regex("rank [01] has computed for .* it hangs|rank 0 waits for rank 1, which|"
                       "rank 1 has been silent")))
      << said;
}

TEST_F(ProgramRuns, DryRunSaysWhatEachRankHolds) {
  std::string config = local_file_system().read_all(folder_ / "run.toml");
  for (const auto& [small, large] :
       {std::pair("hidden_size = 32", "hidden_size = 256"),
        std::pair("moe_intermediate_size = 16", "moe_intermediate_size = 128")}) {
    config.replace(config.find(small), std::strlen(small), large);
  }
  std::ofstream(folder_ / "wide.toml") << config;
  const auto optimizer_mib = [&](int ranks, const std::string& mesh) {
    int status = 0;
    const std::string output =
        output_of(fmt::format("{}/fathom train --config {} --dry-run --ranks {} {} --threads 1 "
                              "--set schedule.batch_rows=8",
                              FATHOM_BINARY_DIR, folder_ / "wide.toml", ranks, mesh),
                  &status);
    EXPECT_EQ(status, 0) << output;
    std::vector<double> found;
    const std::regex line("own part +([0-9.]+) MiB");
    for (std::sregex_iterator i(output.begin(), output.end(), line), end; i != end; ++i)
      found.push_back(std::stod((*i)[1]));
    return found;
  };
  EXPECT_EQ(optimizer_mib(4, "--pp 2 --ep 2 --schedule dualpipe").size(), 2u);  // pipeline ranks
  const std::vector<double> two = optimizer_mib(2, ""), eight = optimizer_mib(8, "");
  ASSERT_EQ(two.size(), 1u);
  ASSERT_EQ(eight.size(), 1u);
  EXPECT_NEAR(two[0] / eight[0], 4, 0.3);  // blocks are dealt out whole
}

TEST_F(ProgramRuns, KilledRanksChangeNothing) {
  const char* wanted = std::getenv("FATHOM_RANK_KILLS");
  const int64_t num_kills = wanted != nullptr ? std::atoll(wanted) : 3;
  // As many as a life of a second and a half gets done, so that the run outlasts its kills.
  const int64_t steps = 40 + 45 * num_kills;
  const std::string mesh = "--pp 2 --ep 2 --schedule 1f1b --resume";
  int status = 0;
  const std::string output = output_of(command("undisturbed", steps, mesh + " --ranks 4"), &status);
  ASSERT_EQ(status, 0) << output;
  const Random random(17, RandomPurpose::kTest, 0);
  int64_t kills = 0, starts = 0;
  double slowest_end = 0;
  bool done = false;
  while (!done) {
    ASSERT_LT(++starts, 20 + 3 * num_kills) << "the run does not get on";
    const pid_t job = start_job(command("killed", steps, mesh + " --ranks 4 --processes"));
    if (kills < num_kills) {
      const double draw = random.uniform(static_cast<uint64_t>(2 * starts));
      for (int waited = 0; waited < 1000 && ranks_of(job).size() < 4; ++waited)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      std::this_thread::sleep_for(std::chrono::milliseconds(300 + static_cast<int>(900 * draw)));
      const std::vector<pid_t> ranks = ranks_of(job);
      if (!ranks.empty()) {
        const double which = random.uniform(static_cast<uint64_t>(2 * starts + 1));
        ::kill(ranks[static_cast<size_t>(which * static_cast<double>(ranks.size()))], SIGKILL);
        ++kills;
      }
    }
    const auto begin = std::chrono::steady_clock::now();
    int job_status = 0;
    ASSERT_EQ(::waitpid(job, &job_status, 0), job);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    done = WIFEXITED(job_status) && WEXITSTATUS(job_status) == 0;
    if (!done) slowest_end = std::max(slowest_end, seconds);
  }
  RecordProperty("kills", static_cast<int>(kills));
  fmt::print("{} kills in {} starts; the job was over at most {:.2f} s after a kill\n", kills,
             starts, slowest_end);
  EXPECT_GE(kills, wanted != nullptr ? num_kills : 1) << "the run ended before";
  EXPECT_EQ(checkpoint(folder_ / "killed", steps), checkpoint(folder_ / "undisturbed", steps));
  // Every step once, none missing: no sample was repeated or left out.
  const auto expected = read_metrics(local_file_system(), folder_ / "undisturbed");
  const auto found = read_metrics(local_file_system(), folder_ / "killed");
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].step, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(found[i].loss, expected[i].loss);
  }
}

#endif

}  // namespace
}  // namespace fathom
