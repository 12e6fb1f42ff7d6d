#include "data/tokenizer/line_batches.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "core/error.h"

namespace fathom {
namespace {

struct Pipe {
  Pipe() { EXPECT_EQ(pipe(ends), 0); }
  ~Pipe() {
    close(ends[0]);
    close_input();
  }
  void write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t put = ::write(ends[1], text.data(), text.size());
      ASSERT_GT(put, 0);
      text.remove_prefix(static_cast<size_t>(put));
    }
  }
  void close_input() {
    if (ends[1] >= 0) close(ends[1]);
    ends[1] = -1;
  }
  int ends[2];
};

std::string upper(std::string_view line) {
  std::string answer(line);
  for (char& c : answer) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return answer;
}

TEST(LineBatches, AnswersComeInOrderWhateverTheThreads) {
  std::string text, expected;
  for (int i = 0; i < 5000; ++i) {
    const std::string line = "line" + std::string(static_cast<size_t>(i * 37 % 200), 'x') +
                             (i % 7 == 0 ? "\r" : "") + std::to_string(i);
    text += line + "\n";
    expected += std::to_string(i + 1) + ":" + upper(line) + "\n";
  }
  text += "\n\nno end";
  expected += "5001:\n5002:\n5003:NO END\n";
  for (const int num_threads : {1, 3}) {
    for (const int64_t max_batch : {1, 1000, 1 << 20}) {
      Pipe pipe;
      std::thread writer([&] {
        pipe.write(text);
        pipe.close_input();
      });
      LineBatches input(pipe.ends[0], "pipe", max_batch);
      ThreadPool threads(num_threads);
      std::string answers;
      convert_lines(
          input, &threads,
          [](std::string_view line, int64_t number, int, std::string& answer) {
            answer += std::to_string(number) + ":" + upper(line);
          },
          [&](std::string_view part) { answers += part; });
      writer.join();
      EXPECT_TRUE(answers == expected) << num_threads << " " << max_batch;
    }
  }
}

TEST(LineBatches, ALineIsAnsweredBeforeTheNextIsWritten) {
  Pipe pipe;
  LineBatches input(pipe.ends[0], "pipe");
  std::vector<std::string_view> lines;
  for (int64_t i = 1; i < 4; ++i) {
    pipe.write("question\n");
    ASSERT_TRUE(input.next(lines));
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_EQ(lines[0], "question");
    EXPECT_EQ(input.first_line(), i);
  }
  pipe.write("half");
  pipe.close_input();
  ASSERT_TRUE(input.next(lines));
  EXPECT_EQ(lines[0], "half");
  EXPECT_FALSE(input.next(lines));
  EXPECT_FALSE(input.next(lines));
}

TEST(LineBatches, AnErrorComesAfterTheAnswersBeforeIt) {
  Pipe pipe;
  std::string text;
  for (int i = 0; i < 300; ++i) text += std::to_string(i) + "\n";
  pipe.write(text);
  pipe.close_input();
  LineBatches input(pipe.ends[0], "pipe");
  ThreadPool threads(2);
  int64_t num_written = 0;
  EXPECT_THROW(convert_lines(
                   input, &threads,
                   [](std::string_view line, int64_t number, int, std::string& answer) {
                     answer += line;
                     if (number % 100 == 0)
                       throw_bad_input({"line", "", std::string(line), "", ""});
                   },
                   [&](std::string_view part) {
                     num_written += std::count(part.begin(), part.end(), '\n');
                   }),
               Error);
  EXPECT_EQ(num_written, 99);
  LineBatches closed(-1, "nothing");
  std::vector<std::string_view> lines;
  EXPECT_THROW(closed.next(lines), Error);
}

}  // namespace
}  // namespace fathom
