// One document's text made clean: UTF-8 without NUL bytes or byte-order mark, one kind of line end,
// normalised if wanted. Says what it changed, and whether the text must be rejected instead.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

enum class Normalisation { kNone, kNfc, kNfkc };

struct CleanOptions {
  bool reject_broken = false;   // broken UTF-8 and NUL bytes: out with the document
  bool unify_line_ends = true;  // CR LF and CR become LF
  Normalisation normalisation = Normalisation::kNone;
};

// What was found in one text.
struct CleanReport {
  int64_t num_nul = 0;
  int64_t num_broken = 0;         // broken parts of UTF-8
  int64_t first_broken_line = 0;  // within the text, from 0
  bool had_bom = false;
  bool mixed_line_ends = false;    // more than one kind of line end
  const char* rejected = nullptr;  // the reason, if the policy rejects the text
};

CleanReport clean_document(std::string& text, const CleanOptions& options);

}  // namespace fathom
