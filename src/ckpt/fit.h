// What a model folder takes on this machine, before anything of it is loaded: from headers alone,
// by the same functions that place the weights and lay out the cache.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/file.h"
#include "model/policy.h"
#include "runtime/cpu.h"

namespace fathom {

struct InferenceFit {
  struct Remedy {
    std::string what;  // for people: what to do
    int64_t peak_bytes = 0;
    bool fits = false;
  };
  int64_t available_bytes = 0;
  int64_t context_tokens = 0;  // that were asked for
  // Weights by the format that products read them in, and where they lie: in mapped files, whose
  // pages the system may drop and read again, or in memory of our own.
  std::map<std::string, int64_t> weight_bytes;
  int64_t mapped_bytes = 0, own_bytes = 0;
  bool panels = false;        // copied and brought into panels (InferenceOptions::panels)
  int64_t table_bytes = 0;    // of positions
  int64_t working_bytes = 0;  // of a piece of a prompt
  int64_t program_bytes = 0;  // without any model
  int64_t cache_bytes_per_token = 0, cache_bytes = 0;
  int64_t peak_bytes = 0;  // all of it, once every weight has been touched
  bool fits = false;
  int64_t max_context_tokens = 0;  // that fit; 0: not even the weights do
  std::vector<Remedy> remedies;    // cheapest first; empty where it fits
};

struct InferenceUse {
  int64_t context_tokens = 0;  // of one sequence; 0: 4096, or the model's context
  // Of `serve`, `chat` and `bench`, which bring weights into panels where the processor's products
  // (`isa`) read them; the other verbs use the files as they lie.
  bool panels = false;
  IsaLevel isa = choose_isa_level();
  int64_t available_bytes = 0;  // 0: what this machine has
};

// The folder's tensors must fit its configuration.
InferenceFit inference_fit(FileSystem& files, const std::string& folder, const Policy& policy,
                           const InferenceUse& use);

std::string fit_text(const InferenceFit& fit);
// The value of "here" in inspect's JSON.
std::string fit_json(const InferenceFit& fit);

}  // namespace fathom
