#include "train/schedule.h"

#include "core/error.h"
#include "core/file.h"
#include "train/trainer.h"

namespace fathom {
namespace {

constexpr int64_t kT = 1'000'000'000'000, kB = 1'000'000'000;

ScheduleConfig report_schedule() {
  TrainConfig config;
  ConfigFields fields = fields_of(config);
  ConfigOrigins origins;
  const std::string path = FATHOM_SOURCE_DIR "/configs/runs/deepseek-v3.toml";
  read_toml(local_file_system().read_all(path), path, fields, origins);
  return config.schedule;
}

TEST(ScheduleTest, LearningRateOfTheReportAtProbePoints) {
  const Schedule schedule(report_schedule(), 4096);
  const int64_t late = 1'000'000;  // a step far behind the warm-up
  EXPECT_EQ(schedule.total_tokens(), 14'800'000'000'000);
  // Warm-up is by steps, the rest by tokens seen before the step.
  EXPECT_DOUBLE_EQ(schedule.at(0, 0).lr, 2.2e-4 / 2000);
  EXPECT_DOUBLE_EQ(schedule.at(499, 0).lr, 2.2e-4 / 4);
  EXPECT_DOUBLE_EQ(schedule.at(999, 0).lr, 1.1e-4);
  EXPECT_EQ(schedule.at(1999, 0).lr, 2.2e-4);
  EXPECT_EQ(schedule.at(2000, 0).lr, 2.2e-4);
  EXPECT_EQ(schedule.at(late, 5 * kT).lr, 2.2e-4);
  EXPECT_EQ(schedule.at(late, 10 * kT - 1).lr, 2.2e-4);
  EXPECT_DOUBLE_EQ(schedule.at(late, 10 * kT).lr, 2.2e-4);
  // A quarter of the cosine: 2.2e-5 + 1.98e-4 (1 + sqrt(1/2)) / 2.
  EXPECT_DOUBLE_EQ(schedule.at(late, 10 * kT + 1075 * kB).lr,
                   2.2e-5 + 1.98e-4 * (1 + std::sqrt(0.5)) / 2);
  EXPECT_DOUBLE_EQ(schedule.at(late, 12'150 * kB).lr, 1.21e-4);
  EXPECT_EQ(schedule.at(late, 14'300 * kB).lr, 2.2e-5);
  EXPECT_EQ(schedule.at(late, 14'632 * kB).lr, 2.2e-5);
  EXPECT_EQ(schedule.at(late, 14'633 * kB).lr, 7.3e-6);
  EXPECT_EQ(schedule.at(late, 14'634 * kB).lr, 7.3e-6);
  EXPECT_EQ(schedule.at(late, 20 * kT).lr, 7.3e-6);
}

TEST(ScheduleTest, WeightsOfTheReportSwitchAtTheirToken) {
  const Schedule schedule(report_schedule(), 4096);
  EXPECT_EQ(schedule.at(1, 14'300 * kB - 1).bias_update_speed, 0.001);
  EXPECT_EQ(schedule.at(1, 14'300 * kB).bias_update_speed, 0);
  EXPECT_EQ(schedule.at(1, 10 * kT - 1).mtp_weight, 0.3);
  EXPECT_EQ(schedule.at(1, 10 * kT).mtp_weight, 0.1);
  EXPECT_EQ(schedule.at(1, 0).balance_weight, 1e-4);
}

TEST(ScheduleTest, BatchRampEndsAtItsTokensAndStepsAddUp) {
  const Schedule schedule(report_schedule(), 4096);
  EXPECT_EQ(schedule.at(0, 0).rows, 3072);
  EXPECT_EQ(schedule.at(0, 469 * kB / 2).rows, (3072 + 15360) / 2);
  EXPECT_EQ(schedule.at(0, 469 * kB).rows, 15360);
  int64_t tokens = 0, steps = 0, rows = 0;
  while (tokens < 469 * kB) {
    EXPECT_GE(schedule.at(steps, tokens).rows, rows);
    rows = schedule.at(steps, tokens).rows;
    tokens += rows * 4096;
    ++steps;
  }
  // The first step with the full batch starts within one step of 469B.
  EXPECT_LT(tokens - 469 * kB, 15360 * 4096);
  // Linear in tokens, rows r(t) = a + (b - a) t / R: R / (4096 (b - a)) ln(b / a) steps, plus
  // rounding down.
  const double closed = 469e9 / (4096.0 * 12288) * std::log(5.0);
  EXPECT_NEAR(static_cast<double>(steps), closed, 0.001 * closed);
  EXPECT_NEAR(static_cast<double>(schedule.total_steps()), 242'800, 100);
}

TEST(ScheduleTest, SharesScaleTheRecipe) {
  ScheduleConfig config;
  config.total_tokens = parse_token_amount("1000");
  config.warmup_steps = 0;
  config.lr = {{"constant", 1.0, parse_token_amount("33.3%")},
               {"linear", 0.5, parse_token_amount("33.3%")},
               {"constant", 0.25, parse_token_amount("33.4%")}};
  config.mtp_weight_until = parse_token_amount("50%");
  const Schedule schedule(config, 10);
  EXPECT_EQ(schedule.at(0, 332).lr, 1.0);
  EXPECT_DOUBLE_EQ(schedule.at(0, 333).lr, 1.0);
  EXPECT_NEAR(schedule.at(0, 500).lr, 0.75, 0.002);
  EXPECT_EQ(schedule.at(0, 666).lr, 0.25);
  EXPECT_EQ(schedule.at(0, 499).mtp_weight, 0.3);
  EXPECT_EQ(schedule.at(0, 500).mtp_weight, 0.1);
  EXPECT_EQ(schedule.total_steps(), 13);  // 80 tokens a step
}

TEST(ScheduleTest, TokenAmountsReadExactlyAndPrintBack) {
  EXPECT_EQ(parse_token_amount("4.3T").tokens, 4'300'000'000'000);
  EXPECT_EQ(parse_token_amount("0.333T").tokens, 333'000'000'000);
  EXPECT_EQ(parse_token_amount("14_800_000").tokens, 14'800'000);
  EXPECT_EQ(parse_token_amount("12.5%").of(1000), 125);
  for (const char* text : {"0", "17", "469B", "4300B", "12.5%", "33.3%", "0.1%", "100%"}) {
    EXPECT_EQ(to_text(parse_token_amount(text)), text);
  }
  for (const char* text : {"", "T", "-3", "0.5", "101%", "1e30", "3x", "nan", "4 3 Q"}) {
    EXPECT_THROW(parse_token_amount(text), Error) << text;
  }
}

TEST(ScheduleTest, PiecesThatDoNotAddUpAreRefused) {
  const auto error_of = [](const std::function<void(ScheduleConfig&)>& change) {
    ScheduleConfig config = report_schedule();
    change(config);
    try {
      Schedule schedule(config, 4096);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error_of([](ScheduleConfig&) {}), "no error");
  EXPECT_EQ(error_of([](ScheduleConfig& c) { c.lr.pop_back(); }),
            "schedule: lr: found pieces of together 14633000000000 tokens, expected total_tokens, "
            "14800000000000");
  EXPECT_NE(error_of([](ScheduleConfig& c) { c.lr.clear(); }).find("at least one"),
            std::string::npos);
  EXPECT_NE(error_of([](ScheduleConfig& c) { c.batch_ramp = {}; }).find("batch_ramp"),
            std::string::npos);
  EXPECT_NE(
      error_of([](ScheduleConfig& c) { c.batch_rows_begin = 20000; }).find("batch_rows_begin"),
      std::string::npos);
  EXPECT_NE(error_of([](ScheduleConfig& c) { c.lr[0].shape = "cosine"; }).find("lr.0.shape"),
            std::string::npos);
  EXPECT_NE(error_of([](ScheduleConfig& c) {
              c.total_tokens = parse_token_amount("50%");
            }).find("total_tokens"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
