// A reply's tokens as what a client is told: thoughts, text, calls of tools. Thoughts and calls are
// told apart by the ids of the special tokens, never by how text looks; special tokens never reach
// the text. Stop strings are looked for in the text of the answer, across tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "infer/stop_strings.h"
#include "serve/call_reader.h"

namespace fathom::serve {

struct Piece {
  enum Kind { kThought, kText, kToolCall, kToolArguments } kind = kText;
  std::string text;       // of a call: its arguments, or their beginning, which kToolArguments go on
  std::string tool_name;  // of a call
};

struct OutputReaderOptions {
  bool splits_thoughts = true;     // else what stands between <think> and </think> is text
  bool begins_in_thought = false;  // the prompt ended with <think>
  bool reads_tool_calls = false;   // else a call is text
  bool streams_tool_calls = false;  // told as they come, not when they are whole
  std::vector<std::string> stop;
};

class OutputReader {
 public:
  OutputReader(const Tokenizer& tokenizer, const OutputReaderOptions& options);

  // Appends what the token sets free. False: a stop string has been found, and the reply ends.
  bool push(TokenId id, std::vector<Piece>& pieces);
  // The end of the reply: what was held back. A thought that never ended stays a thought; a call
  // that never ended is text, so that nothing is lost and no call is half a call, unless it has been
  // told as one already.
  void finish(std::vector<Piece>& pieces);

  bool in_thought() const { return state_ == State::kThought; }
  bool stopped() const { return stopped_; }
  int32_t stop_idx() const { return text_.stop_idx(); }  // of the stop strings; -1: none
  int64_t num_thought_tokens() const { return num_thought_tokens_; }
  int64_t num_tool_calls() const { return num_tool_calls_; }

 private:
  enum class State { kThought, kText, kCalls, kCall };
  void add_text(Piece::Kind kind, std::string_view bytes, std::vector<Piece>& pieces);
  void leave_thought(std::vector<Piece>& pieces);
  void begin_call(std::vector<Piece>& pieces);
  void add_arguments(std::vector<Piece>& pieces);

  Tokenizer tokenizer_;
  OutputReaderOptions options_;
  State state_;
  StopMatcher thought_, text_;
  CallReader call_;
  bool call_begun_ = false;
  std::string raw_call_;
  bool stopped_ = false, strip_newlines_;
  bool at_start_ = true;
  int64_t num_thought_tokens_ = 0, num_tool_calls_ = 0;
};

}  // namespace fathom::serve
