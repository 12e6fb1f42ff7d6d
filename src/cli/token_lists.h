// Lists of token ids as the verbs take them: a JSON file with [[1, 2, 3], [4, 5, 6]], or one list.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::cli {

// The lists of the file at `path`; ids must lie in [0, vocab_size). equal_lengths: a batch.
std::vector<std::vector<int32_t>> read_token_lists(const std::string& path, int64_t vocab_size,
                                                   bool equal_lengths);

}  // namespace fathom::cli
