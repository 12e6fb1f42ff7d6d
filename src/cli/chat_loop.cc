#include "cli/chat_loop.h"

#include <editline/readline.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>

#include "cli/stop_signal.h"
#include "cli/terminal.h"

namespace fathom::cli {
namespace {

std::optional<std::string> read_line(const TerminalInfo& terminal) {
  std::string line;
  if (!terminal.is_tty) {
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  char* typed = readline("you> ");
  if (typed == nullptr) return std::nullopt;
  line = typed;
  if (!line.empty()) add_history(typed);
  std::free(typed);
  return line;
}

}  // namespace

void chat_loop(ChatSession& session) {
  const TerminalInfo terminal = terminal_info(stdin);
  if (terminal.is_tty)
    fmt::print(stderr, "Type a message. /reset starts afresh, /quit or Ctrl-D ends.\n");
  while (const auto line = read_line(terminal)) {
    if (line->find_first_not_of(" \t\r") == std::string::npos) continue;
    if (*line == "/quit" || *line == "/exit") break;
    if (*line == "/reset") {
      session.reset();
      continue;
    }
    StopSignal stop;  // during a reply only: at the prompt Ctrl-C ends the program as usual
    try {
      session.say(*line, [&](std::string_view text) {
        fmt::print("{}", text);
        std::fflush(stdout);
        return !stop.requested();
      });
      if (session.last_finish() == FinishReason::kLength) fmt::print(" […]");
      fmt::print("\n");
    } catch (const Error& error) {
      // The conversation outgrew the context, most often: say so and go on.
      fmt::print(stderr, "{} (/reset starts afresh)\n", error.what());
    }
  }
}

}  // namespace fathom::cli
