#include "cli/terminal.h"
#include "cli/live_panel.h"

#include <cstdio>

namespace fathom::cli {
namespace {

// What was written to a file, as text.
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

TEST(LivePanel, InAFileWritesPlainLinesSeldomAndLastingLinesAlways) {
  std::FILE* file = std::tmpfile();
  {
    LivePanel panel(file, 4, /*plain_seconds=*/3600);
    int64_t drawn = 0;
    const auto lines = [&] { return ++drawn, std::vector<std::string>{"picture"}; };
    panel.update(lines, "step 1");
    panel.update(lines, "step 2");
    panel.print("saved");
    panel.keep({"curve", "map"});
    EXPECT_EQ(drawn, 0) << "a picture was drawn where nobody looks";
  }
  EXPECT_EQ(written(file), "step 1\nsaved\ncurve\nmap\n");
}

}  // namespace
}  // namespace fathom::cli
