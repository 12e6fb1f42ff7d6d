// The program `fathom`: a table of verbs, in the order of the help text.
#include <malloc.h>
#include <sys/resource.h>

#include <vector>

#include "cli/verbs.h"

namespace {

// glibc reserves 64 to 128 MiB of addresses for the heap of every further thread. Where addresses
// are limited (`ulimit -v`) those reservations, of which little is ever used, would starve the
// rest: all threads then share one heap.
void share_one_heap_where_addresses_are_limited() {
#ifdef M_ARENA_MAX
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    mallopt(M_ARENA_MAX, 1);
  }
#endif
}

}  // namespace

int main(int argc, char** argv) {
  using namespace fathom::cli;
  share_one_heap_where_addresses_are_limited();
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
