// Text from files: plain text (one file is one document) and JSONL (one object a line with a `text`
// string). Every byte is checked where it enters: NUL bytes and broken UTF-8 are errors that name
// file and line, or are repaired when the caller says so.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.h"

namespace fathom {

enum class BadText { kError, kRepair };

struct CorpusReport {
  int64_t num_files = 0;
  int64_t num_documents = 0;
  int64_t num_bytes = 0;          // of the documents, after repair
  int64_t num_nul_removed = 0;    // NUL bytes left out
  int64_t num_utf8_repaired = 0;  // broken parts replaced by U+FFFD
};

// The documents of a file (.jsonl: by lines; anything else: one document) or of all *.txt and
// *.jsonl files of a folder, in name order. Empty documents are left out.
std::vector<std::string> read_corpus(FileSystem& files, const std::string& path, BadText bad_text,
                                     CorpusReport& report);

// Checks or repairs one text; `where` (with line numbers counted from `first_line`) names it in
// errors.
void clean_text(std::string& text, BadText bad_text, const std::string& where, int64_t first_line,
                CorpusReport& report);

}  // namespace fathom
