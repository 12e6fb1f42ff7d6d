// Any bytes either give entries that lie inside the file and tile it, or an Error.
#include <span>

#include "ckpt/safetensors.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fathom::SafetensorsHeader header;
  try {
    header = fathom::parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
  } catch (const fathom::Error&) {
    return 0;
  }
  int64_t total = 0;
  uint8_t sum = 0;
  for (const fathom::SafetensorsEntry& entry : header.entries) {
    FATHOM_CHECK_GE(entry.offset, 8);
    FATHOM_CHECK_LE(entry.offset + entry.num_bytes(), static_cast<int64_t>(size));
    for (int64_t i = 0; i < entry.num_bytes(); ++i)
      sum = static_cast<uint8_t>(sum + data[entry.offset + i]);
    total += entry.num_bytes();
  }
  FATHOM_CHECK_LE(total, static_cast<int64_t>(size));
  volatile uint8_t sink = sum;  // the reads above must not be optimised away
  (void)sink;
  return 0;
}
