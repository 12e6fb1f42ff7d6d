#include "cli/model_loading.h"

#include <chrono>
#include <cstdio>

#include "cli/command_line.h"
#include "cli/live_panel.h"
#include "cli/token_lists.h"

namespace fathom::cli {
namespace {

std::unique_ptr<ExpertTier> make_tier(const Model& model, double gigabytes) {
  return std::make_unique<ExpertTier>(model.config(), model.weights(),
                                      static_cast<int64_t>(gigabytes * 1e9));
}

std::string gigabytes(double bytes) { return fmt::format("{:.2f} GB", bytes / 1e9); }

// What takes long while a folder is opened: how far it is, and at the end how fast it was and what
// is still on the disk.
class LoadDisplay {
 public:
  explicit LoadDisplay(std::string folder) : folder_(std::move(folder)) {}

  void update(int64_t done, int64_t total) {
    const double seconds = this->seconds();
    const double rate = static_cast<double>(done) / std::max(seconds, 1e-3);
    const auto text = [&] {
      return fmt::format("loading {}: {} of {}, {}/s, {:.0f} s left", folder_,
                         gigabytes(static_cast<double>(done)),
                         gigabytes(static_cast<double>(total)), gigabytes(rate),
                         static_cast<double>(total - done) / rate);
    };
    if (seconds > kQuietSeconds)
      panel_.update([&] { return std::vector<std::string>{text()}; }, text());
  }

  void finish(const LoadReport& report) {
    const double seconds = this->seconds();
    const int64_t bytes = report.copied_bytes + report.mapped_bytes;
    const bool cold = report.resident_share < kWarmShare && bytes > kSmallBytes;
    if (seconds < kQuietSeconds && !cold) return;
    std::string text = fmt::format("loaded {} in {:.1f} s", folder_, seconds);
    if (report.copied_bytes > kSmallBytes) {
      const auto copied = static_cast<double>(report.copied_bytes);
      text += fmt::format(": {} read, {}/s", gigabytes(copied), gigabytes(copied / seconds));
    }
    if (report.mapped_bytes > kSmallBytes) {
      text += fmt::format("; {} stay in the files",
                          gigabytes(static_cast<double>(report.mapped_bytes)));
    }
    text +=
        fmt::format("; {:.0f} % of the folder was in memory before", 100 * report.resident_share);
    if (cold && report.mapped_bytes > kSmallBytes) text += ": the first tokens wait for the disk";
    panel_.keep({text});
  }

 private:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  static constexpr double kQuietSeconds = 1, kWarmShare = 0.95;
  static constexpr int64_t kSmallBytes = 1'000'000'000;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  const std::string folder_;
  LivePanel panel_{stderr};
};

}  // namespace

std::unique_ptr<Model> open_model(Context& ctx, const std::string& folder,
                                  const std::string& precision, bool skip_mtp, ModelUse use,
                                  double expert_memory) {
  if (expert_memory > 0) {
    auto model = open_model(ctx, folder, precision, skip_mtp);
    model->keep_expert_source(make_tier(*model, expert_memory));
    return model;
  }
  FileSystem& files = local_file_system();
  LoadDisplay display(folder);
  LoadOptions options{.allow_missing_mtp = true, .skip_mtp = skip_mtp};
  options.progress = [&](int64_t done, int64_t total) { display.update(done, total); };
  const Policy& policy = policy_by_name(precision);
  GgufLoadReport report;
  std::unique_ptr<Model> model;
  if (use == ModelUse::kGradients || is_gguf_file(files, folder)) {
    model = load_any_model(ctx, files, folder, policy, 0, options, &report);
  } else {
    LoadReport loaded;
    model =
        load_for_inference(ctx, files, folder, policy, 0,
                           {.load = options, .panels = use == ModelUse::kLongInference}, &loaded);
    display.finish(loaded);
  }
  if (!report.text.empty()) {
    fmt::print(stderr, "{}\n", report.text);
    for (const std::string& note : report.notes) fmt::print(stderr, "{}: {}\n", folder, note);
    return model;
  }
  if (!skip_mtp && model->config().num_nextn_predict_layers == 0) {
    const int64_t named =
        CheckpointReader(local_file_system(), folder).config().num_nextn_predict_layers;
    if (named > 0) {
      fmt::print(
          stderr,
          "{}: config.json names {} MTP module{}, none of whose tensors is here: opened without\n",
          folder, named, named == 1 ? "" : "s");
    }
  }
  return model;
}

void declare_expert_memory(CommandLine& line, double& gigabytes) {
  line.add("--expert-memory", gigabytes,
           "GB for routed experts, the others stay on disk; 0: all are in memory or mapped")
      .at_least(0);
}

ExpertMemory::ExpertMemory(Model& model, double gigabytes) : model_(model) {
  if (gigabytes <= 0) return;
  tier_ = make_tier(model, gigabytes);
  model.use_expert_source(tier_.get());
}

ExpertMemory::~ExpertMemory() {
  if (tier_ == nullptr) return;
  model_.use_expert_source(nullptr);
  const ExpertTierStats stats = tier_->stats();
  fmt::print(stderr,
             "experts: {} in memory, {:.1f} % of {} uses were there and {:.1f} % on their way; "
             "{:.4f} GB read a token\n",
             stats.num_slots, 100 * stats.hit_rate(), stats.num_uses,
             stats.num_uses == 0 ? 0.0
                                 : 100.0 * static_cast<double>(stats.num_late) /
                                       static_cast<double>(stats.num_uses),
             stats.bytes_per_token() / 1e9);
}

TokenRows read_token_rows(const std::string& path, const Model& model, int64_t min_labels) {
  const auto lists = read_token_lists(path, model.config().vocab_size, /*equal_lengths=*/true);
  TokenRows rows{.num_rows = static_cast<int64_t>(lists.size()),
                 .row_length = static_cast<int64_t>(lists[0].size())};
  const int64_t shortest = model.config().num_nextn_predict_layers + min_labels;
  if (rows.row_length < shortest || rows.row_length > model.max_positions()) {
    throw_bad_input({path, "", fmt::format("lists of {} ids", rows.row_length),
                     fmt::format("{} to {} for this model", shortest, model.max_positions()), ""});
  }
  for (const auto& list : lists) rows.tokens.insert(rows.tokens.end(), list.begin(), list.end());
  return rows;
}

}  // namespace fathom::cli
