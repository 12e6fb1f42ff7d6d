// How often each distinct piece of a text of any size occurs: the part of training that reads
// everything. Each thread counts into a table of its own; when the tables outgrow their share of
// the memory they are written out, by hash, to a few files, and added up file by file at the end.
// Sums do not depend on who counted what, nor on when the tables were written.
//
// The counts are exact whatever the memory. What training then holds is every distinct piece; if
// those alone are more than the memory, the rarest are left out, all below the lowest count that
// fits, and the report says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "runtime/thread_pool.h"

namespace fathom {

// An open-addressing table from pieces to counts that owns the bytes.
class PieceTable {
 public:
  PieceTable();
  void add(std::string_view piece, int64_t count);
  void clear();  // gives the memory back
  int64_t size() const { return static_cast<int64_t>(size_); }
  int64_t num_bytes() const;
  template <typename Visit>  // visit(piece, count, hash), in no particular order
  void for_each(Visit&& visit) const {
    for (const Slot& slot : slots_) {
      if (slot.count > 0)
        visit(std::string_view(arena_.data() + slot.begin, slot.bytes), slot.count, slot.hash);
    }
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    int64_t count = 0;  // 0: empty
    uint64_t begin = 0;
    uint64_t bytes = 0;
  };
  std::vector<Slot> slots_;
  std::string arena_;
  uint64_t size_ = 0;
};

struct PieceCounterConfig {
  int64_t table_bytes = int64_t{4} << 30;  // of the tables while counting
  int64_t piece_bytes = int64_t{4} << 30;  // of what training holds of the pieces, at the end
  FileSystem* files = nullptr;             // null: never written out, all in memory
  std::string spill_folder;                // made when needed, removed at the end
};

class PieceCounter {
 public:
  // Longer pieces (a run of one letter, base64) are counted in parts of this size: a merge takes
  // time in proportion to the pieces that it stands in.
  static constexpr size_t kMaxPieceBytes = 4096;

  PieceCounter(const PreTokenizer& pre_tokenizer, PieceCounterConfig config, ThreadPool* threads);
  ~PieceCounter();
  PieceCounter(const PieceCounter&) = delete;
  PieceCounter& operator=(const PieceCounter&) = delete;

  // Counts the documents document(i, buffer) for i in [0, count), over the threads; the view may
  // point into `buffer`, which is the thread's, or elsewhere.
  void add(int64_t count,
           const std::function<std::string_view(int64_t i, std::string& buffer)>& document);

  struct Totals {
    int64_t bytes = 0;            // of text
    int64_t pieces = 0;           // distinct
    int64_t spills = 0;           // times that the tables were written out
    int64_t min_count = 1;        // pieces that occur less often were left out …
    int64_t pieces_left_out = 0;  // … so many distinct ones
  };
  // visit(piece, count) for each distinct piece, once, in no particular order; ends the counting.
  Totals finish(const std::function<void(std::string_view, int64_t)>& visit);

 private:
  static constexpr int64_t kNumParts = 64;
  struct PerThread {
    PieceTable table;
    std::vector<int64_t> ends;
    std::string buffer;
    int64_t bytes = 0;
  };
  std::string part_path(int64_t part) const;
  void spill();
  void read_part(int64_t part, PieceTable& table);

  const PreTokenizer& pre_tokenizer_;
  PieceCounterConfig config_;
  ThreadPool* threads_;
  std::vector<PerThread> per_thread_;
  int64_t num_spills_ = 0;
};

}  // namespace fathom
