#include "data/text/document_reader.h"

#include <gtest/gtest.h>

#include "data/text/parquet_stream.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

struct Read {
  int64_t input, line;
  std::string text;  // or "lost" and the length
  bool operator==(const Read&) const = default;
};

struct Everything {
  std::vector<Read> documents;
  std::vector<std::string> problems;  // reason:line
  std::vector<ReadPosition> ends;
  int64_t longest_segment = 0;
};

Everything read_all(const std::vector<InputFile>& inputs, int64_t segment_bytes,
                    int64_t max_document_bytes, const ReadPosition& from = {}) {
  DocumentReader reader(local_file_system(), inputs, segment_bytes, max_document_bytes, from);
  Everything all;
  RawSegment segment;
  while (reader.next(segment)) {
    for (const RawDocument& d : segment.documents) {
      all.documents.push_back(
          {d.input_idx, d.line,
           d.is_lost ? fmt::format("lost {}", d.num_bytes) : std::string(segment.text(d))});
    }
    for (const ReadProblem& p : segment.problems)
      all.problems.push_back(fmt::format("{}:{}", p.reason, p.line));
    all.ends.push_back(segment.end);
    all.longest_segment = std::max(all.longest_segment, static_cast<int64_t>(segment.bytes.size()));
  }
  return all;
}

class DocumentReaderTest : public ::testing::Test {
 protected:
  InputFile jsonl(const std::string& name, std::string_view contents) {
    return {folder_.write(name, contents), true};
  }
  InputFile text(const std::string& name, std::string_view contents) {
    return {folder_.write(name, contents), false};
  }
  TextFolder folder_{"reader"};
};

TEST_F(DocumentReaderTest, LinesAndFilesAreDocuments) {
  const std::vector<InputFile> inputs = {
      jsonl("a.jsonl", "one\n\n  \t\r\ntwo\r\nthree"), text("b.txt", "whole\n\nfile\n"),
      jsonl("empty.jsonl", ""), text("empty.txt", ""), jsonl("c.jsonl", "\xEF\xBB\xBFmarked\n")};
  const std::vector<Read> expected = {
      {0, 1, "one"}, {0, 4, "two\r"}, {0, 5, "three"}, {1, 1, "whole\n\nfile\n"}, {4, 1, "marked"}};
  for (const int64_t segment_bytes : {1, 2, 3, 5, 7, 10, 16, 1000}) {
    const Everything all = read_all(inputs, segment_bytes, 100);
    EXPECT_EQ(all.documents, expected) << segment_bytes;
    EXPECT_EQ(all.problems, (std::vector<std::string>{"bom:1"}));
  }
}

TEST_F(DocumentReaderTest, GoingOnBehindAnySegmentReadsTheRest) {
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += repeated(static_cast<size_t>(i * 7 % 31), 'x') + "\n";
  lines += repeated(90, 'l') + "\nlast";  // one too long
  const std::vector<InputFile> inputs = {jsonl("a.jsonl", lines), text("b.txt", lines),
                                         jsonl("z.jsonl.zst", pack_zstd(lines)),
                                         jsonl("g.jsonl.gz", pack_gzip(lines))};
  const Everything whole = read_all(inputs, 64, 60);
  EXPECT_GT(whole.ends.size(), 50u);
  EXPECT_TRUE(std::any_of(whole.documents.begin(), whole.documents.end(),
                          [](const Read& read) { return read.text == "lost 90"; }));
  for (size_t i = 0; i < whole.ends.size(); ++i) {
    const Everything rest = read_all(inputs, 64, 60, whole.ends[i]);
    ASSERT_EQ(rest.ends, std::vector<ReadPosition>(whole.ends.begin() + static_cast<int64_t>(i) + 1,
                                                   whole.ends.end()));
    ASSERT_TRUE(
        std::equal(rest.documents.rbegin(), rest.documents.rend(), whole.documents.rbegin()));
  }
  // Packed files give the documents of plain ones.
  std::vector<std::string> plain, zstd, gzip;
  for (const Read& read : whole.documents) {
    if (read.input == 0) plain.push_back(read.text);
    if (read.input == 2) zstd.push_back(read.text);
    if (read.input == 3) gzip.push_back(read.text);
  }
  EXPECT_EQ(zstd, plain);
  EXPECT_EQ(gzip, plain);
}

