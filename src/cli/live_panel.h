// Several lines on standard error that are redrawn in place: a run's progress with its pictures.
// Where there is no terminal it becomes one plain line now and then. Not thread-safe.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/terminal.h"

namespace fathom::cli {

class LivePanel {
 public:
  // On a terminal at most `redraws_per_second`; elsewhere a line every `plain_seconds`.
  explicit LivePanel(std::FILE* stream, double redraws_per_second = 4, double plain_seconds = 10);
  ~LivePanel() { finish(); }
  LivePanel(const LivePanel&) = delete;
  LivePanel& operator=(const LivePanel&) = delete;

  const TerminalInfo& terminal() const { return terminal_; }
  // `lines` is asked only when it is time to draw; `plain` is what goes to a file.
  void update(const std::function<std::vector<std::string>()>& lines, std::string_view plain);
  // A lasting line above the panel.
  void print(std::string_view line);
  // Lasting lines in place of the panel.
  void keep(const std::vector<std::string>& lines);
  // Leaves the last drawing standing.
  void finish();

 private:
  void erase();
  void draw(const std::vector<std::string>& lines);

  std::FILE* stream_;
  TerminalInfo terminal_;
  double interval_seconds_;
  double last_seconds_ = -1e9;
  size_t lines_on_screen_ = 0;
};

}  // namespace fathom::cli
