#include "cli/live_panel.h"

#include <fmt/format.h>

#include <chrono>

namespace fathom::cli {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

LivePanel::LivePanel(std::FILE* stream, double redraws_per_second, double plain_seconds)
    : stream_(stream),
      terminal_(terminal_info(stream)),
      interval_seconds_(terminal_.is_tty ? 1 / redraws_per_second : plain_seconds) {}

void LivePanel::update(const std::function<std::vector<std::string>()>& lines,
                       std::string_view plain) {
  const double now = now_seconds();
  if (now - last_seconds_ < interval_seconds_) return;
  last_seconds_ = now;
  if (terminal_.is_tty) {
    draw(lines());
  } else {
    fmt::print(stream_, "{}\n", plain);
  }
  std::fflush(stream_);
}

void LivePanel::print(std::string_view line) {
  erase();
  fmt::print(stream_, "{}\n", line);
  std::fflush(stream_);
}

void LivePanel::keep(const std::vector<std::string>& lines) {
  erase();
  for (const std::string& line : lines) fmt::print(stream_, "{}\n", line);
  std::fflush(stream_);
}

void LivePanel::finish() { lines_on_screen_ = 0; }

void LivePanel::erase() {
  if (lines_on_screen_ > 0) fmt::print(stream_, "\x1b[{}A\x1b[J", lines_on_screen_);
  lines_on_screen_ = 0;
}

void LivePanel::draw(const std::vector<std::string>& lines) {
  erase();
  // A line with colours has no measurable width here; the pictures fit by construction.
  for (const std::string& line : lines) {
    const bool coloured = line.find('\x1b') != std::string::npos;
    fmt::print(stream_, "{}\n",
               coloured ? std::string_view(line) : clip_to_width(line, terminal_.width - 1));
  }
  lines_on_screen_ = lines.size();
}

}  // namespace fathom::cli
