#include "cli/terminal.h"

#include <cstdio>

namespace fathom::cli {
namespace {

// What a LiveLine wrote to a file, as text.
std::string written(std::FILE* file) {
  std::fflush(file);
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  return text;
}

TEST(Terminal, AFileIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  const TerminalInfo info = terminal_info(file);
  EXPECT_FALSE(info.is_tty);
  EXPECT_FALSE(info.color);
  EXPECT_EQ(info.width, 80);
  EXPECT_EQ(styled(info, Style::kBold, "x"), "x");
  std::fclose(file);
}

TEST(Terminal, CountsColumnsNotBytes) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("é"), 1);
  EXPECT_EQ(display_width("深度"), 4);
  EXPECT_EQ(display_width("e\xCC\x81"), 1);  // a combining accent
  EXPECT_EQ(display_width("\xFF\xE6"), 2);   // broken UTF-8: a column a byte, no crash
  EXPECT_EQ(clip_to_width("深度a", 3), "深");
  EXPECT_EQ(clip_to_width("深度a", 5), "深度a");
  EXPECT_EQ(clip_to_width("abc", 0), "");
}

TEST(LiveLine, InAFileWritesWholeLinesSeldom) {
  std::FILE* file = std::tmpfile();
  {
    LiveLine line(file, TerminalInfo{}, 3600.0);
    line.update("first");
    line.update("second");
    line.print("a note");
    line.update("last");
  }
  EXPECT_EQ(written(file), "first\na note\nlast\n");
  std::fclose(file);
}

TEST(LiveLine, OnATerminalRewritesOneClippedLine) {
  std::FILE* file = std::tmpfile();
  {
    LiveLine line(file, TerminalInfo{.is_tty = true, .color = false, .width = 5});
    line.update("123456789");
    line.print("note");
  }
  EXPECT_EQ(written(file), "\r1234\x1b[K\r\x1b[Knote\n\r1234\x1b[K\n");
  std::fclose(file);
}

}  // namespace
}  // namespace fathom::cli
