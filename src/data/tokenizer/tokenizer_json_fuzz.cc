// Any bytes as a tokenizer.json: an Error or a tokenizer that works, never a crash. What loads is
// written, read back and used.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"
#include "data/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(text, "fuzz");
    const Tokenizer again = Tokenizer::from_json(tokenizer_json(tokenizer.definition()), "written");
    const std::string_view sample = text.substr(0, 64);
    const auto ids = tokenizer.encode(sample, {.allow_special = true});
    if (again.encode(sample, {.allow_special = true}) != ids || tokenizer.decode(ids) != sample)
      std::abort();
  } catch (const Error&) {
  }
  return 0;
}
