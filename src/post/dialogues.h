// Supervised fine-tuning as data: dialogues become rows in which each dialogue sees only itself,
// positions start anew, and only what the assistant says counts (report section 5.1; SPEC C.11).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/chat/chat.h"
#include "data/loader/loader.h"
#include "train/step.h"

namespace fathom {

// Documents ready for a Loader. A dialogue without an assistant's turn is an Error that names its
// index.
Source dialogue_source(std::string name, std::span<const std::vector<Message>> dialogues,
                       const Tokenizer& tokenizer);

// Whole dialogues, masked from each other, not cut and not rearranged.
LoaderConfig dialogue_loader_config();

// Training goes on from these weights (master copies of the same architecture), with fresh moments.
void start_from(Context& ctx, const ParameterSet& master, TrainStep& step);

}  // namespace fathom
