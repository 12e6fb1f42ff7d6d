#include "parallel/draw.h"

#include <algorithm>
#include <string_view>

#include "core/json.h"
#include "core/markup.h"

namespace fathom {
namespace {

const char* color(const Op& op) {
  switch (op.kind) {
    case OpKind::kForward:
      return op.forward.chunk == 0 ? "#f6b26b" : "#f9cb9c";
    case OpKind::kBackward:
    case OpKind::kBackwardInput:
      return op.backward.chunk == 0 ? "#93c47d" : "#b6d7a8";
    case OpKind::kBackwardWeight:
      return "#6fa8dc";
    case OpKind::kOverlapped:
      return "#ffe599";
  }
  return "#ffffff";
}

// The micro-batch, and of an overlapped pair both.
std::string label(const Op& op) {
  if (op.kind == OpKind::kForward) return std::to_string(op.forward.micro_batch);
  if (op.kind == OpKind::kOverlapped)
    return fmt::format("{}|{}", op.forward.micro_batch, op.backward.micro_batch);
  return std::to_string(op.backward.micro_batch);
}

// Colours of the report's figure 4: forward, input gradients, weight gradients; waiting is grey.
const char* color(const Zone& zone) {
  const bool moves = zone.name[0] == 'd' || zone.name[0] == 'c' || zone.name[0] == 'r';
  if (zone.waits) return "#999999";
  if (moves) return "#b4a7d6";
  return zone.pass == 'F' ? "#f6b26b" : zone.pass == 'B' ? "#93c47d" : "#6fa8dc";
}

// Ticks of the time axis: 1, 2 or 5 times a power of ten apart, about ten of them.
double tick_distance(double end) {
  double distance = 1;
  while (distance * 10 > end) distance /= 10;
  while (distance * 100 < end) distance *= 10;
  for (const double factor : {2.0, 2.5, 2.0}) {  // 1, 2, 5, 10
    if (end / distance > 12) distance *= factor;
  }
  return distance;
}

std::string axis(double end, double left, double top, double bottom, double per_unit) {
  std::string svg;
  if (end <= 0) return svg;
  const double distance = tick_distance(end);
  for (int64_t i = 0; static_cast<double>(i) * distance <= end; ++i) {
    const double at = static_cast<double>(i) * distance, x = left + at * per_unit;
    svg += fmt::format(
        "<line x1=\"{0:.2f}\" y1=\"{1:.1f}\" x2=\"{0:.2f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{0:.2f}\" y=\"{3:.1f}\" text-anchor=\"middle\" fill=\"#666\">{4:.4g}</text>\n",
        x, top, bottom, bottom + 12, at);
  }
  return svg;
}

struct Swatch {
  const char* color;
  const char* meaning;
};

std::string legend(double left, double y, const std::vector<Swatch>& swatches) {
  std::string svg;
  double x = left;
  for (const Swatch& swatch : swatches) {
    svg += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"10\" fill=\"{}\" "
        "stroke=\"#666\" stroke-width=\"0.4\"/>\n<text x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n",
        x, y - 9, swatch.color, x + 16, y, swatch.meaning);
    x += 34 + 5.6 * static_cast<double>(std::string_view(swatch.meaning).size());
  }
  return svg;
}

std::string to_string(const Zone& zone) {
  return fmt::format("{} {} of micro-batch {}, layer {}{}", zone.name, zone.pass, zone.item,
                     zone.layer, zone.waits ? ", until received" : "");
}

}  // namespace

