#include "data/text/input_parts.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data/text/text_test_util.h"

namespace fathom {
namespace {

struct Line {
  int64_t input, line;
  std::string text;
  bool operator==(const Line&) const = default;
};

void read_part(const std::vector<InputFile>& inputs, const InputPart& part, int64_t segment_bytes,
               std::vector<Line>& lines) {
  DocumentReader reader(local_file_system(), inputs, segment_bytes, 500, part.begin, "text",
                        part.end);
  for (RawSegment segment; reader.next(segment);) {
    for (const RawDocument& d : segment.documents)
      lines.push_back({d.input_idx, d.line, d.is_lost ? "lost" : std::string(segment.text(d))});
  }
}

class InputPartsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string lines;
    for (size_t i = 0; i < 300; ++i)
      lines += i % 17 == 0 ? "\n" : fmt::format("{} {}\n", i, repeated(i * 31 % 97, 'x'));
    // The same with neither a newline at the end nor one for a long time: longer than a part, and
    // than what a document may have.
    const std::string hostile = "\n\n" + lines.substr(0, 3000) + repeated(2500, 'l') + "\n" +
                                lines.substr(0, 1000) + "{\"an\": \"end\"}";
    inputs_ = {{folder_.write("a.jsonl", lines), true},
               {folder_.write("b.txt", lines), false},
               {folder_.write("c.jsonl.gz", pack_gzip(lines)), true},
               {folder_.write("d.jsonl", hostile), true},
               {folder_.write("e.jsonl", ""), true},
               {folder_.write("f.jsonl", "one\n"), true},
               {folder_.write("g.jsonl", repeated(4000, '\n')), true},
               {folder_.write("h.jsonl", "\xEF\xBB\xBF" + lines), true}};
  }
  TextFolder folder_{"parts"};
  std::vector<InputFile> inputs_;
};

TEST_F(InputPartsTest, PartsHoldEveryLineOnceUnderItsNumber) {
  std::vector<Line> whole;
  const ReadPosition end{static_cast<int64_t>(inputs_.size()), 0, 1};
  read_part(inputs_, {{}, end, 0}, 1000, whole);
  ASSERT_GT(whole.size(), 900u);
  for (const int64_t part_bytes : {1, 7, 100, 997, 1 << 13, 1 << 20}) {
    std::vector<std::vector<InputPart>> of_rank(3);
    TestTeam::run(3, [&](const Team& team) {
      of_rank[static_cast<size_t>(team.rank)] =
          cut_inputs(local_file_system(), inputs_, part_bytes, team);
    });
    const std::vector<InputPart>& parts = of_rank[0];
    EXPECT_EQ(of_rank[1], parts);
    EXPECT_EQ(of_rank[2], parts);
    EXPECT_EQ(parts_from_text(parts_to_text(parts), "text"), parts);
    if (part_bytes == 997) {
      EXPECT_GT(parts.size(), 30u);
    }
    int64_t bytes = 0, expected_bytes = 0;
    for (const InputFile& input : inputs_)
      expected_bytes += local_file_system().info(input.path).bytes;
    std::vector<Line> lines;
    for (size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(parts[i].begin, i == 0 ? ReadPosition{} : parts[i - 1].end);
      bytes += parts[i].bytes;
      read_part(inputs_, parts[i], part_bytes == 7 ? 1 : 300, lines);
    }
    EXPECT_EQ(parts.back().end, end);
    EXPECT_EQ(bytes, expected_bytes);
    // Whole texts are one document each, however they are read.
    ASSERT_EQ(lines.size(), whole.size()) << part_bytes;
    EXPECT_EQ(lines, whole) << part_bytes;
  }
}

TEST_F(InputPartsTest, OneProcessKeepsFilesWhole) {
  const std::vector<InputPart> parts = cut_inputs(local_file_system(), inputs_, 100, {});
  for (const InputPart& part : parts) EXPECT_EQ(part.end.offset, 0);
  EXPECT_GE(parts.size(), 5u);
}

TEST_F(InputPartsTest, LoadsAreEven) {
  std::vector<InputPart> parts;
  for (const int64_t bytes : {5, 90, 40, 30, 20, 10, 0, 0}) parts.push_back({{}, {}, bytes});
  const std::vector<int> owners = assign_parts(parts, 2);
  std::vector<int64_t> load(2, 0);
  for (size_t i = 0; i < parts.size(); ++i) load[static_cast<size_t>(owners[i])] += parts[i].bytes;
  EXPECT_LE(std::abs(load[0] - load[1]), 15);
  EXPECT_EQ(std::ranges::count(assign_parts(parts, 1), 0), 8);
}

}  // namespace
}  // namespace fathom
