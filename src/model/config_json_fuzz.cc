// Any bytes either give a configuration that survives being written and read again, or an Error.
#include "core/error.h"
#include "model/config_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fathom::ModelConfig config;
  try {
    config = fathom::parse_config_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const fathom::Error&) {
    return 0;
  }
  const std::string text = fathom::to_config_json(config);
  FATHOM_CHECK(fathom::to_config_json(fathom::parse_config_json(text, "fuzz")) == text);
  return 0;
}
