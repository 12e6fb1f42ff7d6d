// Any bytes as text: with a vocabulary learnt from them, encoding and decoding give the bytes back,
// the scanner covers them, added tokens come only when asked for, and streaming ends in the same
// text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/text_encoder.h"
#include "data/tokenizer/unicode.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view documents[] = {text.substr(0, size / 2), text.substr(size / 2)};
  const Tokenizer tokenizer = train_bpe(documents, {.vocab_size = 320});
  for (const bool allow_special : {false, true}) {
    const auto ids = tokenizer.encode(text, {.allow_special = allow_special});
    require(tokenizer.decode(ids) == text);
    std::vector<TokenId> remembered;
    TextEncoder encoder(tokenizer);
    for (int round = 0; round < 2; ++round) {  // the second from the caches
      remembered.clear();
      encoder.encode(text, {.allow_special = allow_special}, remembered);
      require(remembered == ids);
    }
    require(allow_special || std::none_of(ids.begin(), ids.end(),
                                          [&](TokenId id) { return tokenizer.is_added(id); }));
    StreamDecoder decoder(tokenizer);
    std::string streamed;
    for (const TokenId id : ids) streamed += decoder.push(id);
    require(streamed + decoder.finish() == utf8_with_replacement(text));
  }
  return 0;
}
