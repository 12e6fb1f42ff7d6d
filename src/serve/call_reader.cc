#include "serve/call_reader.h"

#include <algorithm>

#include "data/tokenizer/unicode.h"

namespace fathom::serve {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kOpen = "```json", kClose = "```";

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace

void CallReader::push(std::string_view bytes) {
  std::string text;
  characters_.push(bytes, text);
  read(utf8_with_replacement(text));
}

void CallReader::separator() {
  if (state_ != State::kHead) return;
  std::string rest;
  characters_.finish(rest);
  held_ += utf8_with_replacement(rest);
  is_fenced_form_ = trim(held_) == "function";
  if (!is_fenced_form_) name_ = trim(held_);
  held_.clear();
  state_ = is_fenced_form_ ? State::kLine : State::kBody;
}

void CallReader::read(std::string text) {
  held_ += text;
  if (state_ == State::kLine) {
    const size_t end = held_.find('\n');
    if (end == std::string::npos) return;
    name_ = trim(std::string_view(held_).substr(0, end));
    held_.erase(0, end);
    state_ = State::kFence;
  }
  if (state_ == State::kFence) {
    held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
    if (held_.size() < kOpen.size() && kOpen.starts_with(held_)) return;
    if (held_.starts_with(kOpen)) held_.erase(0, kOpen.size());
    state_ = State::kBody;
  }
  if (state_ != State::kBody) return;
  if (at_start_) held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
  // White space, and in the fenced form backquotes, may be the end of it.
  const size_t last = held_.find_last_not_of(is_fenced_form_ ? " \t\r\n`" : kSpace);
  if (last == std::string::npos) return;
  at_start_ = false;
  arguments_ += held_.substr(0, last + 1);
  held_.erase(0, last + 1);
}

void CallReader::finish() {
  std::string rest;
  characters_.finish(rest);
  read(utf8_with_replacement(rest));
  if (state_ == State::kHead || state_ == State::kLine) {
    name_ = trim(held_);
    held_.clear();
  }
  state_ = State::kBody;
  const auto without_space = [](std::string_view text) {
    return text.substr(0, text.find_last_not_of(kSpace) + 1);
  };
  std::string_view end = without_space(held_);
  if (is_fenced_form_ && end.ends_with(kClose))
    end = without_space(end.substr(0, end.size() - kClose.size()));
  arguments_ += at_start_ ? trim(end) : end;
  held_.clear();
}

}  // namespace fathom::serve