TEST_F(DocumentReaderTest, NothingOfAPlainFileIsLostButLinesThatAreTooLong) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "line " + std::to_string(i) + "\n";
  const Everything all = read_all({text("a.txt", lines)}, 1000, 50);
  std::string together;
  for (const Read& read : all.documents) {
    together += read.text;
    EXPECT_LE(read.text.size(), 51u);
    EXPECT_EQ(read.text.rfind("line " + std::to_string(read.line - 1) + "\n", 0), 0u);
  }
  EXPECT_EQ(together, lines);
}

TEST_F(DocumentReaderTest, ALineThatIsTooLongIsOneEvenIfItIsBlank) {
  for (const int64_t segment_bytes : {1, 13, 1000}) {
    const Everything all =
        read_all({jsonl("a.jsonl", repeated(200, ' ') + "\n \nx\n")}, segment_bytes, 100);
    EXPECT_EQ(all.documents, (std::vector<Read>{{0, 1, "lost 200"}, {0, 3, "x"}})) << segment_bytes;
  }
}

TEST_F(DocumentReaderTest, ALineOfAnyLengthNeedsNoMemory) {
  // 40 MB in one line, of which a limit of 1 MB must not let more than a few into memory.
  std::string line(40 << 20, 'a');
  line += "\nshort\n";
  for (const bool is_jsonl : {false, true}) {
    const InputFile input{folder_.write("long", line), is_jsonl};
    const Everything all = read_all({input}, 1 << 20, 1 << 20);
    ASSERT_EQ(all.documents.size(), 2u);
    EXPECT_EQ(all.documents[0].text, fmt::format("lost {}", 40 << 20));
    EXPECT_EQ(all.documents[1].text.substr(0, 5), "short");
    EXPECT_EQ(all.documents[1].line, 2);
    EXPECT_LT(all.longest_segment, 3 << 20);
  }
}

TEST_F(DocumentReaderTest, BrokenPackedFilesGiveWhatStandsBeforeAndSayWhere) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += invented_text(static_cast<uint64_t>(i), 4) + "\n";
  const std::string zstd = pack_zstd(lines), gzip = pack_gzip(lines);
  const auto check = [&](const std::string& name, const std::string& packed) {
    const Everything all =
        read_all({jsonl(name, packed), jsonl("next.jsonl", "next\n")}, 1 << 16, 1 << 16);
    EXPECT_EQ(all.problems.size(), 1u) << name;
    EXPECT_TRUE(!all.problems.empty() && all.problems[0].starts_with("unreadable:"));
    EXPECT_EQ(all.documents.back(), (Read{1, 1, "next"}));
    return static_cast<int64_t>(all.documents.size());
  };
  for (const auto& [name, packed] : {std::pair{"a.jsonl.zst", zstd}, {"a.jsonl.gz", gzip}}) {
    EXPECT_GT(check(name, packed.substr(0, packed.size() * 9 / 10)), 10000) << name;
    check(name, packed.substr(0, packed.size() - 1));
    check(name, packed.substr(0, 12));
    std::string flipped = packed;
    flipped[packed.size() / 2] = static_cast<char>(flipped[packed.size() / 2] ^ 0x55);
    if (name[8] == 'g') check(name, flipped);  // zstd frames made here carry no checksum
    // Two members are one file; something behind them is not.
    EXPECT_TRUE(read_all({jsonl(name, packed + packed)}, 1 << 16, 1 << 16).problems.empty());
    check(name, packed + "garbage");
  }
}

