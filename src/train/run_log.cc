#include "train/run_log.h"

#include <algorithm>
#include <chrono>

#include "core/json.h"
#include "train/tfevents.h"

namespace fathom {
namespace {

// The one list of what a record holds: names in metrics.jsonl, tags in TensorBoard.
struct Metric {
  const char* name;
  double StepRecord::*value;
};
constexpr Metric kMetrics[] = {
    {"loss", &StepRecord::loss},
    {"mtp_loss", &StepRecord::mtp_loss},
    {"balance_loss", &StepRecord::balance_loss},
    {"total_loss", &StepRecord::total_loss},
    {"bits_per_byte", &StepRecord::bits_per_byte},
    {"lr", &StepRecord::lr},
    {"grad_norm", &StepRecord::grad_norm},
    {"mtp_weight", &StepRecord::mtp_weight},
    {"balance_weight", &StepRecord::balance_weight},
    {"bias_update_speed", &StepRecord::bias_update_speed},
    {"seconds", &StepRecord::seconds},
    {"data_seconds", &StepRecord::data_seconds},
    {"tokens_per_second", &StepRecord::tokens_per_second},
    {"mfu", &StepRecord::mfu},
    {"max_violation", &StepRecord::max_violation},
};
constexpr struct {
  const char* name;
  int64_t StepRecord::*value;
} kCounts[] = {
    {"step", &StepRecord::step},
    {"tokens", &StepRecord::tokens},
    {"total_tokens", &StepRecord::total_tokens},
    {"batch_rows", &StepRecord::batch_rows},
};
constexpr const char* kHeldOut = "held_out_bits_per_byte";

std::string count_text(int64_t count) {
  if (count >= 10'000'000'000) return fmt::format("{:.1f}B", static_cast<double>(count) / 1e9);
  if (count >= 10'000'000) return fmt::format("{:.1f}M", static_cast<double>(count) / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f}K", static_cast<double>(count) / 1e3);
  return std::to_string(count);
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// `path` cut to at most `bytes`; its length after that.
int64_t cut_back(FileSystem& files, const std::string& path, int64_t bytes) {
  const FileInfo info = files.info(path);
  if (!info.exists) return 0;
  if (info.bytes > bytes) files.truncate(path, bytes);
  return std::min(info.bytes, bytes);
}

}  // namespace

std::string progress_line(const StepRecord& r) {
  std::string line = fmt::format(
      "step {:>6}  {:>4.1f}%  loss {:.4f}  mtp {:.4f}  bpb {:.4f}  lr {:.2e}  grad {:.3f}  {:>7} "
      "tok/s  mfu {:.1f}%  overload {:.2f}",
      r.step,
      r.total_tokens > 0
          ? 100.0 * static_cast<double>(r.tokens) / static_cast<double>(r.total_tokens)
          : 0.0,
      r.loss, r.mtp_loss, r.bits_per_byte, r.lr, r.grad_norm,
      count_text(static_cast<int64_t>(r.tokens_per_second)), 100 * r.mfu, r.max_violation);
  if (r.held_out_bits_per_byte)
    line += fmt::format("  held-out bpb {:.4f}", *r.held_out_bits_per_byte);
  return line;
}

std::string metrics_json(const StepRecord& record) {
  Json object = Json::object();
  for (const auto& count : kCounts) object[count.name] = record.*count.value;
  for (const Metric& metric : kMetrics) object[metric.name] = record.*metric.value;
  if (record.held_out_bits_per_byte) object[kHeldOut] = *record.held_out_bits_per_byte;
  return object.dump();
}

RunLog::RunLog(FileSystem& files, const std::string& run_folder, const Position& position) {
  const std::string metrics = join_path(run_folder, "metrics.jsonl");
  const std::string folder = join_path(run_folder, "tensorboard");
  const std::string events = join_path(folder, "events.out.tfevents.0.fathom");
  files.make_directories(folder);
  position_.metrics_bytes = cut_back(files, metrics, position.metrics_bytes);
  position_.events_bytes = cut_back(files, events, position.events_bytes);
  metrics_ = files.open_append(metrics);
  events_ = files.open_append(events);
  if (position_.events_bytes == 0) {
    const std::string header = tfevents_header(wall_time());
    events_->append(header);
    position_.events_bytes = static_cast<int64_t>(header.size());
  }
}

RunLog::~RunLog() = default;

void RunLog::write(const StepRecord& record) {
  const std::string line = metrics_json(record) + "\n";
  metrics_->append(line);
  position_.metrics_bytes += static_cast<int64_t>(line.size());
  std::vector<std::pair<std::string_view, double>> scalars;
  for (const Metric& metric : kMetrics) scalars.emplace_back(metric.name, record.*metric.value);
  if (record.held_out_bits_per_byte) scalars.emplace_back(kHeldOut, *record.held_out_bits_per_byte);
  const std::string event = tfevents_scalars(wall_time(), record.step, scalars);
  events_->append(event);
  position_.events_bytes += static_cast<int64_t>(event.size());
}

RunLog::Position RunLog::sync() {
  metrics_->sync();
  events_->sync();
  return position_;
}

std::vector<StepRecord> read_metrics(FileSystem& files, const std::string& run_folder) {
  const std::string path = join_path(run_folder, "metrics.jsonl");
  const std::string text = files.read_all(path);
  std::vector<StepRecord> records;
  for (size_t begin = 0;;) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) return records;
    const std::string where = fmt::format("{}:{}", path, records.size() + 1);
    const Json object = parse_json(std::string_view(text).substr(begin, end - begin), where);
    begin = end + 1;
    const auto number = [&](const char* name) -> const Json& {
      if (!object.is_object() || !object.contains(name) || !object[name].is_number()) {
        throw_bad_input(
            {.where = where, .field = name, .found = "no number", .expected = "a number"});
      }
      return object[name];
    };
    StepRecord& record = records.emplace_back();
    for (const auto& count : kCounts) record.*count.value = number(count.name).get<int64_t>();
    for (const Metric& metric : kMetrics) record.*metric.value = number(metric.name).get<double>();
    if (object.contains(kHeldOut)) record.held_out_bits_per_byte = number(kHeldOut).get<double>();
  }
}

}  // namespace fathom
