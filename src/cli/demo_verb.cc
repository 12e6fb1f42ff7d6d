// `fathom demo`: the ten-minute tour: train, teach, examine, chat.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>

#include "cli/chat_loop.h"
#include "cli/live_panel.h"
#include "cli/sampling_options.h"
#include "cli/stop_signal.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "core/json.h"
#include "post/demo.h"
#include "train/pictures.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string out = "runs/demo", data;
  int64_t seed = 0, threads = 0, pretrain_steps = 0, finetune_steps = 0, max_questions = 0;
  bool json = false, quiet = false, no_chat = false;
};

// The text that the repository ships: below the working directory, or beside the build folder that
// the program stands in.
std::string find_demo_text() {
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  for (const auto& candidate :
       {std::filesystem::path("data/demo"), program.parent_path() / "../../data/demo"}) {
    if (std::filesystem::exists(candidate / "english.jsonl", ignored)) return candidate.string();
  }
  fail(ErrorKind::kUsage,
       "demo: data/demo not found below the working directory: run it from the repository, or give "
       "--data DIR");
}

class DemoDisplay final : public DemoObserver {
 public:
  explicit DemoDisplay(bool quiet) : quiet_(quiet), panel_(stderr) {}

  void begin_training(DemoStage stage, const Trainer& trainer, int64_t last_step) override {
    end_stage();
    stage_ = stage;
    trainer_ = &trainer;
    last_step_ = last_step;
    curve_ = {.name = "loss"};
    const char* title =
        stage == DemoStage::kPretrain
            ? "1. Learning to read: real prose, code, and notes from an invented valley"
        : stage == DemoStage::kFinetune
            ? "2. Learning to answer: dialogues about a part of what was read"
            : "3. Examination: questions that no lesson contained";
    if (!quiet_) panel_.print(title);
  }

  void step(const StepRecord& record) override {
    if (quiet_) return;
    curve_.x.push_back(static_cast<double>(record.step));
    // Smoothed: a step sees two thousand tokens.
    curve_.y.push_back(curve_.y.empty() ? record.loss
                                        : 0.95 * curve_.y.back() + 0.05 * record.loss);
    const std::string line =
        fmt::format("{}/{}  {}", record.step, last_step_, progress_line(record));
    panel_.update([&] { return picture(line); }, line);
  }

  void message(std::string_view text) override {
    if (!quiet_) panel_.print(text);
  }

  void answered(const WorldQuestion& question, const std::string& reply, bool right) override {
    ++asked_;
    right_ += right ? 1 : 0;
    if (quiet_) return;
    const std::string line =
        fmt::format("{} right of {}   {}  ->  {}", right_, asked_, question.text, reply);
    if (!right || asked_ % 12 == 1) {
      panel_.print(fmt::format("  {} {}  ->  {}", right ? "right" : "WRONG", question.text, reply));
    }
    panel_.update([&] { return std::vector<std::string>{line}; }, line);
  }

  void end_stage() {
    if (trainer_ != nullptr && stage_ != DemoStage::kExamine && !quiet_ && !curve_.x.empty())
      panel_.keep(picture(""));
    panel_.finish();
  }

 private:
  std::vector<std::string> picture(const std::string& line) const {
    const TerminalInfo& terminal = panel_.terminal();
    const int width = static_cast<int>(std::min<int64_t>(terminal.width - 2, 78));
    std::vector<std::string> lines;
    if (!line.empty()) lines.push_back(line);
    const auto append = [&](const std::string& block) {
      size_t begin = 0;
      while (begin < block.size()) {
        const size_t end = std::min(block.find('\n', begin), block.size());
        lines.push_back(block.substr(begin, end - begin));
        begin = end + 1;
      }
    };
    append(terminal_curve(curve_, width, 10));
    const int64_t num_experts = trainer_->model().config().n_routed_experts;
    append(terminal_expert_load(
        expert_load(trainer_->moe_layer_names(), num_experts, trainer_->step_expert_counts()),
        width, terminal.color));
    return lines;
  }