// What stands before the damage comes out, however few bytes are asked for at once: a zstd frame of
// one block, 19 times the letter a, whose checksum is wrong; and gzip that ends within its data.
TEST_F(DocumentReaderTest, WhatABrokenPackedFileGivesDoesNotDependOnTheSegments) {
  const std::string zstd("\x28\xb5\x2f\xfd\x04\x00\x9b\x00\x00\x61\x00\x00\x00\x01", 14);
  std::string gzip = pack_gzip(repeated(19, 'a'));
  gzip.resize(gzip.size() - 9);
  for (const auto& [name, packed] : {std::pair{"a.txt.zst", zstd}, {"a.txt.gz", gzip}}) {
    for (const int64_t limit : {1, 3, 16, 19, 100}) {
      std::string together;
      const Everything all = read_all({text(name, packed)}, limit, limit);
      for (const Read& read : all.documents) {
        if (read.text.starts_with("lost ")) {
          together.append(std::stoul(read.text.substr(5)), 'a');
        } else {
          together += read.text;
        }
      }
      EXPECT_EQ(together, repeated(19, 'a')) << name << " " << limit;
      EXPECT_EQ(all.problems, std::vector<std::string>{"unreadable:1"}) << name << " " << limit;
    }
  }
}

// tests/golden/two_row_groups.parquet was made by pyarrow (tools/make_parquet_golden.py): the
// columns id and text, five rows in groups of three, one text missing.
TEST_F(DocumentReaderTest, ParquetRowsAreLines) {
  const std::string path = std::string(FATHOM_GOLDEN_DIR) + "/two_row_groups.parquet";
  if (!reads_parquet()) {
    EXPECT_NE(error_of([&] {
                find_inputs(local_file_system(), {path});
              }).find("tools/parquet_to_jsonl.py"),
              std::string::npos);
    return;
  }
  const std::vector<InputFile> inputs = find_inputs(local_file_system(), {path});
  for (const int64_t segment_bytes : {1, 20, 1000}) {
    const Everything all = read_all(inputs, segment_bytes, 1000);
    EXPECT_TRUE(all.problems.empty());
    EXPECT_EQ(all.documents,
              (std::vector<Read>{{0, 1, "{\"text\": \"one\"}"},
                                 {0, 2, "{\"text\": \"zwei\\u000aZeilen, \\\"quoted\\\"\"}"},
                                 {0, 3, "{\"text\": null}"},
                                 {0, 4, "{\"text\": \"水深\"}"},
                                 {0, 5, "{\"text\": \"\"}"}}));
  }
  const auto problem_of = [&](const std::string& file, const std::string& column) {
    DocumentReader reader(local_file_system(), {{file, true}}, 1000, 1000, {}, column);
    RawSegment segment;
    EXPECT_TRUE(reader.next(segment));
    EXPECT_TRUE(segment.documents.empty());
    return segment.problems.empty() ? "none" : segment.problems[0].message;
  };
  EXPECT_NE(problem_of(path, "content").find("the columns id, text, expected one named content"),
            std::string::npos);
  EXPECT_NE(problem_of(path, "id").find("expected a column of text"), std::string::npos);
  const std::string bytes = local_file_system().read_all(path);
  EXPECT_NE(problem_of(folder_.write("cut.parquet", bytes.substr(0, 300)), "text").find("cut"),
            std::string::npos);
}

TEST_F(DocumentReaderTest, FindsFilesAndRefusesWhatItCannotRead) {
  local_file_system().make_directories(folder_ / "in/deeper");
  for (const char* name : {"in/b.txt", "in/a.jsonl", "in/deeper/c.jsonl.zst", "in/x.png"})
    folder_.write(name, "x");
  const std::vector<InputFile> found =
      find_inputs(local_file_system(), {folder_ / "in", folder_ / "in/x.png"});
  EXPECT_EQ(found, (std::vector<InputFile>{{folder_ / "in/a.jsonl", true},
                                           {folder_ / "in/b.txt", false},
                                           {folder_ / "in/deeper/c.jsonl.zst", true},
                                           {folder_ / "in/x.png", false}}));
  EXPECT_NE(error_of([&] {
              find_inputs(local_file_system(), {folder_ / "none"});
            }).find("no such file or folder"),
            std::string::npos);
  local_file_system().make_directories(folder_ / "bare");
  EXPECT_NE(error_of([&] { find_inputs(local_file_system(), {folder_ / "bare"}); }).find("no text"),
            std::string::npos);
}

}  // namespace
}  // namespace fathom
