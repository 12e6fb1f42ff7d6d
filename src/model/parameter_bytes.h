// What a ParameterSet will take, before there is one: by the functions that lay it out.
#pragma once

#include <cstdint>
#include <vector>

#include "model/parameters.h"

namespace fathom {

// What a set with these places allocates.
int64_t own_parameter_bytes(const std::vector<ParameterSpec>& specs,
                            const std::vector<ParameterPlace>& places);
// What to_panels() adds for the transposed keys of those that it brings into panels (`fits`, in
// memory of the set's own).
int64_t transposed_key_bytes(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                             const std::vector<ParameterPlace>& places,
                             const std::vector<bool>& fits);

}  // namespace fathom
