// `data prepare`: text in, token shards out, with an account of every document. Four stages, each
// resumable and parallel: read (clean, filter, label, hash), find duplicates, tokenise into shards,
// finish. A stage writes down what it finished in pieces, each replaced as a whole or not at all,
// under OUT/work; a run that was killed goes on from there, and its output has the bytes of an
// undisturbed one, whatever the number of threads and processes.
//
// Processes (PrepareJob::team) share one folder on a file system that all see under the same path,
// the inputs too: they read parts of the input, search shares of the duplicates, tokenise segments
// and write shards side by side.
//
// Fill-in-the-middle and token splitting are not done here but when rows are made (data/loader): so
// they differ from epoch to epoch, and shards serve with any rates.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/file.h"
#include "data/text/account.h"
#include "data/text/duplicates.h"
#include "data/text/filters.h"
#include "data/text/team.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/thread_pool.h"

namespace fathom {

struct PrepareConfig {
  std::string text_field = "text";
  std::string bad_text = "repair";     // or reject
  std::string normalisation = "none";  // nfc, nfkc
  bool unify_line_ends = true;
  int64_t max_document_bytes = 64 << 20;
  FilterConfig filters;
  DuplicateConfig duplicates;
  int64_t contamination_units = 13;
  std::string weights = "{}";  // JSON object: how often each label is to be seen an epoch
  int64_t shard_tokens = 1 << 26;
  int64_t segment_bytes = 32 << 20;
};
void visit_fields(PrepareConfig& c, ConfigFields& f);

struct PrepareJob {
  std::vector<std::string> inputs;       // files and folders
  std::vector<std::string> evaluations;  // files whose content must not be trained on
  std::string tokenizer_path;
  std::string out;
  bool strict = false;                               // the first problem of the input is an error
  int64_t memory_bytes = int64_t{1} << 30;           // of the duplicate search's tables
  std::function<void(const std::string&)> progress;  // a line now and then; may be empty
  Team team;
};

// What a part of the work took, over all threads and processes.
struct WorkTime {
  std::string name;
  int64_t bytes = 0;  // of text that went through
  double seconds = 0;
};

// Account and number of shards are the first process's alone; the times are those of all.
struct PrepareResult {
  Account account;
  int64_t num_shards = 0;
  bool was_done = false;  // OUT was finished before; nothing was read
  std::vector<WorkTime> times;
  DuplicateReport duplicates;
  double seconds = 0;
};

PrepareResult prepare_shards(ThreadPool& threads, FileSystem& files, const PrepareConfig& config,
                             const PrepareJob& job);

}  // namespace fathom
