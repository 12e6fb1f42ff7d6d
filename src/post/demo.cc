#include "post/demo.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <optional>

#include "data/loader/corpus.h"
#include "data/tokenizer/bpe_trainer.h"
#include "infer/generate.h"
#include "post/dialogues.h"
#include "train/bias_update.h"

namespace fathom {
namespace {

constexpr int64_t kContext = 128;
constexpr int64_t kRows = 8;  // of a step: small steps, many of them
constexpr int64_t kPretrainSteps = 2500;
constexpr int64_t kFinetuneSteps = 600;
constexpr int64_t kWorldBytes = 1'600'000;
constexpr double kTextShare = 0.2;                  // of the real text, an epoch
constexpr int64_t kDialogues = 7000;                // also met in pre-training, as text
constexpr double kRehearsedShare = 0.5;             // of the world's documents, while fine-tuning
constexpr int64_t kTokenizerWorldDocuments = 3000;  // enough to meet every name
constexpr int64_t kLoadWindowSteps = 50;            // 400 rows

TrainConfig training_config(const DemoConfig& demo, int64_t steps) {
  TrainConfig config;
  config.seed = static_cast<int64_t>(demo.seed);
  config.train.precision = "bf16";
  config.train.context = kContext;
  config.train.micro_batch_rows = kRows;
  config.train.average_decay = 0;
  config.schedule.total_tokens = {.tokens = steps * kRows * kContext};
  config.schedule.batch_rows = kRows;
  config.checkpoint = {.every_steps = 500, .keep_last = 1};
  return config;
}

// Over a window of steps: a single step of eight rows is dominated by what they are about.
class LoadWindow {
 public:
  explicit LoadWindow(int64_t num_experts) : num_experts_(num_experts) {}
  void add(const std::vector<int64_t>& counts) {
    if (total_.empty()) total_.assign(counts.size(), 0);
    window_.push_back(counts);
    for (size_t i = 0; i < counts.size(); ++i) total_[i] += counts[i];
    if (static_cast<int64_t>(window_.size()) <= kLoadWindowSteps) return;
    for (size_t i = 0; i < counts.size(); ++i) total_[i] -= window_.front()[i];
    window_.pop_front();
  }
  // Of a full window; 0 before (a few rows say little, and a resumed run begins with few).
  double worst() const {
    if (static_cast<int64_t>(window_.size()) < kLoadWindowSteps) return 0;
    double worst = 0;
    for (size_t begin = 0; begin < total_.size(); begin += static_cast<size_t>(num_experts_)) {
      worst = std::max(worst, max_violation(std::span(total_).subspan(
                                  begin, static_cast<size_t>(num_experts_))));
    }
    return worst;
  }

 private:
  int64_t num_experts_;
  std::deque<std::vector<int64_t>> window_;
  std::vector<int64_t> total_;
};

}  // namespace

// Small enough for minutes on two cores, and everything of V3 is on: MLA with both compressions, a
// dense first layer, fine-grained routed experts in groups beside a shared one, MTP.
ModelConfig demo_model_config() {
  ModelConfig c;
  c.vocab_size = 2048;
  c.hidden_size = 192;
  c.num_hidden_layers = 4;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 4;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  c.intermediate_size = 512;
  c.moe_intermediate_size = 128;
  c.n_routed_experts = 16;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 1024;
  // About the gain per layer that 0.006 has at V3's width; with 0.02 facts are not learnt in this
  // time.
  c.initializer_range = 0.06;
  return c;
}

struct Demo::Impl {
  Impl(Context& ctx_in, FileSystem& files_in, const DemoConfig& config_in)
      : ctx(ctx_in),
        files(files_in),
        config(config_in),
        world(world_config(config_in)),
        model_config(demo_model_config()) {
    if (config.pretrain_steps == 0) config.pretrain_steps = kPretrainSteps;
    if (config.finetune_steps == 0) config.finetune_steps = kFinetuneSteps;
    CorpusReport report;
    for (const char* name : {"english", "chinese", "code"}) {
      Source& source = sources.emplace_back(Source{.name = name, .repeats = kTextShare});
      for (std::string& text :
           read_corpus(files, join_path(config.data_folder, std::string(name) + ".jsonl"),
                       BadText::kError, report)) {
        source.documents.push_back({.text = std::move(text)});
      }
    }
    Source& facts = sources.emplace_back(Source{.name = "world", .fill_in_middle = false});
    for (std::string& text : world.documents(kWorldBytes))
      facts.documents.push_back({.text = std::move(text)});

    std::vector<std::string_view> texts;
    for (const Source& source : sources) {
      for (const Document& document : source.documents) {
        if (&source == &sources.back() &&
            &document - source.documents.data() >= kTokenizerWorldDocuments)
          break;
        texts.push_back(document.text);
      }
    }
    BpeTrainConfig bpe{.vocab_size = model_config.vocab_size};
    bpe.split_patterns.front() = "\\p{N}";  // digit by digit: sums are learnt from few examples
    tokenizer.emplace(train_bpe(texts, bpe, &ctx.threads()));
    model_config.bos_token_id = tokenizer->special().bos;
    model_config.eos_token_id = tokenizer->special().eos;

    for (int64_t i = 0; i < kDialogues; ++i) dialogues.push_back(world.dialogue(i));
    Source read = dialogue_source("dialogues", dialogues, *tokenizer);
    for (Document& document : read.documents) document.is_label.clear();  // questions too
    sources.push_back(std::move(read));
  }