std::string timeline_svg(const Timeline& timeline, const std::string& title,
                         const ZonesByRank& parts) {
  constexpr double kLeft = 60, kTop = 40, kBar = 22, kPartBar = 12, kWidth = 1500;
  const double kRow = 4 + kBar + (parts.empty() ? 0 : kPartBar);
  double end = 0;
  for (const auto& rank : timeline) {
    for (const TimelineSpan& span : rank) end = std::max(end, span.end);
  }
  const double per_unit = end > 0 ? kWidth / end : 0;
  const double bottom = kTop + kRow * static_cast<double>(timeline.size());
  const double height = bottom + (parts.empty() ? 44 : 62);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
      "font-family=\"sans-serif\" font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"white\"/>\n<text x=\"{}\" y=\"22\" font-size=\"14\">{}</text>\n",
      kLeft + kWidth + 20, height, kLeft, escape_markup(title));
  svg += axis(end, kLeft, kTop - 6, bottom, per_unit);
  for (size_t rank = 0; rank < timeline.size(); ++rank) {
    const double y = kTop + kRow * static_cast<double>(rank);
    svg += fmt::format("<text x=\"8\" y=\"{:.1f}\">rank {}</text>\n", y + 15, rank);
    for (const TimelineSpan& span : timeline[rank]) {
      const double x = kLeft + span.begin * per_unit, width = (span.end - span.begin) * per_unit;
      svg += fmt::format(
          "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\" "
          "stroke=\"#666\" stroke-width=\"0.4\"><title>{} {:.4g} to {:.4g}</title></rect>\n",
          x, y, width, kBar, color(span.op), to_string(span.op), span.begin, span.end);
      const std::string text = label(span.op);
      if (width > 6.0 * static_cast<double>(text.size()))
        svg += fmt::format("<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                           x + width / 2, y + 15, text);
    }
    for (size_t i = 0; rank < parts.size() && i < parts[rank].size(); ++i) {
      const Zone& zone = parts[rank][i];
      const double width = (zone.end - zone.begin) * per_unit;
      if (width < 0.05) continue;  // nobody sees it
      svg += fmt::format(
          "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\">"
          "<title>{}</title></rect>\n",
          kLeft + zone.begin * per_unit, y + kBar, width, kPartBar, color(zone), to_string(zone));
    }
  }
  svg += legend(kLeft, bottom + 34,
                {{"#f6b26b", "forward"},
                 {"#f9cb9c", "forward, the rank's other stage"},
                 {"#93c47d", "backward"},
                 {"#b6d7a8", "backward, the other stage"},
                 {"#6fa8dc", "weight gradients"},
                 {"#ffe599", "overlapped pair: forward | backward micro-batch"}});
  if (!parts.empty()) {
    svg += legend(kLeft, bottom + 52,
                  {{"#f6b26b", "below each rank, parts of its blocks: attention and MLP, forward"},
                   {"#93c47d", "their input gradients"},
                   {"#6fa8dc", "their weight gradients"},
                   {"#b4a7d6", "dispatch and combine: sending"},
                   {"#999999", "receiving"}});
  }
  svg += "</svg>\n";
  return svg;
}

std::string timeline_trace_json(const Timeline& timeline, double microseconds_per_unit,
                                const ZonesByRank& parts) {
  Json events = Json::array();
  for (size_t rank = 0; rank < timeline.size(); ++rank) {
    events.push_back({{"name", "thread_name"},
                      {"ph", "M"},
                      {"pid", 0},
                      {"tid", rank},
                      {"args", {{"name", fmt::format("rank {}", rank)}}}});
    for (const TimelineSpan& span : timeline[rank]) {
      events.push_back({{"name", to_string(span.op)},
                        {"ph", "X"},
                        {"pid", 0},
                        {"tid", rank},
                        {"ts", span.begin * microseconds_per_unit},
                        {"dur", (span.end - span.begin) * microseconds_per_unit},
                        {"args", {{"phase", span.op.phase}}}});
    }
    for (size_t i = 0; rank < parts.size() && i < parts[rank].size(); ++i) {
      const Zone& zone = parts[rank][i];
      events.push_back(
          {{"name", fmt::format("{} {}", zone.name, zone.pass)},
           {"ph", "X"},
           {"pid", 0},
           {"tid", rank},
           {"ts", zone.begin * microseconds_per_unit},
           {"dur", (zone.end - zone.begin) * microseconds_per_unit},
           {"args",
            {{"micro_batch", zone.item}, {"layer", zone.layer}, {"receives", zone.waits}}}});
    }
  }
  return Json{{"traceEvents", events}}.dump();
}

}  // namespace fathom
