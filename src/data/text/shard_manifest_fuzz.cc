// Any bytes as a manifest: an Error or a manifest that prints to itself.
#include <string_view>

#include "core/error.h"
#include "data/text/shards.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const fathom::ShardManifest manifest =
        fathom::parse_manifest({reinterpret_cast<const char*>(data), size}, "fuzz");
    const std::string text = fathom::manifest_text(manifest);
    FATHOM_CHECK_EQ(fathom::manifest_text(fathom::parse_manifest(text, "again")), text);
  } catch (const fathom::Error&) {
  }
  return 0;
}
