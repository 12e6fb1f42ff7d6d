// Which documents stand in a corpus before: the same text (by 128-bit hash), or nearly the same (by
// MinHash signature, candidates by locality-sensitive hashing, each verified). The first of its
// kind stays. Memory is bounded: what does not fit the budget is done in several passes, with the
// same result.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/text/team.h"
#include "runtime/thread_pool.h"

namespace fathom {

struct DuplicateConfig {
  bool exact = true;
  bool near = true;
  double threshold = 0.5;     // share of common shingles (Jaccard) from which on a text counts as
                              // nearly the same
  int64_t shingle_units = 3;  // words (characters where a script has no spaces) in a shingle
  int64_t min_shingles = 8;   // shorter texts (or of fewer than 4 characters for each of these) are
                              // only compared exactly: a few words prove nothing
};
void visit_fields(DuplicateConfig& c, ConfigFields& f);

enum class Duplicate : uint8_t { kNo, kExact, kNear };

// What is looked at, document by document in the order of the corpus.
struct DocumentHashes {
  int64_t num_documents = 0;
  std::function<std::array<uint64_t, 2>(int64_t document_idx)> text_hash;
  // Null where a document has none (too short).
  std::function<const uint32_t*(int64_t document_idx)> signature;
};

struct DuplicateReport {
  int64_t num_passes = 0;
  int64_t peak_bytes = 0;  // of the search's own tables
};

// One entry a document, the same on every process of the team: each does a share of the passes over
// the same documents. Beyond `memory_bytes` it needs 1 byte a document, and 8 for each duplicate.
std::vector<Duplicate> find_duplicates(const DocumentHashes& documents,
                                       const DuplicateConfig& config, int64_t memory_bytes,
                                       ThreadPool& threads, const Team& team,
                                       DuplicateReport& report);

}  // namespace fathom
