#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

namespace fathom::cli {
namespace {

// The code point at text[i] and its length; a byte that begins nothing valid counts as one
// character.
struct CodePoint {
  uint32_t value = 0;
  size_t bytes = 1;
};
CodePoint decode(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
  const unsigned char first = byte(i);
  const size_t length = first < 0x80         ? 1
                        : (first >> 5) == 6  ? 2
                        : (first >> 4) == 14 ? 3
                        : (first >> 3) == 30 ? 4
                                             : 1;
  if (length == 1 || i + length > text.size()) return {first, 1};
  uint32_t value = first & (0x7Fu >> length);
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return {first, 1};
    value = value << 6 | (byte(i + k) & 0x3Fu);
  }
  return {value, length};
}

// Columns of one character: the wide blocks of East Asian scripts and emoji, the common combining
// marks. A full table is not worth its size for a progress line.
int64_t columns_of(uint32_t c) {
  if ((c >= 0x300 && c <= 0x36F) || c == 0x200B || c == 0x200D || (c >= 0xFE00 && c <= 0xFE0F))
    return 0;
  const bool wide = (c >= 0x1100 && c <= 0x115F) || (c >= 0x2E80 && c <= 0xA4CF) ||
                    (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0xF900 && c <= 0xFAFF) ||
                    (c >= 0xFE30 && c <= 0xFE6F) || (c >= 0xFF01 && c <= 0xFF60) ||
                    (c >= 0xFFE0 && c <= 0xFFE6) || (c >= 0x1F300 && c <= 0x1FAFF) ||
                    (c >= 0x20000 && c <= 0x3FFFD);
  return wide ? 2 : 1;
}

}  // namespace

TerminalInfo terminal_info(std::FILE* stream) {
  TerminalInfo info;
  const int descriptor = fileno(stream);
  info.is_tty = descriptor >= 0 && isatty(descriptor) == 1;
  if (!info.is_tty) return info;
  winsize size{};
  if (ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) info.width = size.ws_col;
  const char* no_color = std::getenv("NO_COLOR");  // no-color.org: set and not empty
  const char* term = std::getenv("TERM");
  info.color = (no_color == nullptr || *no_color == '\0') &&
               !(term != nullptr && std::strcmp(term, "dumb") == 0);
  return info;
}

std::string styled(const TerminalInfo& terminal, Style style, std::string_view text) {
  if (!terminal.color) return std::string(text);
  constexpr int kCodes[] = {1, 2, 31, 32, 33, 34};
  return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<size_t>(style)], text);
}

int64_t display_width(std::string_view text) {
  int64_t columns = 0;
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = decode(text, i);
    columns += columns_of(c.value);
    i += c.bytes;
  }
  return columns;
}

std::string_view clip_to_width(std::string_view text, int64_t columns) {
  int64_t used = 0;
  size_t i = 0;
  while (i < text.size()) {
    const CodePoint c = decode(text, i);
    used += columns_of(c.value);
    if (used > columns) break;
    i += c.bytes;
  }
  return text.substr(0, i);
}

}  // namespace fathom::cli
