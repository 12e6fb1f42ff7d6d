// The program `fathom`: a table of verbs, in the order of the help text.
#include <vector>

#include "cli/verbs.h"

int main(int argc, char** argv) {
  using namespace fathom::cli;
  const std::vector<Verb> verbs = {
      doctor_verb(),
      bench_verb(),
      tokenizer_train_verb(),
      tokenizer_encode_verb(),
      tokenizer_decode_verb(),
      tokenizer_show_verb(),
      data_prepare_verb(),
      data_peek_verb(),
      demo_verb(),
      train_verb(),
      plan_schedule_verb(),
      inspect_verb(),
      convert_verb(),
      quantize_verb(),
      logits_verb(),
      grads_verb(),
      generate_verb(),
      eval_perplexity_verb(),
      experts_verb(),
      chat_verb(),
      serve_verb(),
      template_verb(),
      keys_create_verb(),
      keys_list_verb(),
      keys_revoke_verb(),
      keys_top_up_verb(),
  };
  return run_program(verbs, {argv + 1, argv + argc});
}
