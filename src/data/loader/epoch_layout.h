// The rows of an epoch, one shuffle window at a time: which documents, in which order, how often,
// with which draws, packed how, is a function of (documents, configuration, seed, epoch). Only the
// rows of one window are in memory, and 8 bytes for each document served.
//
// Windows hang together by a thread: the row that one leaves short goes into the next, piece by
// piece. A WindowStart holds that thread, so that a window can be laid out without those before it.
#pragma once

#include <cstdint>
#include <vector>

#include "data/loader/document_store.h"
#include "data/loader/loader.h"
#include "data/loader/packing.h"

namespace fathom {

class EpochLayout {
 public:
  EpochLayout(const DocumentStore& documents, const LoaderConfig& config, uint64_t seed,
              int64_t context, int64_t row_length);

  // Lays out the first window of an epoch.
  void begin(int64_t epoch);
  // Lays out the window that starts so. An Error if this epoch has no such window.
  void begin_at(int64_t epoch, const WindowStart& start);
  // Lays out the next window; false, and nothing changed, if this was the last.
  bool advance();

  int64_t epoch() const { return epoch_; }
  bool is_last() const { return window_end_ == static_cast<int64_t>(order_.size()); }
  // Rows [first_row, end_row) of the epoch are here.
  int64_t first_row() const { return start_.first_row; }
  int64_t end_row() const { return start_.first_row + num_rows_; }
  const WindowStart& start() const { return start_; }

  void copy_row(int64_t row, int64_t to, Batch& batch) const;

 private:
  // A document of the epoch's order: its number, and which of its copies.
  static constexpr int kCopyBits = 12;
  DocumentEncoder::Key key_at(int64_t position) const;
  void make_order(int64_t epoch);
  void lay_out(const WindowStart& start);
  void write_row(const PackedRow& row, const std::vector<int64_t>& item_begin);
  void mask_rows();

  const DocumentStore& documents_;
  LoaderConfig config_;
  uint64_t seed_;
  int64_t context_, row_length_;

  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
  WindowStart start_;       // of the window that is laid out
  WindowStart next_start_;  // of the one behind it
  int64_t window_end_ = 0;  // in the order
  int64_t num_rows_ = 0;
  std::vector<int32_t> tokens_;  // of the rows
  std::vector<uint8_t> is_label_, begins_document_;
  std::vector<int32_t> stream_;  // of the window's documents, one after the other
  std::vector<uint8_t> stream_labels_;
};

}  // namespace fathom
