#include "train/pictures.h"

#include <numeric>

namespace fathom {
namespace {

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++n;
  return n;
}

TEST(PicturesTest, EveryRowOfTheLoadHasMeanOne) {
  const std::vector<int64_t> counts = {10, 0, 5, 5, 7, 7, 7, 7, 0, 0, 0, 0};
  const ExpertLoad load = expert_load({"layer 1", "layer 2", "mtp 1"}, 4, counts);
  EXPECT_EQ(load.relative[0], 2.0);
  for (size_t r = 0; r < 2; ++r) {
    EXPECT_NEAR(std::accumulate(load.relative.begin() + 4 * static_cast<int>(r),
                                load.relative.begin() + 4 * static_cast<int>(r) + 4, 0.0) /
                    4,
                1, 1e-9);
  }
  EXPECT_EQ(load.relative[8], 0);  // a layer without tokens
}

TEST(PicturesTest, HeatMapHasACellForEveryExpertAndOneScale) {
  const std::vector<int64_t> counts = {3, 1, 0, 4, 4, 0};
  const ExpertLoad load = expert_load({"layer <1>", "mtp 1"}, 3, counts);
  const std::string svg = expert_load_svg(load, "Load & balance");
  EXPECT_EQ(count(svg, "<title>"), 6);
  EXPECT_EQ(count(svg, "layer &lt;1&gt;, expert 0: 2.250"), 1);
  EXPECT_EQ(count(svg, "Load &amp; balance"), 1);
  EXPECT_EQ(count(svg, "fill=\"#440154\"><title>"), 2);  // the two without tokens
  const std::string plain = terminal_expert_load(load, 40, false);
  EXPECT_EQ(plain, "layer <1>  720\n    mtp 1  550\n");
  const std::string blocks = terminal_expert_load(load, 40, true);
  EXPECT_EQ(count(blocks, "▀"), 3);
  EXPECT_EQ(count(blocks, "\n"), 1);
}

TEST(PicturesTest, ManyExpertsAreGroupedAndTheBusiestShows) {
  std::vector<int64_t> counts(256, 10);
  counts[200] = 40;
  const std::string plain = terminal_expert_load(expert_load({"layer 3"}, 256, counts), 73, false);
  EXPECT_EQ(count(plain, "3"), 64);  // "layer 3" and 63 balanced groups of four
  EXPECT_EQ(count(plain, "9"), 1);
}

TEST(PicturesTest, CurvesKeepTheirWidthAndSkipWhatIsNotFinite) {
  EXPECT_EQ(sparkline(std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7}, 8), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline(std::vector<double>{5, 5}, 10), "▅▅");
  EXPECT_EQ(sparkline({}, 10), "");
  Curve curve{.name = "loss"};
  for (int i = 0; i < 50; ++i) {
    curve.x.push_back(i);
    curve.y.push_back(i == 20 ? NAN : 5.0 / (i + 1));
  }
  const std::string text = terminal_curve(curve, 60, 10);
  EXPECT_EQ(count(text, "\n"), 10);
  EXPECT_EQ(count(text, "│"), 9);
  EXPECT_NE(text.find("5.000"), std::string::npos);
  const std::string svg =
      loss_curve_svg({curve, {.name = "mtp", .x = {0, 49}, .y = {4, 1}}}, "Loss");
  EXPECT_EQ(count(svg, "<polyline"), 2);
  EXPECT_EQ(count(svg, "nan"), 0);
  // Nothing to show is fine too.
  EXPECT_NE(loss_curve_svg({{.name = "none"}}, "Empty").find("</svg>"), std::string::npos);
  EXPECT_FALSE(terminal_curve({.name = "one", .x = {1}, .y = {2}}, 40, 5).empty());
}

}  // namespace
}  // namespace fathom
