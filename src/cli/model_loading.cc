#include "cli/model_loading.h"

#include <cstdio>

#include "cli/command_line.h"
#include "cli/token_lists.h"

namespace fathom::cli {
namespace {

std::unique_ptr<ExpertTier> make_tier(const Model& model, double gigabytes) {
  return std::make_unique<ExpertTier>(model.config(), model.weights(),
                                      static_cast<int64_t>(gigabytes * 1e9));
}

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
  const LoadOptions options{.allow_missing_mtp = true, .skip_mtp = skip_mtp};
  const Policy& policy = policy_by_name(precision);
  GgufLoadReport report;
  auto model =
      use == ModelUse::kGradients || is_gguf_file(files, folder)
          ? load_any_model(ctx, files, folder, policy, 0, options, &report)
          : load_for_inference(ctx, files, folder, policy, 0,
                               {.load = options, .panels = use == ModelUse::kLongInference});
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
