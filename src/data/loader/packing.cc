#include "data/loader/packing.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"

namespace fathom {

int64_t row_tokens(const PackedRow& row) {
  int64_t tokens = 0;
  for (const Piece& piece : row) tokens += piece.count;
  return tokens;
}

std::vector<PackedRow> pack_rows(std::span<const Piece> pieces, int64_t row_length, bool fill) {
  FATHOM_CHECK_GT(row_length, 0);
  std::vector<PackedRow> full;
  std::vector<Piece> rest;
  for (Piece piece : pieces) {
    while (piece.count >= row_length) {
      full.push_back({{piece.item, piece.begin, row_length}});
      piece.begin += row_length;
      piece.count -= row_length;
    }
    if (piece.count > 0) rest.push_back(piece);
  }
  // Stable: equal lengths keep their (random) order, so the result is a function of the input
  // alone.
  std::stable_sort(rest.begin(), rest.end(),
                   [](const Piece& a, const Piece& b) { return a.count > b.count; });

  std::vector<PackedRow> open;
  std::set<std::pair<int64_t, size_t>> space;  // (free tokens, row)
  for (const Piece& piece : rest) {
    const auto best = space.lower_bound({piece.count, 0});
    size_t row = open.size();
    int64_t free = row_length;
    if (best == space.end()) {
      open.emplace_back();
    } else {
      std::tie(free, row) = *best;
      space.erase(best);
    }
    open[row].push_back(piece);
    if (free > piece.count) space.insert({free - piece.count, row});
  }
  if (fill) {
    std::vector<std::pair<int64_t, size_t>> gaps(space.begin(), space.end());  // smallest gap first
    size_t receiver = 0, giver = gaps.empty() ? 0 : gaps.size() - 1;
    while (receiver < giver) {
      auto& [gap, row] = gaps[receiver];
      if (gap == 0) {
        ++receiver;
        continue;
      }
      PackedRow& from = open[gaps[giver].second];
      if (from.empty()) {
        --giver;
        continue;
      }
      // The front of a document ends this row; its rest stays where it is.
      Piece& source = from.back();
      const int64_t moved = std::min(gap, source.count);
      open[row].push_back({source.item, source.begin, moved});
      source.begin += moved;
      source.count -= moved;
      gap -= moved;
      gaps[giver].first += moved;
      if (source.count == 0) from.pop_back();
    }
    std::erase_if(open, [](const PackedRow& row) { return row.empty(); });
    // The one that stays short comes last.
    std::stable_partition(open.begin(), open.end(),
                          [&](const PackedRow& row) { return row_tokens(row) == row_length; });
  }
  full.insert(full.end(), std::make_move_iterator(open.begin()),
              std::make_move_iterator(open.end()));
  return full;
}

}  // namespace fathom
