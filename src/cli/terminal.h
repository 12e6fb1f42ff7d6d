// What the program knows about the terminal: whether there is one, its width, colour or not.
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

}  // namespace fathom::cli