  bool quiet_;
  LivePanel panel_;
  DemoStage stage_ = DemoStage::kPretrain;
  const Trainer* trainer_ = nullptr;
  int64_t last_step_ = 0;
  Curve curve_;
  int64_t asked_ = 0, right_ = 0;
};

void print_result(const DemoResult& result, const Options& options) {
  if (options.json) {
    Json by_kind = Json::object();
    for (const auto& [kind, score] : result.by_kind)
      by_kind[kind] = {{"right", score.right}, {"asked", score.asked}};
    const Json json{{"held_out_accuracy", result.held_out_accuracy},
                    {"seconds", result.seconds},
                    {"final_loss", result.final_loss},
                    {"max_violation", result.max_violation},
                    {"held_out_bits_per_byte", result.held_out_bits_per_byte},
                    {"by_kind", by_kind},
                    {"seed", options.seed},
                    {"model", result.model_folder}};
    fmt::print("{}\n", json.dump());
    std::fflush(stdout);
    return;
  }
  fmt::print("\nHeld-out questions answered right: {:.1f} %\n", 100 * result.held_out_accuracy);
  for (const auto& [kind, score] : result.by_kind)
    fmt::print("  {:<11} {:>3} of {}\n", kind, score.right, score.asked);
  fmt::print("Documents that were kept back: {:.2f} bits per byte\n",
             result.held_out_bits_per_byte);
  fmt::print("Busiest expert, worst layer: {:.2f} times its share\n", 1 + result.max_violation);
  fmt::print("{:.0f} s in all; the model: {}\n", result.seconds, result.model_folder);
}

int run(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  DemoConfig config{.seed = static_cast<uint64_t>(options.seed),
                    .data_folder = options.data.empty() ? find_demo_text() : options.data,
                    .run_folder = fmt::format("{}/seed-{}", options.out, options.seed),
                    .pretrain_steps = options.pretrain_steps,
                    .finetune_steps = options.finetune_steps,
                    .max_questions = options.max_questions};
  Demo demo(ctx, local_file_system(), config);
  DemoResult result;
  {
    StopSignal stop;
    DemoDisplay display(options.quiet);
    result = demo.run(display, [&] { return stop.requested(); });
    display.end_stage();
  }
  if (result.stopped) {
    fmt::print(stderr, "Saved in {}; the same command goes on from there.\n", config.run_folder);
    return kExitSavedOnSignal;
  }
  print_result(result, options);
  if (options.no_chat || options.json || isatty(STDIN_FILENO) == 0) return kExitDone;
  fmt::print(
      "\nTalk to it. It knows {}, {} and the others, and sums. For example: What is 38 + 47?\n",
      demo.world().person_name(0, WorldLanguage::kEnglish),
      demo.world().person_name(1, WorldLanguage::kEnglish));
  GenerateOptions generation{.max_tokens = 96};
  generation.sampling.temperature = 0;
  ChatSession session(ctx, demo.model(), demo.tokenizer(), generation);
  session.forget_earlier_turns(true);
  chat_loop(session);
  return kExitDone;
}

}  // namespace

Verb demo_verb() {
  auto options = std::make_shared<Options>();
  return {.name = "demo",
          .help = "the ten-minute tour: train, teach, chat",
          .declare =
              [options](CommandLine& line) {
                line.add("--out", options->out,
                         "folder of the runs; a run that was interrupted goes on");
                line.add("--data", options->data,
                         "folder with english.jsonl, chinese.jsonl and code.jsonl (default: the "
                         "repository's)");
                line.add("--pretrain-steps", options->pretrain_steps, "0: the demo's own number")
                    .at_least(0);
                line.add("--finetune-steps", options->finetune_steps, "0: the demo's own number")
                    .at_least(0);
                line.add("--max-questions", options->max_questions, "ask only so many; 0: all")
                    .at_least(0);
                line.add("--no-chat", options->no_chat, "end after the examination");
                line.add_seed(options->seed);
                line.add_threads(options->threads);
                line.add_json(options->json);
                line.add_quiet(options->quiet);
              },
          .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
