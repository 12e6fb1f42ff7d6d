#include "serve/output_reader.h"

#include "data/tokenizer/unicode.h"

namespace fathom::serve {

OutputReader::OutputReader(const Tokenizer& tokenizer, const OutputReaderOptions& options)
    : tokenizer_(tokenizer),
      options_(options),
      state_(options.begins_in_thought ? State::kThought : State::kText),
      thought_({}),
      text_(options.stop),
      strip_newlines_(options.begins_in_thought) {}

// Newlines at the beginning of a thought or of the answer behind it belong to the template.
void OutputReader::add_text(Piece::Kind kind, std::string_view bytes, std::vector<Piece>& pieces) {
  std::string text;
  if (kind == Piece::kThought) {
    thought_.push(bytes, text);
  } else {
    stopped_ = text_.push(bytes, text);
  }
  if (strip_newlines_) {
    text.erase(0, std::min(text.find_first_not_of('\n'), text.size()));
    strip_newlines_ = text.empty();
  }
  if (text.empty()) return;
  pieces.push_back({kind, is_valid_utf8(text) ? std::move(text) : utf8_with_replacement(text), {}});
}

void OutputReader::leave_thought(std::vector<Piece>& pieces) {
  std::string rest;
  thought_.finish(rest);
  if (!rest.empty()) pieces.push_back({Piece::kThought, utf8_with_replacement(rest), {}});
  state_ = State::kText;
  strip_newlines_ = true;
}

bool OutputReader::push(TokenId id, std::vector<Piece>& pieces) {
  const SpecialTokens& special = tokenizer_.special();
  const bool at_start = std::exchange(at_start_, false);
  if (options_.splits_thoughts && id == special.think_begin &&
      (at_start || state_ == State::kThought)) {
    state_ = State::kThought;
    strip_newlines_ = true;
    ++num_thought_tokens_;
    return true;
  }
  if (id == special.think_end && state_ == State::kThought) {
    ++num_thought_tokens_;
    leave_thought(pieces);
    return true;
  }
  if (state_ == State::kThought) {
    ++num_thought_tokens_;
    if (!tokenizer_.is_special(id)) add_text(Piece::kThought, tokenizer_.token_bytes(id), pieces);
    return true;
  }
  if (options_.reads_tool_calls) {
    if (id == special.tool_calls_begin) {
      state_ = State::kCalls;
      return true;
    }
    if (id == special.tool_call_begin) {
      state_ = State::kCall;
      call_ = CallReader();
      call_begun_ = false;
      raw_call_.clear();
      return true;
    }
    if (state_ == State::kCall) {
      if (id == special.tool_call_end) {
        state_ = State::kCalls;
        call_.finish();
        if (!call_begun_) begin_call(pieces);
        add_arguments(pieces);
      } else if (id == special.tool_sep) {
        call_.separator();
      } else {
        call_.push(tokenizer_.token_bytes(id));
        raw_call_ += tokenizer_.token_bytes(id);
      }
      if (state_ == State::kCall && options_.streams_tool_calls && call_.has_name()) {
        if (!call_begun_) begin_call(pieces);
        add_arguments(pieces);
      }
      return true;
    }
    if (state_ == State::kCalls) {
      // Between calls there are newlines, which say nothing.
      if (id == special.tool_calls_end) state_ = State::kText;
      return true;
    }
  }
  if (!tokenizer_.is_special(id)) add_text(Piece::kText, tokenizer_.token_bytes(id), pieces);
  return !stopped_;
}

void OutputReader::begin_call(std::vector<Piece>& pieces) {
  call_begun_ = true;
  ++num_tool_calls_;
  pieces.push_back({Piece::kToolCall, call_.take_arguments(), call_.name()});
}

void OutputReader::add_arguments(std::vector<Piece>& pieces) {
  std::string arguments = call_.take_arguments();
  if (!arguments.empty()) pieces.push_back({Piece::kToolArguments, std::move(arguments), {}});
}

void OutputReader::finish(std::vector<Piece>& pieces) {
  if (state_ == State::kThought) {
    leave_thought(pieces);
    state_ = State::kThought;
    return;
  }
  if (state_ == State::kCall && call_begun_) {
    call_.finish();
    add_arguments(pieces);
  } else if (state_ == State::kCall && !raw_call_.empty()) {
    pieces.push_back({Piece::kText, utf8_with_replacement(raw_call_), {}});
  }
  if (stopped_) return;
  std::string rest;
  text_.finish(rest);
  if (!rest.empty()) pieces.push_back({Piece::kText, utf8_with_replacement(rest), {}});
}

}  // namespace fathom::serve
