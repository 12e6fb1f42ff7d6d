// `fathom quantize`: a model folder with DeepSeek's FP8 weights.
#include <memory>

#include "cli/folder_conversion.h"
#include "cli/verbs.h"

namespace fathom::cli {

Verb quantize_verb() {
  auto options = std::make_shared<FolderConversion>();
  return {.name = "quantize",
          .help = "a model folder with DeepSeek's FP8 weights",
          .declare = [options](CommandLine& line) { declare(line, *options, {"fp8-block"}); },
          .run = [options] { return run(*options, FolderFormat::kFp8Block); }};
}

}  // namespace fathom::cli
