// Reading gzip, as a whole and bounded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

bool is_gzip(std::string_view bytes);  // by its first bytes

// The contents of a gzip file (all its members). An Error names `where` if it is broken, truncated,
// followed by something else, or larger than `max_bytes` when unpacked.
std::string gunzip(std::string_view bytes, const std::string& where, int64_t max_bytes);

}  // namespace fathom
