#include "serve/output_reader.h"

#include "data/tokenizer/bpe_trainer.h"

namespace fathom::serve {
namespace {

Tokenizer tiny_tokenizer() {
  const std::vector<std::string_view> documents = {"the cat sat on the mat", "数学 数学"};
  BpeTrainConfig config;
  config.vocab_size = 300;
  return train_bpe(documents, config);
}

struct Reading {
  std::string thought, text;
  std::vector<std::pair<std::string, std::string>> calls;
  int64_t thought_tokens = 0, num_parts = 0;
  bool stopped = false;
};

Reading read(const Tokenizer& tokenizer, const std::string& reply, OutputReaderOptions options) {
  OutputReader reader(tokenizer, options);
  std::vector<Piece> pieces;
  Reading reading;
  for (const TokenId id : tokenizer.encode(reply, {.allow_special = true})) {
    if (!reader.push(id, pieces)) {
      reading.stopped = true;
      break;
    }
  }
  reader.finish(pieces);
  for (const Piece& piece : pieces) {
    if (piece.kind == Piece::kThought) reading.thought += piece.text;
    if (piece.kind == Piece::kText) reading.text += piece.text;
    if (piece.kind == Piece::kToolCall) reading.calls.emplace_back(piece.tool_name, piece.text);
    if (piece.kind == Piece::kToolArguments) {
      reading.calls.back().second += piece.text;
      ++reading.num_parts;
    }
  }
  reading.thought_tokens = reader.num_thought_tokens();
  return reading;
}

TEST(OutputReader, SplitsThoughtsByIdsOfTokens) {
  const Tokenizer tokenizer = tiny_tokenizer();
  Reading r = read(tokenizer, "\nthe cat</think>\n\nthe mat", {.begins_in_thought = true});
  EXPECT_EQ(r.thought, "the cat");
  EXPECT_EQ(r.text, "the mat");
  EXPECT_GT(r.thought_tokens, 2);
  // The model opens it itself.
  r = read(tokenizer, "<think>\nthe cat</think>the mat", {});
  EXPECT_EQ(r.thought, "the cat");
  EXPECT_EQ(r.text, "the mat");
  // No thought was open: the end of one is no text, and nothing is taken for a thought.
  r = read(tokenizer, "the cat</think>sat", {});
  EXPECT_EQ(r.thought, "");
  EXPECT_EQ(r.text, tokenizer.is_special(tokenizer.special().think_end) ? "the catsat"
                                                                         : "the cat</think>sat");
  // One that never ends stays a thought.
  r = read(tokenizer, "the cat sat", {.begins_in_thought = true});
  EXPECT_EQ(r.thought, "the cat sat");
  EXPECT_EQ(r.text, "");
}

// The tags typed as text are text: the ids decide, not how it looks.
TEST(OutputReader, TypedTagsAreText) {
  const Tokenizer tokenizer = tiny_tokenizer();
  OutputReader reader(tokenizer, {.begins_in_thought = true});
  std::vector<Piece> pieces;
  for (const TokenId id : tokenizer.encode("a</think>b")) reader.push(id, pieces);
  reader.finish(pieces);
  std::string thought;
  for (const Piece& piece : pieces) {
    EXPECT_EQ(piece.kind, Piece::kThought);
    thought += piece.text;
  }
  EXPECT_EQ(thought, "a</think>b");
}

TEST(OutputReader, ReadsCallsOfBothForms) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const std::string v3 =
      "hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>sit\n```json\n{\"on\": "
      "\"mat\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>eat\n```json\n{}\n"
      "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  const std::string v31 =
      "hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>sit<｜tool▁sep｜>{\"on\": \"mat\"}<｜tool▁call▁end｜>"
      "<｜tool▁call▁begin｜>eat<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  for (const std::string& reply : {v3, v31}) {
    const Reading r = read(tokenizer, reply, {.reads_tool_calls = true});
    EXPECT_EQ(r.text, "hm");
    ASSERT_EQ(r.calls.size(), 2u);
    EXPECT_EQ(r.calls[0], (std::pair<std::string, std::string>("sit", R"({"on": "mat"})")));
    EXPECT_EQ(r.calls[1], (std::pair<std::string, std::string>("eat", "{}")));
  }
  // Half a call is no call, and nothing is lost.
  const Reading half = read(tokenizer, v31.substr(0, v31.find("\"mat\"")), {.reads_tool_calls = true});
  EXPECT_TRUE(half.calls.empty());
  EXPECT_EQ(half.text, "hmsit{\"on\": ");
}

// Told as they come, calls are what they are when they are whole, whatever stands around the
// arguments and within them.
TEST(OutputReader, StreamedCallsAreTheWholeOnes) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const std::string begin = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", sep = "<｜tool▁sep｜>",
                    end = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  const std::pair<std::string, std::string> cases[] = {
      {"function" + sep + "f\n```json\n{\"a\": \"`b` ``` \\n\"}\n```", R"({"a": "`b` ``` \n"})"},
      {" function \n" + sep + " f \n\n ```json {\"数学\":\t[ ]} ``` \n", "{\"数学\":\t[ ]}"},
      {"function" + sep + "f\n{} ``", "{} ``"},
      {"function" + sep + "f", ""},
      {"function" + sep + "f\n```json", ""},
      {"f" + sep + " {\"a\" : 1 }  \n", "{\"a\" : 1 }"},
      {"f" + sep + "{}```", "{}```"},
      {"f", ""},
      {"f" + sep, ""},
  };
  for (const auto& [call, arguments] : cases) {
    const Reading whole = read(tokenizer, begin + call + end, {.reads_tool_calls = true});
    const Reading streamed = read(tokenizer, begin + call + end,
                                  {.reads_tool_calls = true, .streams_tool_calls = true});
    ASSERT_EQ(whole.calls.size(), 1u) << call;
    EXPECT_EQ(whole.calls[0].first, "f") << call;
    EXPECT_EQ(whole.calls[0].second, arguments) << call;
    EXPECT_EQ(whole.num_parts, 0);
    EXPECT_EQ(streamed.calls, whole.calls) << call;
    if (arguments.size() > 10) {
      EXPECT_GT(streamed.num_parts, 3);
    }
  }
  // Half a call has been told already, so it stays one.
  const Reading half = read(tokenizer, begin + "f" + sep + "{\"a\": ",
                            {.reads_tool_calls = true, .streams_tool_calls = true});
  EXPECT_EQ(half.calls.at(0).second, "{\"a\":");
  EXPECT_EQ(half.text, "");
}

TEST(OutputReader, StopsAcrossTokensAndNotInThoughts) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const Reading r = read(tokenizer, "cat s</think>the cat sat",
                         {.begins_in_thought = true, .stop = {"t s"}});
  EXPECT_TRUE(r.stopped);
  EXPECT_EQ(r.thought, "cat s");
  EXPECT_EQ(r.text, "the ca");
}

// Every cut of a character over tokens gives whole characters, and the same text.
TEST(OutputReader, NeverSplitsCharacters) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const std::string text = "é数😀x";
  OutputReader reader(tokenizer, {});
  std::vector<Piece> pieces;
  for (const char c : text) {
    const TokenId id = tokenizer.encode(std::string(1, c))[0];  // each byte is a token
    reader.push(id, pieces);
  }
  reader.finish(pieces);
  std::string whole;
  for (const Piece& piece : pieces) {
    EXPECT_NE(static_cast<unsigned char>(piece.text[0]) & 0xC0, 0x80);
    whole += piece.text;
  }
  EXPECT_EQ(whole, text);
}

}  // namespace
}  // namespace fathom::serve
