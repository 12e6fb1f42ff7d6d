#include "train/pictures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/markup.h"

namespace fathom {
namespace {

struct Colour {
  int red, green, blue;
};

// Viridis at nine points; between them linear.
Colour viridis(double t) {
  static constexpr std::array<Colour, 9> kStops = {{{68, 1, 84},
                                                    {71, 44, 122},
                                                    {59, 81, 139},
                                                    {44, 113, 142},
                                                    {33, 144, 141},
                                                    {39, 173, 129},
                                                    {92, 200, 99},
                                                    {170, 220, 50},
                                                    {253, 231, 37}}};
  const double x = std::clamp(std::isnan(t) ? 0.0 : t, 0.0, 1.0) * (kStops.size() - 1);
  const auto i = std::min(static_cast<size_t>(x), kStops.size() - 2);
  const double f = x - static_cast<double>(i);
  const auto mix = [f](int a, int b) { return static_cast<int>(std::lround(a + f * (b - a))); };
  return {mix(kStops[i].red, kStops[i + 1].red), mix(kStops[i].green, kStops[i + 1].green),
          mix(kStops[i].blue, kStops[i + 1].blue)};
}

constexpr double kLargestLoad = 3;  // the end of the colour scale
std::string hex(const Colour& c) {
  return fmt::format("#{:02x}{:02x}{:02x}", c.red, c.green, c.blue);
}

struct Extent {
  double low = 0, high = 1;
  double share(double v) const { return high > low ? (v - low) / (high - low) : 0.5; }
};

Extent extent(std::span<const double> values) {
  Extent e{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    e.low = std::min(e.low, v);
    e.high = std::max(e.high, v);
  }
  return e.low <= e.high ? e : Extent{};
}

// About `count` round numbers from low to high.
std::vector<double> ticks(const Extent& e, int count) {
  const double raw = (e.high - e.low) / count;
  if (!(raw > 0)) return {e.low};
  const double power = std::pow(10, std::floor(std::log10(raw)));
  const double unit = raw / power;
  const double step = power * (unit <= 1 ? 1 : unit <= 2 ? 2 : unit <= 5 ? 5 : 10);
  std::vector<double> values;
  for (double k = std::ceil(e.low / step); k * step <= e.high * (1 + 1e-12); ++k)
    values.push_back(k * step);
  return values;
}

constexpr const char* kSvgHead =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
    "font-size=\"12\" fill=\"#444\">\n"
    "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"60\" y=\"22\" "
    "font-size=\"15\">{}</text>\n";

}  // namespace

std::string loss_curve_svg(const std::vector<Curve>& curves, const std::string& title) {
  constexpr double kLeft = 60, kTop = 40, kWidth = 700, kHeight = 320;
  std::vector<double> all_x, all_y;
  for (const Curve& curve : curves) {
    FATHOM_CHECK_EQ(curve.x.size(), curve.y.size(), "curve {}", curve.name);
    all_x.insert(all_x.end(), curve.x.begin(), curve.x.end());
    all_y.insert(all_y.end(), curve.y.begin(), curve.y.end());
  }
  const Extent x = extent(all_x), y = extent(all_y);
  const auto to_x = [&](double v) { return kLeft + kWidth * x.share(v); };
  const auto to_y = [&](double v) { return kTop + kHeight * (1 - y.share(v)); };
  std::string svg = fmt::format(fmt::runtime(kSvgHead), 800, 420, escape_markup(title));
  for (const double v : ticks(y, 6)) {
    svg += fmt::format(
        "<path d=\"M{:.1f} {:.1f}h{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1f}\" "
        "text-anchor=\"end\">{:g}</text>\n",
        kLeft, to_y(v), kWidth, kLeft - 6, to_y(v) + 4, v);
  }
  for (const double v : ticks(x, 8)) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", to_x(v),
                       kTop + kHeight + 18, v);
  }
  for (size_t i = 0; i < curves.size(); ++i) {
    const Colour colour = viridis(curves.size() > 1 ? 0.8 * static_cast<double>(i) /
                                                          static_cast<double>(curves.size() - 1)
                                                    : 0.3);
    std::string points;
    for (size_t k = 0; k < curves[i].x.size(); ++k) {
      if (std::isfinite(curves[i].y[k]))
        points += fmt::format("{:.1f},{:.2f} ", to_x(curves[i].x[k]), to_y(curves[i].y[k]));
    }
    svg +=
        fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>\n",
                    points, hex(colour));
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{}\">{}</text>\n",
                       kLeft + kWidth - 8, kTop + 18 + 16 * static_cast<double>(i), hex(colour),
                       escape_markup(curves[i].name));
  }
  return svg + "</svg>\n";
}

