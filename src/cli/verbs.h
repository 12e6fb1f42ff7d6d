// The verbs of the program, one file each: src/cli/<verb>_verb.cc. main.cc lists them.
#pragma once

#include "cli/command_line.h"

namespace fathom::cli {

// In the order of main.cc.
Verb doctor_verb();
Verb bench_verb();
Verb tokenizer_train_verb();
Verb tokenizer_encode_verb();
Verb tokenizer_decode_verb();
Verb tokenizer_show_verb();
Verb data_prepare_verb();
Verb data_peek_verb();
Verb demo_verb();
Verb train_verb();
Verb plan_schedule_verb();
Verb inspect_verb();
Verb convert_verb();
Verb quantize_verb();
Verb logits_verb();
Verb grads_verb();
Verb generate_verb();
Verb eval_perplexity_verb();
Verb experts_verb();
Verb chat_verb();
Verb serve_verb();
Verb template_verb();
Verb keys_create_verb();
Verb keys_list_verb();
Verb keys_revoke_verb();
Verb keys_top_up_verb();

}  // namespace fathom::cli
