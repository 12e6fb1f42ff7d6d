// What the program knows about the terminal: whether there is one, its width, colour or not, and
// the one live line that long-running verbs keep up to date on standard error.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace fathom::cli {

struct TerminalInfo {
  bool is_tty = false;
  bool color = false;  // a terminal, NO_COLOR unset or empty, TERM not "dumb"
  int64_t width = 80;  // columns; 80 where there is no terminal
};
TerminalInfo terminal_info(std::FILE* stream);

enum class Style { kBold, kDim, kRed, kGreen, kYellow, kBlue };
// `text` in that style, or unchanged where there is no colour.
std::string styled(const TerminalInfo& terminal, Style style, std::string_view text);

// Columns that a UTF-8 text takes: East Asian wide characters two, combining marks none.
int64_t display_width(std::string_view text);
// The longest prefix that fits in `columns`, cut between characters.
std::string_view clip_to_width(std::string_view text, int64_t columns);

// A line that is rewritten in place. On a terminal it is redrawn at most ten times a second;
// elsewhere (a file, a pipe) it becomes ordinary lines, at most one in `plain_seconds`. Not
// thread-safe.
class LiveLine {
 public:
  LiveLine(std::FILE* stream, const TerminalInfo& terminal, double plain_seconds = 10.0);
  ~LiveLine();
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;

  void update(std::string_view text);
  // Prints a lasting line above the live one.
  void print(std::string_view text);
  // Leaves the last update standing and ends it.
  void finish();

 private:
  void draw(std::string_view text);
  void erase();

  std::FILE* stream_;
  TerminalInfo terminal_;
  double plain_seconds_;
  double last_draw_seconds_ = -1e9;
  std::string latest_;      // of the last update, drawn or not
  bool on_screen_ = false;  // a line without its newline stands there
  bool pending_ = false;    // latest_ was not drawn
};

}  // namespace fathom::cli
