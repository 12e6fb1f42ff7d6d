#include "data/loader/epoch_layout.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace fathom {

EpochLayout::EpochLayout(const DocumentStore& documents, const LoaderConfig& config, uint64_t seed,
                         int64_t context, int64_t row_length)
    : documents_(documents),
      config_(config),
      seed_(seed),
      context_(context),
      row_length_(row_length) {}

DocumentEncoder::Key EpochLayout::key_at(int64_t position) const {
  const int64_t entry = order_[static_cast<size_t>(position)];
  return {.epoch = static_cast<uint64_t>(epoch_),
          .document = entry >> kCopyBits,
          .copy = entry & ((1 << kCopyBits) - 1)};
}

void EpochLayout::make_order(int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  order_.clear();
  const auto step = static_cast<uint64_t>(epoch);
  const Random mixture(seed_, RandomPurpose::kMixture, step);
  for (int64_t i = 0; i < documents_.num_documents(); ++i) {
    const double repeats = documents_.repeats(i);
    const auto whole = static_cast<int64_t>(std::floor(repeats));
    const int64_t copies =
        whole +
        (mixture.uniform(static_cast<uint64_t>(i)) < repeats - static_cast<double>(whole) ? 1 : 0);
    FATHOM_CHECK_LE(copies, int64_t{1} << kCopyBits);
    for (int64_t copy = 0; copy < copies; ++copy) order_.push_back(i << kCopyBits | copy);
  }
  const Random shuffle(seed_, RandomPurpose::kShuffle, step);
  for (uint64_t i = order_.size(); i > 1; --i)
    std::swap(order_[i - 1], order_[shuffle.below(i, i)]);
}

void EpochLayout::begin(int64_t epoch) {
  make_order(epoch);
  lay_out({});
}

void EpochLayout::begin_at(int64_t epoch, const WindowStart& start) {
  make_order(epoch);
  const auto size = static_cast<int64_t>(order_.size());
  bool fits =
      start.position >= 0 && start.position <= size && start.first_row >= 0 && start.num_draws >= 0;
  for (const WindowStart::Carried& piece : start.carried) {
    fits = fits && piece.position >= 0 && piece.position < start.position && piece.begin >= 0 &&
           piece.count > 0;
  }
  if (!fits) {
    throw_bad_input({.where = "data cursor",
                     .field = "window",
                     .found = fmt::format("position {} of {}", start.position, size),
                     .expected = "a window of this epoch"});
  }
  lay_out(start);
}

bool EpochLayout::advance() {
  if (is_last()) return false;
  lay_out(WindowStart(next_start_));
  return true;
}

