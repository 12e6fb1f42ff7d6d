// One call of a tool as its tokens come: the name as soon as it is known, and the arguments piece by
// piece, without what DeepSeek's forms put around them.
//
//   V3, R1:  function, separator, name, newline, ```json, newline, arguments, newline, ```
//   V3.1:    name, separator, arguments
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "infer/stop_strings.h"

namespace fathom::serve {

class CallReader {
 public:
  CallReader() : characters_({}) {}

  void push(std::string_view bytes);
  void separator();
  // The end of the call: what was held back as perhaps belonging to its end.
  void finish();

  bool has_name() const { return state_ != State::kHead && state_ != State::kLine; }
  const std::string& name() const { return name_; }
  // The arguments since the last time; whole characters.
  std::string take_arguments() { return std::exchange(arguments_, {}); }

 private:
  enum class State { kHead, kLine, kFence, kBody };
  void read(std::string text);

  State state_ = State::kHead;
  bool is_fenced_form_ = false, at_start_ = true;
  std::string name_, held_, arguments_;
  StopMatcher characters_;
};

}  // namespace fathom::serve
