#include "core/random.h"

#include <set>

#include "core/error.h"

namespace fathom {
namespace {

// The known answers that the authors of Philox publish with their library (Random123, kat_vectors).
TEST(Random, PhiloxKnownAnswers) {
  using Four = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, DrawsArePureFunctionsOfTheirCoordinates) {
  const Random a(42, RandomPurpose::kInit, 7);
  EXPECT_EQ(a.bits(5), Random(42, RandomPurpose::kInit, 7).bits(5));
  std::set<uint64_t> seen;
  for (uint64_t seed : {uint64_t{0}, uint64_t{42}, uint64_t{42} << 32}) {
    for (uint64_t step : {uint64_t{0}, uint64_t{7}, uint64_t{1} << 40}) {
      for (RandomPurpose purpose : {RandomPurpose::kInit, RandomPurpose::kSampling}) {
        for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 33}) {
          seen.insert(Random(seed, purpose, step).bits(index));
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 3u * 3 * 2 * 3);  // every coordinate counts
  EXPECT_THROW(Random(1, RandomPurpose::kInit, uint64_t{1} << 48).bits(0), CheckFailure);
}

// Bounds are five standard errors of the statistic.
TEST(Random, UniformHasTheRightMoments) {
  const Random random(1, RandomPurpose::kTest);
  const int64_t n = 100000;
  double sum = 0, sum_squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double u = random.uniform(static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    sum_squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(sum_squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

TEST(Random, NormalHasTheRightMoments) {
  const Random random(2, RandomPurpose::kTest);
  const int64_t n = 100000;
  double moments[5] = {};
  for (int64_t i = 0; i < n; ++i) {
    const double x = random.normal(static_cast<uint64_t>(i));
    ASSERT_TRUE(std::isfinite(x));
    double power = 1;
    for (double& moment : moments) {
      moment += power / n;
      power *= x;
    }
  }
  // The variances of x, x^2, x^3, x^4 are 1, 2, 15, 96.
  EXPECT_NEAR(moments[1], 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(moments[2], 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15.0 / n));
  EXPECT_NEAR(moments[4], 3, 5 * std::sqrt(96.0 / n));
}

TEST(Random, BelowCoversItsRangeEvenly) {
  const Random random(3, RandomPurpose::kTest);
  int64_t counts[7] = {};
  const int64_t n = 70000;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t value = random.below(static_cast<uint64_t>(i), 7);
    ASSERT_LT(value, 7u);
    ++counts[value];
  }
  for (const int64_t count : counts)
    EXPECT_NEAR(static_cast<double>(count), n / 7.0, 5 * std::sqrt(n / 7.0 * 6 / 7));
  EXPECT_EQ(random.below(9, 1), 0u);
  EXPECT_THROW(random.below(0, 0), CheckFailure);
}

}  // namespace
}  // namespace fathom