  static WorldConfig world_config(const DemoConfig& demo) {
    WorldConfig config;
    config.seed = static_cast<int64_t>(demo.seed);
    config.num_people = 24;
    config.num_attributes = 6;
    return config;
  }

  // A run in its folder, begun or gone on with.
  std::unique_ptr<Trainer> open(const char* name, const TrainConfig& train,
                                std::unique_ptr<Loader> loader, LogSink& log) {
    auto opened = std::make_unique<Trainer>(ctx, files, train, model_config, std::move(loader));
    const std::string folder = join_path(config.run_folder, name);
    if (files.info(join_path(folder, "config.toml")).exists) {
      opened->resume(folder, &log);
    } else {
      opened->start(folder);
    }
    return opened;
  }

  bool pretrain(DemoObserver& observer, const std::function<bool()>& should_stop,
                DemoResult& result) {
    TrainConfig train = training_config(config, config.pretrain_steps);
    train.data.loader.fim_rate = 0.1;
    train.data.loader.held_out = 0.02;
    train.train.balance.mode = "bias";
    train.schedule.warmup_steps = 40;
    train.schedule.lr = {
        {.shape = "constant", .lr = 2.5e-3, .tokens = {.share = 0.2, .is_share = true}},
        {.shape = "cosine", .lr = 2.5e-4, .tokens = {.share = 0.8, .is_share = true}}};
    train.schedule.bias_update_speed = 0.005;
    train.schedule.mtp_weight_until = {.share = 0.7, .is_share = true};
    auto loader =
        std::make_unique<Loader>(*tokenizer, std::move(sources), train.data.loader, config.seed,
                                 kContext, model_config.num_nextn_predict_layers, &ctx.threads());
    trainer = open("pretrain", train, std::move(loader), observer);
    observer.begin_training(DemoStage::kPretrain, *trainer, config.pretrain_steps);
    LoadWindow window(model_config.n_routed_experts);
    const auto after_step = [&](const StepRecord& record) {
      window.add(trainer->step().expert_counts());
      if (10 * record.step > config.pretrain_steps)
        result.max_violation = std::max(result.max_violation, window.worst());
    };
    if (trainer->run_until(
            config.pretrain_steps,
            {.log = &observer, .should_stop = should_stop, .after_step = after_step}) ==
        Trainer::End::kStopped) {
      return false;
    }
    const std::vector<StepRecord> records =
        read_metrics(files, join_path(config.run_folder, "pretrain"));
    const size_t last = std::min<size_t>(20, records.size());
    for (size_t i = records.size() - last; i < records.size(); ++i)
      result.final_loss += records[i].loss / static_cast<double>(last);
    result.held_out_bits_per_byte = trainer->evaluate_held_out(32).value_or(0);
    return true;
  }

