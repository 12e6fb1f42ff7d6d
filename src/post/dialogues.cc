#include "post/dialogues.h"

#include <algorithm>

namespace fathom {

Source dialogue_source(std::string name, std::span<const std::vector<Message>> dialogues,
                       const Tokenizer& tokenizer) {
  Source source{.name = std::move(name), .fill_in_middle = false};
  for (size_t i = 0; i < dialogues.size(); ++i) {
    RenderedChat chat = render_chat(dialogues[i], tokenizer);
    if (std::find(chat.loss_mask.begin(), chat.loss_mask.end(), 1) == chat.loss_mask.end()) {
      throw_bad_input({source.name, fmt::format("dialogue {}", i), "no assistant message",
                       "at least one: nothing else is learnt from", ""});
    }
    source.documents.push_back(
        {.tokens = std::move(chat.tokens), .is_label = std::move(chat.loss_mask)});
  }
  return source;
}

LoaderConfig dialogue_loader_config() {
  LoaderConfig config;
  config.fim_rate = 0;
  config.split_rate = 0;
  config.fill_rows = false;
  config.mask_documents = true;
  return config;
}

void start_from(Context& ctx, const ParameterSet& master, TrainStep& step) {
  copy_parameters(ctx, master, step.master());
  if (step.average() != nullptr) copy_parameters(ctx, master, *step.average());
  step.refresh_weights();
}

}  // namespace fathom