std::string sparkline(std::span<const double> values, int width) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (values.empty() || width <= 0) return {};
  const size_t columns = std::min(static_cast<size_t>(width), values.size());
  std::vector<double> means;
  for (size_t c = 0; c < columns; ++c) {
    const size_t begin = c * values.size() / columns, end = (c + 1) * values.size() / columns;
    means.push_back(std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                    values.begin() + static_cast<std::ptrdiff_t>(end), 0.0) /
                    static_cast<double>(end - begin));
  }
  const Extent e = extent(means);
  std::string line;
  for (const double v : means)
    line += std::isfinite(v) ? kBlocks[std::clamp(static_cast<int>(e.share(v) * 8), 0, 7)] : "?";
  return line;
}

std::string terminal_curve(const Curve& curve, int width, int height) {
  FATHOM_CHECK_EQ(curve.x.size(), curve.y.size());
  constexpr int kLabel = 8;
  const int columns = std::max(4, width - kLabel - 1), rows = std::max(2, height - 1);
  const Extent x = extent(curve.x), y = extent(curve.y);
  // Braille: 2 by 4 dots a character; bit of dot (column, row).
  static constexpr int kDots[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
  std::vector<int> cells(static_cast<size_t>(columns * rows), 0);
  const auto plot = [&](double px, double py) {
    const int dx = std::clamp(static_cast<int>(px), 0, 2 * columns - 1),
              dy = std::clamp(static_cast<int>(py), 0, 4 * rows - 1);
    cells[static_cast<size_t>(dy / 4 * columns + dx / 2)] |= kDots[dy % 4][dx % 2];
  };
  double last_x = 0, last_y = 0;
  bool has_last = false;
  for (size_t i = 0; i < curve.x.size(); ++i) {
    if (!std::isfinite(curve.y[i])) continue;
    const double px = x.share(curve.x[i]) * (2 * columns - 1),
                 py = (1 - y.share(curve.y[i])) * (4 * rows - 1);
    const int steps =
        has_last ? static_cast<int>(std::max(std::abs(px - last_x), std::abs(py - last_y))) : 0;
    for (int s = 0; s <= steps; ++s) {
      const double f = steps > 0 ? static_cast<double>(s) / steps : 1;
      plot(has_last ? last_x + f * (px - last_x) : px, has_last ? last_y + f * (py - last_y) : py);
    }
    last_x = px, last_y = py, has_last = true;
  }
  std::string out;
  for (int r = 0; r < rows; ++r) {
    const double label = y.high - (y.high - y.low) * r / std::max(1, rows - 1);
    out += (r == 0 || r == rows - 1 || r == rows / 2) ? fmt::format("{:>{}.3f}", label, kLabel)
                                                      : std::string(kLabel, ' ');
    out += "│";
    for (int c = 0; c < columns; ++c) {
      const int code = 0x2800 + cells[static_cast<size_t>(r * columns + c)];
      out += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
              static_cast<char>(0x80 | (code & 0x3F))};
    }
    out += "\n";
  }
  const std::string low = fmt::format("{:g}", x.low),
                    high = fmt::format("{:g} {}", x.high, curve.name);
  const int gap = std::max(1, columns - static_cast<int>(low.size() + high.size()));
  return out + std::string(kLabel + 1, ' ') + low + std::string(static_cast<size_t>(gap), ' ') +
         high + "\n";
}

ExpertLoad expert_load(std::vector<std::string> row_names, int64_t num_experts,
                       std::span<const int64_t> counts) {
  FATHOM_CHECK_EQ(row_names.size() * static_cast<size_t>(num_experts), counts.size());
  ExpertLoad load{.row_names = std::move(row_names), .num_experts = num_experts};
  const auto E = static_cast<size_t>(num_experts);
  for (size_t begin = 0; begin < counts.size(); begin += E) {
    const auto row = counts.subspan(begin, E);
    const int64_t total = std::accumulate(row.begin(), row.end(), int64_t{0});
    for (const int64_t count : row) {
      load.relative.push_back(total > 0
                                  ? static_cast<double>(count) * static_cast<double>(num_experts) /
                                        static_cast<double>(total)
                                  : 0);
    }
  }
  return load;
}

