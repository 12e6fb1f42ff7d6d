// `fathom quantize`: a model folder with weights of 8 or 4 bits.
#include <cstdio>
#include <memory>

#include "cli/folder_conversion.h"
#include "cli/live_panel.h"
#include "cli/model_loading.h"
#include "cli/verbs.h"
#include "data/tokenizer/tokenizer.h"
#include "eval/texts.h"
#include "infer/calibration.h"

namespace fathom::cli {
namespace {

struct Options {
  FolderConversion folder;
  std::string calibrate, field = "text";
  CalibrationOptions calibration;
};

Calibration calibrate_on_text(const Options& options) {
  Context ctx(static_cast<int>(options.folder.threads));
  const auto model = open_model(ctx, options.folder.model, "bf16", /*skip_mtp=*/true);
  const Tokenizer tokenizer = Tokenizer::load(local_file_system(), options.folder.model);
  std::vector<std::vector<int32_t>> documents;
  for (const std::string& text :
       read_texts(local_file_system(), options.calibrate, options.field)) {
    std::vector<int32_t>& tokens = documents.emplace_back();
    if (tokenizer.special().bos != kNoToken) tokens.push_back(tokenizer.special().bos);
    tokenizer.encode(text, {}, tokens);
  }
  LivePanel panel(stderr);
  CalibrationOptions calibration = options.calibration;
  if (!options.folder.quiet) {
    calibration.progress = [&](int64_t done, int64_t covered, int64_t experts) {
      const std::string text =
          fmt::format("calibrating: {} tokens, {}/{} experts covered", done, covered, experts);
      panel.update([&] { return std::vector<std::string>{text}; }, text);
    };
  }
  Calibration result = calibrate(ctx, *model, documents, calibration);
  panel.finish();
  if (!options.folder.quiet) {
    fmt::print(stderr,
               "calibrated on {} tokens; {} of {} experts saw fewer than {} and take their layer's "
               "statistics (calibration.json names them)\n",
               result.num_tokens, result.num_fallback(), result.num_experts(),
               result.min_tokens_per_expert);
  }
  return result;
}

int run_quantize(const Options& options) {
  const std::string& to = options.folder.to;
  const FolderFormat format = to == "int8"       ? FolderFormat::kInt8
                              : to == "int4"     ? FolderFormat::kInt4
                              : to == "int4-all" ? FolderFormat::kAllInt4
                                                 : FolderFormat::kFp8Block;
  if (options.calibrate.empty()) return run(options.folder, format);
  if (format == FolderFormat::kFp8Block) {
    fail(ErrorKind::kUsage, "--calibrate: FP8 blocks are scaled by their largest weight alone");
  }
  const Calibration calibration = calibrate_on_text(options);
  ConvertOptions convert;
  convert.importance = [&](const std::string& name) -> const std::vector<float>* {
    const auto found = calibration.importance.find(name);
    return found == calibration.importance.end() ? nullptr : &found->second;
  };
  convert.extra_files["calibration.json"] = calibration.report_json();
  return run(options.folder, format, convert);
}

}  // namespace

Verb quantize_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "quantize",
      .help = "a model folder with weights in int8, 4 bits, or DeepSeek's FP8",
      .declare =
          [options](CommandLine& line) {
            declare(line, options->folder, {"int8", "int4", "int4-all", "fp8-block"});
            line.add(
                "--calibrate", options->calibrate,
                "text or JSONL by whose inputs, expert by expert, the int formats weigh errors");
            line.add("--field", options->field, "the field of a JSON line that holds the text");
            line.add("--calibrate-tokens", options->calibration.min_tokens,
                     "read at least; more until each expert is covered");
            line.add("--calibrate-max-tokens", options->calibration.max_tokens, "and at most");
            line.add("--calibrate-per-expert", options->calibration.min_tokens_per_expert,
                     "tokens that an expert must see to be covered");
          },
      .run = [options] { return run_quantize(*options); }};
}

}  // namespace fathom::cli