  bool finetune(DemoObserver& observer, const std::function<bool()>& should_stop) {
    TrainConfig train = training_config(config, config.finetune_steps);
    train.data.loader = dialogue_loader_config();
    train.schedule.warmup_steps = 20;
    train.schedule.lr = {
        {.shape = "constant", .lr = 8e-4, .tokens = {.share = 0.3, .is_share = true}},
        {.shape = "cosine", .lr = 2e-5, .tokens = {.share = 0.7, .is_share = true}}};
    train.schedule.mtp_weight = 0.1;
    std::vector<Source> rows;
    rows.push_back(dialogue_source("dialogues", dialogues, *tokenizer));
    // Lessons alone would overwrite what was read and is not asked about in them.
    Source& rehearsed = rows.emplace_back(
        Source{.name = "world", .repeats = kRehearsedShare, .fill_in_middle = false});
    for (std::string& text : world.documents(kWorldBytes))
      rehearsed.documents.push_back({.text = std::move(text)});
    auto loader =
        std::make_unique<Loader>(*tokenizer, std::move(rows), train.data.loader, config.seed,
                                 kContext, model_config.num_nextn_predict_layers, &ctx.threads());
    std::unique_ptr<Trainer> pretrained = std::move(trainer);
    trainer = open("finetune", train, std::move(loader), observer);
    if (trainer->steps_done() == 0) start_from(ctx, pretrained->step().master(), trainer->step());
    observer.begin_training(DemoStage::kFinetune, *trainer, config.finetune_steps);
    pretrained.reset();  // the observer has taken leave of it
    return trainer->run_until(config.finetune_steps,
                              {.log = &observer, .should_stop = should_stop}) ==
           Trainer::End::kDone;
  }

  bool examine(DemoObserver& observer, const std::function<bool()>& should_stop,
               DemoResult& result) {
    observer.begin_training(DemoStage::kExamine, *trainer, 0);
    const std::vector<WorldQuestion>& questions = world.held_out();
    const int64_t count =
        config.max_questions > 0
            ? std::min<int64_t>(config.max_questions, static_cast<int64_t>(questions.size()))
            : static_cast<int64_t>(questions.size());
    GenerateOptions options;
    options.max_tokens = 64;
    options.sampling.temperature = 0;
    options.sampling.num_token_ids = tokenizer->vocab_size();
    options.stop_tokens = {tokenizer->special().eos};
    Generator generator(trainer->model(), kContext);
    DemoScore total;
    for (int64_t i = 0; i < count; ++i) {
      if (should_stop && should_stop()) return false;
      // Spread over all kinds when only some are asked.
      const WorldQuestion& question =
          questions[static_cast<size_t>(i * static_cast<int64_t>(questions.size()) / count)];
      const Message message{Role::kUser, question.text};
      const RenderedChat chat =
          render_chat(std::span(&message, 1), *tokenizer, {.add_generation_prompt = true});
      const std::string reply = tokenizer->decode(
          generator.generate(ctx, chat.tokens, options).tokens, {.skip_special = true});
      const bool right = world.is_right(question, reply);
      for (DemoScore* score : {&total, &result.by_kind[question.kind]}) {
        score->right += right ? 1 : 0;
        ++score->asked;
      }
      observer.answered(question, reply, right);
    }
    result.held_out_accuracy = static_cast<double>(total.right) / static_cast<double>(total.asked);
    return true;
  }

  Context& ctx;
  FileSystem& files;
  DemoConfig config;
  World world;
  ModelConfig model_config;
  std::vector<Source> sources;
  std::vector<std::vector<Message>> dialogues;
  std::optional<Tokenizer> tokenizer;
  std::unique_ptr<Trainer> trainer;
};

Demo::Demo(Context& ctx, FileSystem& files, const DemoConfig& config)
    : impl_(std::make_unique<Impl>(ctx, files, config)) {}
Demo::~Demo() = default;

const World& Demo::world() const { return impl_->world; }
const Tokenizer& Demo::tokenizer() const { return *impl_->tokenizer; }
const ModelConfig& Demo::model_config() const { return impl_->model_config; }
const Model& Demo::model() const { return impl_->trainer->model(); }

DemoResult Demo::run(DemoObserver& observer, const std::function<bool()>& should_stop) {
  const auto begin = std::chrono::steady_clock::now();
  DemoResult result;
  result.stopped = !impl_->pretrain(observer, should_stop, result) ||
                   !impl_->finetune(observer, should_stop) ||
                   !impl_->examine(observer, should_stop, result);
  if (!result.stopped)
    result.model_folder = impl_->trainer->checkpoint_folder(impl_->trainer->steps_done());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace fathom