std::string expert_load_svg(const ExpertLoad& load, const std::string& title) {
  constexpr double kLeft = 90, kTop = 40;
  const auto E = static_cast<size_t>(load.num_experts), rows = load.row_names.size();
  const double cell_width =
                   std::clamp(900.0 / static_cast<double>(std::max<size_t>(E, 1)), 3.0, 28.0),
               cell_height = 20;
  const double width = kLeft + cell_width * static_cast<double>(E) + 90,
               height = kTop + cell_height * static_cast<double>(rows) + 60;
  std::string svg = fmt::format(fmt::runtime(kSvgHead), width, height, escape_markup(title));
  for (size_t r = 0; r < rows; ++r) {
    const double y = kTop + cell_height * static_cast<double>(r);
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", kLeft - 8, y + 14,
                       escape_markup(load.row_names[r]));
    for (size_t e = 0; e < E; ++e) {
      const double value = load.relative[r * E + e];
      svg += fmt::format(
          "<rect x=\"{:.2f}\" y=\"{}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\"><title>{}, "
          "expert {}: {:.3f}</title></rect>\n",
          kLeft + cell_width * static_cast<double>(e), y, cell_width, cell_height,
          hex(viridis(value / kLargestLoad)), escape_markup(load.row_names[r]), e, value);
    }
  }
  // The scale: 0 to 3 times the balanced load.
  const double y = kTop + cell_height * static_cast<double>(rows) + 20;
  for (int i = 0; i <= 30; ++i) {
    svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"6.5\" height=\"12\" fill=\"{}\"/>",
                       kLeft + 6 * i, y, hex(viridis(i / 30.0)));
  }
  for (int i = 0; i <= 3; ++i)
    svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                       kLeft + 60 * i + 3, y + 26, i);
  return svg + fmt::format("<text x=\"{}\" y=\"{}\">load relative to balanced</text>\n</svg>\n",
                           kLeft + 210, y + 11);
}

std::string terminal_expert_load(const ExpertLoad& load, int width, bool colour) {
  const auto E = static_cast<size_t>(load.num_experts), rows = load.row_names.size();
  size_t label = 0;
  for (const std::string& name : load.row_names) label = std::max(label, name.size());
  if (E == 0) return {};
  // Experts that do not fit are joined in equal groups, the busiest of a group shown: an overload
  // must not vanish.
  const size_t room = std::max<size_t>(
      8, width > static_cast<int>(label) + 2 ? static_cast<size_t>(width) - label - 2 : 8);
  const size_t group = (E + room - 1) / room, columns = (E + group - 1) / group;
  const auto value = [&](size_t r, size_t c) {
    double largest = 0;
    for (size_t e = c * group; e < std::min(E, (c + 1) * group); ++e)
      largest = std::max(largest, load.relative[r * E + e]);
    return largest;
  };
  std::string out;
  if (!colour) {
    for (size_t r = 0; r < rows; ++r) {
      out += fmt::format("{:>{}}  ", load.row_names[r], label);
      // 3 stands for balanced, 9 for three times that and more.
      for (size_t c = 0; c < columns; ++c)
        out += static_cast<char>('0' +
                                 std::clamp(static_cast<int>(std::lround(3 * value(r, c))), 0, 9));
      out += "\n";
    }
    return out;
  }
  for (size_t r = 0; r < rows; r += 2) {
    out += fmt::format("{:>{}}  ", load.row_names[r], label);
    for (size_t c = 0; c < columns; ++c) {
      const Colour top = viridis(value(r, c) / kLargestLoad);
      out += fmt::format("\x1b[38;2;{};{};{}m", top.red, top.green, top.blue);
      if (r + 1 < rows) {
        const Colour bottom = viridis(value(r + 1, c) / kLargestLoad);
        out += fmt::format("\x1b[48;2;{};{};{}m", bottom.red, bottom.green, bottom.blue);
      }
      out += "▀";
    }
    out += "\x1b[0m\n";
  }
  return out;
}

}  // namespace fathom
