#include "core/error.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unicode.h"

namespace fathom {

std::string StreamDecoder::push(TokenId id) {
  pending_ += tokenizer_.decode({&id, 1}, options_);
  std::string text;
  size_t done = 0;
  while (done < pending_.size()) {
    const auto at = static_cast<int64_t>(done);
    const Utf8Char c = decode_utf8(pending_, at);
    if (c.bytes > 0) {
      text.append(pending_, done, static_cast<size_t>(c.bytes));
      done += static_cast<size_t>(c.bytes);
      continue;
    }
    const BrokenUtf8 broken = broken_utf8(pending_, at);
    if (broken.incomplete) break;  // the next token may complete it
    append_utf8(0xFFFD, text);
    done += static_cast<size_t>(broken.bytes);
  }
  pending_.erase(0, done);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = utf8_with_replacement(pending_);
  pending_.clear();
  return text;
}

}  // namespace fathom
