// Training checkpoints of many ranks. Tensors are logical, as in a checkpoint of one process
// (checkpoint.h): whole, under their own names, whatever the mesh; only the files are more. Each
// rank writes those of the tensors that it shares with fewest others, all at the same time, into
// one folder that every rank sees; rank 0 writes the manifest (state.json, with size and hash of
// every rank's files) when all are on disk, and then gives the folder its name. Any mesh, and one
// process, reads it; each rank reads what it holds.
#pragma once

#include "train/checkpoint.h"
#include "train/distributed_step.h"

namespace fathom {

// All ranks call it; run_folder, state and extras are rank 0's.
void save_sharded_checkpoint(FileSystem& files, const Communicator& world,
                             const std::string& run_folder, const TrainingState& state,
                             DistributedStep& step, const CheckpointExtras& extras);
// Master weights, moments, average and router biases, bit for bit. All ranks call it; the folder is
// rank 0's.
void load_sharded_tensors(FileSystem& files, const Communicator& world,
                          const std::string& checkpoint_folder, DistributedStep& step);

}  // namespace fathom
