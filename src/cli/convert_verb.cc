// `fathom convert`: a model folder with bf16 weights (undoes quantize --to fp8-block).
#include <memory>

#include "cli/folder_conversion.h"
#include "cli/verbs.h"

namespace fathom::cli {

Verb convert_verb() {
  auto options = std::make_shared<FolderConversion>();
  return {.name = "convert",
          .help = "a model folder with bf16 weights (undoes quantize --to fp8-block)",
          .declare = [options](CommandLine& line) { declare(line, *options, {"bf16"}); },
          .run = [options] { return run(*options, FolderFormat::kBf16); }};
}

}  // namespace fathom::cli
