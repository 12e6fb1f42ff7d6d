// Pictures of a run: the loss curve and the expert-load heat map (report figure 9), as SVG and for
// a terminal. Colours are viridis, safe for the colour-blind; every heat-map row has mean 1 and
// every picture of this kind the same scale, 0 to 3 times the balanced load.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fathom {

struct Curve {
  std::string name;
  std::vector<double> x, y;
};
std::string loss_curve_svg(const std::vector<Curve>& curves, const std::string& title);
// A plot of `width` x `height` characters with axes, in braille dots; one line of blocks.
std::string terminal_curve(const Curve& curve, int width, int height);
std::string sparkline(std::span<const double> values, int width);

struct ExpertLoad {
  std::vector<std::string> row_names;  // "layer 3", "mtp 1"
  int64_t num_experts = 0;
  std::vector<double> relative;  // [rows, experts], each row's mean 1 (0 without tokens)
};
ExpertLoad expert_load(std::vector<std::string> row_names, int64_t num_experts,
                       std::span<const int64_t> counts);
std::string expert_load_svg(const ExpertLoad& load, const std::string& title);
// Two rows of the map a line, in half blocks with 24-bit colours; `colour` false: a row a line, in
// digits: 3 is balanced, 9 three times that or more.
std::string terminal_expert_load(const ExpertLoad& load, int width, bool colour);

}  // namespace fathom
