// Documents into rows of one length: best-fit-decreasing, which cuts fewer documents than laying
// them end to end and cutting (Ding et al. 2024). Pure functions of lengths.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom {

// Tokens [begin, begin + count) of an item.
struct Piece {
  int64_t item = 0;
  int64_t begin = 0;
  int64_t count = 0;
};

using PackedRow = std::vector<Piece>;

// Rows of at most row_length tokens that hold every token of every piece once. Pieces longer than a
// row are cut. With `fill`, all rows but at most the last are full: what the best fit leaves open
// is closed by cutting the pieces of the emptiest rows. Without it, only pieces longer than a row
// are cut.
std::vector<PackedRow> pack_rows(std::span<const Piece> pieces, int64_t row_length, bool fill);

int64_t row_tokens(const PackedRow& row);

}  // namespace fathom