void EpochLayout::lay_out(const WindowStart& start) {
  const auto size = static_cast<int64_t>(order_.size());
  start_ = start;
  window_end_ = std::min(size, start.position + config_.shuffle_window);
  stream_.clear();
  stream_labels_.clear();
  std::vector<int64_t> item_begin;  // in the stream
  std::vector<Piece> pieces;
  // Where each item of this window comes from: what is carried on is named by it.
  std::vector<WindowStart::Carried> origin;
  const auto add_item = [&](int64_t first, const WindowStart::Carried& from) {
    pieces.push_back({static_cast<int64_t>(item_begin.size()), 0, from.count});
    item_begin.push_back(first);
    origin.push_back(from);
  };
  std::vector<int32_t> whole;
  std::vector<uint8_t> whole_labels;
  for (const WindowStart::Carried& piece : start.carried) {
    whole.clear();
    whole_labels.clear();
    documents_.append(key_at(piece.position), whole, whole_labels);
    if (piece.begin + piece.count > static_cast<int64_t>(whole.size())) {
      throw_bad_input({.where = "data cursor",
                       .field = "window",
                       .found = fmt::format("tokens {} to {} of a document of {}", piece.begin,
                                            piece.begin + piece.count, whole.size()),
                       .expected = "a window of this epoch"});
    }
    const auto first = static_cast<int64_t>(stream_.size());
    stream_.insert(stream_.end(), whole.begin() + piece.begin,
                   whole.begin() + piece.begin + piece.count);
    stream_labels_.insert(stream_labels_.end(), whole_labels.begin() + piece.begin,
                          whole_labels.begin() + piece.begin + piece.count);
    add_item(first, piece);
  }
  for (int64_t position = start.position; position < window_end_; ++position) {
    const auto first = static_cast<int64_t>(stream_.size());
    documents_.append(key_at(position), stream_, stream_labels_);
    add_item(first, {position, 0, static_cast<int64_t>(stream_.size()) - first});
  }

  std::vector<PackedRow> rows = pack_rows(pieces, row_length_, config_.fill_rows);
  next_start_ = {.position = window_end_};
  if (config_.fill_rows && !is_last() && !rows.empty() && row_tokens(rows.back()) < row_length_) {
    for (const Piece& piece : rows.back()) {
      const WindowStart::Carried& from = origin[static_cast<size_t>(piece.item)];
      next_start_.carried.push_back({from.position, from.begin + piece.begin, piece.count});
    }
    rows.pop_back();
  }
  // The draws of all windows of an epoch follow each other.
  const Random shuffle(seed_, RandomPurpose::kShuffle, static_cast<uint64_t>(epoch_));
  uint64_t draw = (uint64_t{1} << 40) + static_cast<uint64_t>(start.num_draws);
  for (uint64_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[shuffle.below(draw++, i)]);
  next_start_.num_draws = static_cast<int64_t>(draw - (uint64_t{1} << 40));

  tokens_.clear();
  is_label_.clear();
  begins_document_.clear();
  for (const PackedRow& row : rows) write_row(row, item_begin);
  num_rows_ = static_cast<int64_t>(rows.size());
  FATHOM_CHECK_EQ(num_rows_ * row_length_, static_cast<int64_t>(tokens_.size()));
  next_start_.first_row = start.first_row + num_rows_;
  if (config_.mask_documents) mask_rows();
}

void EpochLayout::write_row(const PackedRow& row, const std::vector<int64_t>& item_begin) {
  for (const Piece& piece : row) {
    const int64_t from = item_begin[static_cast<size_t>(piece.item)] + piece.begin;
    tokens_.insert(tokens_.end(), stream_.begin() + from, stream_.begin() + from + piece.count);
    is_label_.insert(is_label_.end(), stream_labels_.begin() + from,
                     stream_labels_.begin() + from + piece.count);
    begins_document_.push_back(1);
    begins_document_.resize(tokens_.size(), 0);
  }
  // Short rows are padded with text that does not count (an expert's load should be that of text),
  // or with eos where rows are of whole examples.
  const auto filled = static_cast<int64_t>(row_tokens(row));
  if (filled == row_length_) return;
  begins_document_.push_back(1);
  for (int64_t i = filled; i < row_length_; ++i) {
    tokens_.push_back(config_.fill_rows ? stream_[static_cast<size_t>(i - filled) % stream_.size()]
                                        : documents_.tokenizer().special().eos);
    is_label_.push_back(0);
  }
  begins_document_.resize(tokens_.size(), 0);
}

// The step into another document is no prediction, nor is any of a document that starts behind the
// context.
void EpochLayout::mask_rows() {
  for (int64_t row = 0; row < num_rows_; ++row) {
    bool behind = false;
    for (int64_t i = 0; i < row_length_; ++i) {
      const auto t = static_cast<size_t>(row * row_length_ + i);
      behind = behind || (i >= context_ && begins_document_[t] != 0);
      if (behind || begins_document_[t] != 0) is_label_[t] = 0;
    }
  }
}

void EpochLayout::copy_row(int64_t row, int64_t to, Batch& batch) const {
  const int64_t from = (row - start_.first_row) * row_length_;
  std::copy_n(tokens_.begin() + from, row_length_, batch.tokens.begin() + to * row_length_);
  std::copy_n(is_label_.begin() + from, row_length_, batch.is_label.begin() + to * row_length_);
  if (!config_.mask_documents) return;
  int32_t begin = 0;
  for (int64_t i = 0; i < context_; ++i) {
    if (begins_document_[static_cast<size_t>(from + i)] != 0) begin = static_cast<int32_t>(i);
    batch.first_key[static_cast<size_t>(to * context_ + i)] = begin;
    batch.positions[static_cast<size_t>(to * context_ + i)] = static_cast<int32_t>(i) - begin;
  }
}

}  // namespace fathom
