#include "data/loader/packing.h"

#include <map>

#include "core/random.h"

namespace fathom {
namespace {

std::vector<Piece> pieces_of(const std::vector<int64_t>& lengths) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < lengths.size(); ++i)
    pieces.push_back({static_cast<int64_t>(i), 0, lengths[i]});
  return pieces;
}

// Empty when every token of every piece is in exactly one row and no row is too long.
std::string what_is_wrong(const std::vector<int64_t>& lengths, const std::vector<PackedRow>& rows,
                          int64_t row_length) {
  std::vector<std::vector<int>> seen;
  for (const int64_t length : lengths) seen.emplace_back(static_cast<size_t>(length), 0);
  for (const PackedRow& row : rows) {
    if (row.empty() || row_tokens(row) > row_length)
      return "a row of " + std::to_string(row_tokens(row));
    for (const Piece& piece : row) {
      if (piece.count <= 0) return "an empty piece";
      for (int64_t t = piece.begin; t < piece.begin + piece.count; ++t)
        ++seen.at(static_cast<size_t>(piece.item)).at(static_cast<size_t>(t));
    }
  }
  for (const auto& item : seen) {
    for (const int count : item) {
      if (count != 1) return "a token in " + std::to_string(count) + " rows";
    }
  }
  return "";
}

TEST(PackingTest, EveryTokenIsInOneRowAndRowsAreFull) {
  const Random random(1, RandomPurpose::kTest);
  uint64_t draw = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t row_length = 1 + static_cast<int64_t>(random.below(draw++, 40));
    std::vector<int64_t> lengths(random.below(draw++, 60));
    for (int64_t& length : lengths)
      length = static_cast<int64_t>(random.below(draw++, trial % 2 == 0 ? 30 : 200));
    for (const bool fill : {false, true}) {
      const auto rows = pack_rows(pieces_of(lengths), row_length, fill);
      EXPECT_EQ(what_is_wrong(lengths, rows, row_length), "") << trial;
      for (size_t i = 0; fill && i + 1 < rows.size(); ++i)
        EXPECT_EQ(row_tokens(rows[i]), row_length);
      if (!fill) {
        // Only pieces longer than a row are cut.
        std::map<int64_t, int> parts;
        for (const PackedRow& row : rows) {
          for (const Piece& piece : row) ++parts[piece.item];
        }
        for (const auto& [item, count] : parts) {
          if (lengths[static_cast<size_t>(item)] <= row_length) {
            EXPECT_EQ(count, 1);
          }
        }
      }
    }
  }
}

TEST(PackingTest, BestFitUsesFewerRowsThanItsBound) {
  // Best-fit-decreasing needs at most 11/9 OPT + 1 rows, and OPT is at least the sum over the
  // length.
  const Random random(2, RandomPurpose::kTest);
  std::vector<int64_t> lengths(500);
  int64_t total = 0;
  for (size_t i = 0; i < lengths.size(); ++i)
    total += lengths[i] = 1 + static_cast<int64_t>(random.below(i, 64));
  const auto rows = pack_rows(pieces_of(lengths), 64, false);
  EXPECT_LE(static_cast<double>(rows.size()), 11.0 / 9 * static_cast<double>(total) / 64 + 1);
}

TEST(PackingTest, FillCutsAtMostOnePieceForEachRow) {
  const Random random(3, RandomPurpose::kTest);
  std::vector<int64_t> lengths(300);
  for (size_t i = 0; i < lengths.size(); ++i)
    lengths[i] = 1 + static_cast<int64_t>(random.below(i, 50));
  const auto rows = pack_rows(pieces_of(lengths), 64, true);
  int64_t num_pieces = 0;
  for (const PackedRow& row : rows) num_pieces += static_cast<int64_t>(row.size());
  EXPECT_LE(num_pieces - 300, static_cast<int64_t>(rows.size()));
}

TEST(PackingTest, TheCheckSeesADoubleAndAMissingToken) {
  EXPECT_NE(what_is_wrong({3}, {{{0, 0, 2}}}, 4), "");
  EXPECT_NE(what_is_wrong({3}, {{{0, 0, 2}}, {{0, 1, 2}}}, 4), "");
  EXPECT_NE(what_is_wrong({5}, {{{0, 0, 5}}}, 4), "");
}

TEST(PackingTest, NothingGivesNothing) {
  EXPECT_TRUE(pack_rows({}, 8, true).empty());
  EXPECT_TRUE(pack_rows(pieces_of({0, 0}), 8, false).empty());
}

}  // namespace
}  // namespace fathom
