#include "train/run_log.h"

#include <cstring>

#include "core/error.h"
#include "train/tfevents.h"
#include "train/train_test_util.h"

namespace fathom {
namespace {

std::string hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return out;
}

// RFC 3720, B.4.
TEST(TfeventsTest, Crc32cKnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(""), 0u);
}

// The bytes that the tensorboard package (2.x) writes for these two events, and reads back: wall
// time 1.5, step 300, loss 2.5 and lr 0.125.
TEST(TfeventsTest, BytesAreThoseThatTensorboardReads) {
  EXPECT_EQ(hex(tfevents_header(1.5)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c");
  EXPECT_EQ(hex(tfevents_scalars(1.5, 300, {{"loss", 2.5}, {"lr", 0.125}})),
            "2600000000000000734fe30009000000000000f83f10ac022a180a0b0a046c6f737315000020400a090a02"
            "6c72150000003e8bd1d198");
}

TEST(TfeventsTest, EveryRecordCarriesItsLengthAndChecksums) {
  const std::string record = tfrecord("data");
  ASSERT_EQ(record.size(), 8 + 4 + 4 + 4u);
  uint64_t length = 0;
  uint32_t length_crc = 0, data_crc = 0;
  std::memcpy(&length, record.data(), 8);
  std::memcpy(&length_crc, record.data() + 8, 4);
  std::memcpy(&data_crc, record.data() + 16, 4);
  EXPECT_EQ(length, 4u);
  EXPECT_EQ(length_crc, masked_crc32c(record.substr(0, 8)));
  EXPECT_EQ(data_crc, masked_crc32c("data"));
}

StepRecord record_of(int64_t step) {
  return {.step = step,
          .tokens = 96 * step,
          .total_tokens = 9600,
          .loss = 5.0 / static_cast<double>(step),
          .mtp_loss = 0.1 + 0.2,
          .lr = 1e-3,
          .grad_norm = 2,
          .batch_rows = 4,
          .tokens_per_second = 12345,
          .mfu = 0.25,
          .max_violation = 0.5};
}

TEST(RunLogTest, MetricsHaveTheirKeysAndReadBack) {
  const TestFolder folder("run_log");
  StepRecord record = record_of(1);
  const std::string line = metrics_json(record);
  for (const char* key : {"step", "tokens", "loss", "mtp_loss", "lr", "grad_norm",
                          "tokens_per_second", "mfu", "max_violation"}) {
    EXPECT_NE(line.find("\"" + std::string(key) + "\":"), std::string::npos) << key;
  }
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line.find("held_out"), std::string::npos);
  {
    RunLog log(local_file_system(), folder / "", {});
    log.write(record);
    record.step = 2;
    record.held_out_bits_per_byte = 1.25;
    log.write(record);
  }
  const auto records = read_metrics(local_file_system(), folder / "");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].mtp_loss, 0.1 + 0.2);  // exactly
  EXPECT_EQ(records[1].held_out_bits_per_byte, 1.25);
  EXPECT_NE(progress_line(records[1]).find("held-out bpb 1.25"), std::string::npos);
}

TEST(RunLogTest, ResumingCutsBackToTheCheckpoint) {
  const TestFolder folder("run_log_cut");
  RunLog::Position position;
  {
    RunLog log(local_file_system(), folder / "", {});
    for (int64_t step = 1; step <= 5; ++step) log.write(record_of(step));
    position = log.sync();
    for (int64_t step = 6; step <= 9; ++step) log.write(record_of(step));
  }
  // A killed process left half a line.
  local_file_system().open_append(folder / "metrics.jsonl")->append("{\"step\": 10, \"tok");
  EXPECT_EQ(read_metrics(local_file_system(), folder / "").size(), 9u);
  {
    RunLog log(local_file_system(), folder / "", position);
    log.write(record_of(6));
  }
  const auto records = read_metrics(local_file_system(), folder / "");
  ASSERT_EQ(records.size(), 6u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(records[i].step, static_cast<int64_t>(i) + 1);
  // The event file too: a header and six records of equal size.
  const std::string events =
      local_file_system().read_all(folder / "tensorboard/events.out.tfevents.0.fathom");
  const size_t header = tfevents_header(0).size();
  int records_found = 0;
  for (size_t at = header; at < events.size(); ++records_found) {
    uint64_t length = 0;
    std::memcpy(&length, events.data() + at, 8);
    uint32_t crc = 0;
    std::memcpy(&crc, events.data() + at + 12 + length, 4);
    EXPECT_EQ(crc, masked_crc32c(std::string_view(events).substr(at + 12, length)));
    at += 16 + length;
  }
  EXPECT_EQ(records_found, 6);
}

}  // namespace
}  // namespace fathom
