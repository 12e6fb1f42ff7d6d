// Training checkpoints: RUN/checkpoints/step-NNNNNNNN is a Hugging Face folder that anyone can
// load, with what resuming needs beside it in training/. state.json is written last and holds size
// and hash of every other file: a folder without it, or that does not match it, is no checkpoint.
// The layout is described in docs/formats/training_checkpoint.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/file.h"
#include "data/loader/loader.h"
#include "train/run_log.h"
#include "train/step.h"

namespace fathom {

struct CheckpointPolicy {
  int64_t every_steps = 500;  // and at the end, and on a signal; 0: only those
  int64_t keep_last = 2;
  int64_t keep_every = 0;  // steps divisible by this stay for ever; 0: none
};
void visit_fields(CheckpointPolicy& c, ConfigFields& f);

// What is not a tensor.
struct TrainingState {
  int64_t step = 0;    // steps done
  int64_t tokens = 0;  // seen
  uint64_t seed = 0;
  LoaderCursor cursor;
  uint64_t data_fingerprint = 0;
  RunLog::Position log;
  std::string config_json;
};

std::string checkpoint_name(int64_t step);  // step-00000120

struct CheckpointExtras {
  const Tokenizer* tokenizer = nullptr;                    // saved with the weights; may be null
  std::vector<std::pair<std::string, std::string>> files;  // further files by name
};
// One transaction: the folder appears whole, or nothing changes. In one process; of many ranks all
// write (sharded_checkpoint.h).
void save_training_checkpoint(FileSystem& files, const std::string& run_folder,
                              const TrainingState& state, StepEngine& step,
                              const CheckpointExtras& extras);

// Steps of the complete checkpoints of a run, ascending. Incomplete folders are left out and
// described in `skipped`.
std::vector<int64_t> list_checkpoints(FileSystem& files, const std::string& run_folder,
                                      std::vector<std::string>& skipped);
// The newest checkpoint whose files match their hashes; those that do not are described in
// `skipped`.
std::optional<int64_t> find_latest_checkpoint(FileSystem& files, const std::string& run_folder,
                                              std::vector<std::string>& skipped);
TrainingState read_training_state(FileSystem& files, const std::string& checkpoint_folder);
// Tensors of a checkpoint into `step` (master, moments, average, router biases), bit for bit.
void load_training_tensors(FileSystem& files, const std::string& checkpoint_folder,
                           StepEngine& step);

// Deletes what the policy no longer keeps; call after the newest one is durable.
void remove_old_checkpoints(FileSystem& files, const std::string& run_folder,
                            const CheckpointPolicy& policy);
// Deletes what saves and deletions that never finished have left.
void remove_leftovers(FileSystem& files, const std::string& run_folder);

}  // namespace fathom
