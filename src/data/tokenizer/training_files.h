// Training a vocabulary on files: text and JSONL, plain or packed with gzip or zstd, folders of
// them, of any size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.h"
#include "data/tokenizer/bpe_trainer.h"

namespace fathom {

// Adds the documents of the files: of JSONL (by the name: .jsonl, .ndjson, also packed) the "text"
// of each line, of any other file its whole, in parts that are cut where no piece is, so that the
// same pieces are counted whatever the threads; a text of more than 32 MB is cut behind a line end
// besides. Holds some tens of megabytes (or one line, if that is longer). Returns the number of
// documents. A line that is no JSON, or has no text, is an Error that names file and line.
int64_t add_files(FileSystem& files, const std::vector<std::string>& paths, BpeTrainer& trainer);

}  // namespace fathom
