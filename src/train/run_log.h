// What a run writes down: one line of metrics.jsonl a step (the source of truth) and a TensorBoard
// event file, both cut back to the checkpoint on resume, so that no step stands there twice.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace fathom {

struct StepRecord {
  int64_t step = 0;    // steps done, so 1 for the first
  int64_t tokens = 0;  // seen so far
  int64_t total_tokens = 0;
  double loss = 0, mtp_loss = 0, balance_loss = 0, total_loss = 0;
  double bits_per_byte = 0;  // of this step's rows, eos included
  double lr = 0, grad_norm = 0;
  double mtp_weight = 0, balance_weight = 0, bias_update_speed = 0;
  int64_t batch_rows = 0;
  double seconds = 0;       // of this step
  double data_seconds = 0;  // of it, waiting for its rows
  double tokens_per_second = 0;
  double mfu = 0;            // 0..1 of the measured peak
  double max_violation = 0;  // of the worst layer
  std::optional<double> held_out_bits_per_byte;
};

// "step 120  1.2M tokens  loss 3.412  mtp 4.020  bpb 1.512 ..."
std::string progress_line(const StepRecord& record);
std::string metrics_json(const StepRecord& record);  // one line, without the newline

// Where progress goes; libraries never print.
class LogSink {
 public:
  virtual ~LogSink() = default;
  virtual void step(const StepRecord& record) = 0;
  virtual void message(std::string_view text) = 0;
};

class RunLog {
 public:
  struct Position {
    int64_t metrics_bytes = 0;
    int64_t events_bytes = 0;
  };
  // Opens RUN/metrics.jsonl and RUN/tensorboard/, cut back to `position` (a new run's is zero).
  RunLog(FileSystem& files, const std::string& run_folder, const Position& position);
  ~RunLog();

  void write(const StepRecord& record);
  // Everything written so far is on disk after this; the position that a checkpoint stores.
  Position sync();

 private:
  std::unique_ptr<WritableFile> metrics_, events_;
  Position position_;
};

// All records of a metrics.jsonl, for curves; lines that are cut off at the end are left out.
std::vector<StepRecord> read_metrics(FileSystem& files, const std::string& run_folder);

}  // namespace fathom
