// The terminal conversation of `chat` and `demo`.
#pragma once

#include "serve/chat_session.h"

namespace fathom::cli {

// Reads lines from standard input until its end or /quit and prints the replies as they come. On a
// terminal with line editing and a prompt; Ctrl-C ends a reply, and at the prompt the conversation.
void chat_loop(ChatSession& session);

}  // namespace fathom::cli
