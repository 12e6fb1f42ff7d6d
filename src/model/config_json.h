// A ModelConfig from a Hugging Face config.json of the DeepSeek-V2/V3 family, and back.
//
// Both published key sets are read: rope_scaling/type with rope_theta beside it, and
// rope_parameters/rope_type as newer transformers writes; torch_dtype and dtype. A key that is
// neither known nor on the list of published leftovers is an error that names the nearest known
// key: an ignored key that scales something would be a silently different model.
#pragma once

#include <string>
#include <string_view>

#include "model/config.h"

namespace fathom {

// The validated configuration; an Error names `where` (a file), the field, what was found and what
// was expected.
ModelConfig parse_config_json(std::string_view text, const std::string& where);

// The published key set in alphabetical order, ending in a newline. Parsing it gives the same
// configuration; the same configuration gives the same bytes.
std::string to_config_json(const ModelConfig& config);

}  // namespace fathom
