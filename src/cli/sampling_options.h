// The options that `generate`, `chat` and `demo` share.
#pragma once

#include "cli/command_line.h"
#include "infer/generate.h"

namespace fathom::cli {

struct SamplingArguments {
  double temperature = 1.0, top_p = 1.0, min_p = 0;
  int64_t top_k = 0, max_tokens = 256, seed = 0;

  void declare(CommandLine& line) {
    line.add("--temperature", temperature, "0 is greedy").between(0, 100);
    line.add("--top-p", top_p, "keep the likeliest tokens whose probabilities reach this")
        .between(0, 1);
    line.add("--top-k", top_k, "keep this many likeliest tokens; 0: all").at_least(0);
    line.add("--min-p", min_p,
             "keep tokens with at least this share of the likeliest's probability")
        .between(0, 1);
    line.add("--max-tokens", max_tokens, "longest reply").at_least(1);
    line.add_seed(seed);
  }
  GenerateOptions options() const {
    return {.max_tokens = max_tokens,
            .sampling = {.temperature = temperature,
                         .top_p = top_p,
                         .top_k = top_k,
                         .min_p = min_p,
                         .seed = static_cast<uint64_t>(seed)}};
  }
};

}  // namespace fathom::cli
