#include "data/tokenizer/piece_counter.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace fathom {
namespace {

constexpr size_t kFirstSlots = 1 << 12;
constexpr int64_t kBlockBytes = 4 << 20;

uint64_t hash_of(std::string_view piece) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  uint64_t hash = piece.size() * kMultiplier;
  const char* p = piece.data();
  size_t left = piece.size();
  uint64_t word;
  for (; left >= 8; p += 8, left -= 8) {
    std::memcpy(&word, p, 8);
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 32;
  }
  word = 0;
  std::memcpy(&word, p, left);
  hash = (hash ^ word) * kMultiplier;
  hash ^= hash >> 32;
  return hash * kMultiplier;
}

// What training keeps of a piece: a token id for each byte, a word, and its places in the lists of
// pairs, which merging moves but hardly lengthens.
int64_t training_bytes(size_t piece_bytes) { return 64 + 16 * static_cast<int64_t>(piece_bytes); }

// A record: length and count as eight bytes each, then the bytes.
struct RecordHead {
  uint64_t bytes;
  int64_t count;
};

}  // namespace

PieceTable::PieceTable() : slots_(kFirstSlots) {}

void PieceTable::add(std::string_view piece, int64_t count) {
  const uint64_t hash = hash_of(piece);
  uint64_t mask = slots_.size() - 1;
  uint64_t i = hash & mask;
  for (; slots_[i].count != 0; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.hash == hash && slot.bytes == piece.size() &&
        std::memcmp(arena_.data() + slot.begin, piece.data(), piece.size()) == 0) {
      slot.count += count;
      return;
    }
  }
  slots_[i] = {hash, count, arena_.size(), piece.size()};
  arena_.append(piece);
  if (++size_ * 2 < slots_.size()) return;
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.count == 0) continue;
    for (i = slot.hash & mask; slots_[i].count != 0;) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void PieceTable::clear() {
  slots_ = std::vector<Slot>(kFirstSlots);
  arena_ = std::string();
  size_ = 0;
}

int64_t PieceTable::num_bytes() const {
  return static_cast<int64_t>(slots_.size() * sizeof(Slot) + arena_.capacity());
}

PieceCounter::PieceCounter(const PreTokenizer& pre_tokenizer, PieceCounterConfig config,
                           ThreadPool* threads)
    : pre_tokenizer_(pre_tokenizer),
      config_(std::move(config)),
      threads_(threads),
      per_thread_(static_cast<size_t>(threads == nullptr ? 1 : threads->num_threads())) {}

PieceCounter::~PieceCounter() {
  if (num_spills_ == 0) return;
  try {
    config_.files->remove_all(config_.spill_folder);
  } catch (const Error&) {  // what stays is named for what it is
  }
}

void PieceCounter::add(int64_t count,
                       const std::function<std::string_view(int64_t, std::string&)>& document) {
  const auto count_document = [&](int64_t i, int thread_idx) {
    PerThread& mine = per_thread_[static_cast<size_t>(thread_idx)];
    const std::string_view text = document(i, mine.buffer);
    mine.bytes += static_cast<int64_t>(text.size());
    pre_tokenizer_.for_each_piece(text, mine.ends, [&](std::string_view piece) {
      for (; piece.size() > kMaxPieceBytes; piece.remove_prefix(kMaxPieceBytes))
        mine.table.add(piece.substr(0, kMaxPieceBytes), 1);
      mine.table.add(piece, 1);
    });
  };
  if (threads_ == nullptr) {
    for (int64_t i = 0; i < count; ++i) count_document(i, 0);
  } else {
    threads_->parallel_for(count, count_document);
  }
  int64_t bytes = 0;
  for (const PerThread& thread : per_thread_) bytes += thread.table.num_bytes();
  if (bytes > config_.table_bytes && config_.files != nullptr) spill();
}

std::string PieceCounter::part_path(int64_t part) const {
  return join_path(config_.spill_folder, fmt::format("part-{:02}", part));
}

