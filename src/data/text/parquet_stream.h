// A Parquet file as the JSONL that it could have been: one line {"<field>": "…"} a row, so that
// rows are numbered, cut into segments, resumed and counted like lines. Reads through Apache Arrow
// where the program was built with it (FATHOM_ARROW_DIR of the build).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "data/text/byte_stream.h"

namespace fathom {

bool reads_parquet();
bool is_parquet(std::string_view head);  // by its first bytes

// An Error if the file is damaged or has no column of text of that name; damage further in is one
// of the read that meets it.
std::unique_ptr<ByteStream> open_parquet_stream(FileSystem& files, const std::string& path,
                                                const std::string& field);

}  // namespace fathom