void PieceCounter::spill() {
  if (num_spills_ == 0) {
    config_.files->remove_all(config_.spill_folder);  // of a run that was killed
    config_.files->make_directories(config_.spill_folder);
  }
  std::vector<std::string> records(kNumParts);
  for (PerThread& thread : per_thread_) {
    thread.table.for_each([&](std::string_view piece, int64_t count, uint64_t hash) {
      std::string& part = records[hash >> 58];
      const RecordHead head{piece.size(), count};
      part.append(reinterpret_cast<const char*>(&head), sizeof head);
      part.append(piece);
    });
    thread.table.clear();
    for (int64_t part = 0; part < kNumParts; ++part) {
      std::string& bytes = records[static_cast<size_t>(part)];
      if (bytes.empty()) continue;
      const auto file = config_.files->open_append(part_path(part));
      file->append(bytes);
      file->close();
      bytes = std::string();
    }
  }
  ++num_spills_;
}

void PieceCounter::read_part(int64_t part, PieceTable& table) {
  table.clear();
  const std::string path = part_path(part);
  const int64_t size = config_.files->info(path).exists ? config_.files->info(path).bytes : 0;
  std::string bytes;
  size_t at = 0;
  for (int64_t offset = 0; offset < size;) {
    bytes.erase(0, at);
    at = 0;
    bytes += config_.files->read_range(path, offset, kBlockBytes);
    offset += kBlockBytes;
    RecordHead head;
    while (bytes.size() - at >= sizeof head) {
      std::memcpy(&head, bytes.data() + at, sizeof head);
      if (bytes.size() - at - sizeof head < head.bytes) break;
      table.add(std::string_view(bytes).substr(at + sizeof head, head.bytes), head.count);
      at += sizeof head + head.bytes;
    }
  }
  FATHOM_CHECK_EQ(at, bytes.size());
}

PieceCounter::Totals PieceCounter::finish(
    const std::function<void(std::string_view, int64_t)>& visit) {
  Totals totals;
  for (const PerThread& thread : per_thread_) totals.bytes += thread.bytes;
  PieceTable& first = per_thread_[0].table;
  if (num_spills_ > 0) {
    spill();
  } else {
    for (size_t t = 1; t < per_thread_.size(); ++t) {
      per_thread_[t].table.for_each(
          [&](std::string_view piece, int64_t count, uint64_t) { first.add(piece, count); });
      per_thread_[t].table.clear();
    }
  }
  totals.spills = num_spills_;
  const int64_t num_parts = num_spills_ > 0 ? kNumParts : 1;
  // First the memory that the pieces of each count would take, then the pieces.
  constexpr size_t kCounts = 1000;
  std::vector<int64_t> bytes_of_count(kCounts + 1), pieces_of_count(kCounts + 1);
  for (int64_t part = 0; part < num_parts; ++part) {
    if (num_spills_ > 0) read_part(part, first);
    first.for_each([&](std::string_view piece, int64_t count, uint64_t) {
      const size_t c = std::min(static_cast<size_t>(count), kCounts);
      bytes_of_count[c] += training_bytes(piece.size());
      ++pieces_of_count[c];
    });
  }
  int64_t bytes = 0;
  for (const int64_t b : bytes_of_count) bytes += b;
  while (bytes > config_.piece_bytes && config_.files != nullptr &&
         totals.min_count < static_cast<int64_t>(kCounts)) {
    const auto dropped = static_cast<size_t>(totals.min_count++);
    bytes -= bytes_of_count[dropped];
    totals.pieces_left_out += pieces_of_count[dropped];
  }
  for (int64_t part = 0; part < num_parts; ++part) {
    if (num_spills_ > 0) read_part(part, first);
    first.for_each([&](std::string_view piece, int64_t count, uint64_t) {
      if (count < totals.min_count) return;
      ++totals.pieces;
      visit(piece, count);
    });
  }
  first.clear();
  return totals;
}

}  // namespace fathom
