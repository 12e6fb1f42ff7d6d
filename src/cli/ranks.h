// Where the ranks of a job come from: mpirun, threads of this process, or nowhere.
#pragma once

#include <functional>
#include <string>

#include "comm/communicator.h"
#include "parallel/mesh.h"

namespace fathom::cli {

// Runs body on every rank and returns rank 0's exit status: under mpirun this process is one rank;
// else config.ranks threads; with one rank body(nullptr). An error ends all ranks and is reported
// once. `fingerprint` says what must be the same everywhere (the configuration); so must the program.
int run_on_ranks(const ParallelConfig& config, const std::string& fingerprint,
                 const std::function<int(const Communicator*)>& body);

// The text of rank 0 on all ranks.
std::string share_text(const Communicator& world, const std::string& text);

// Threads that one of `world`'s ranks computes with, when `total` (0: all processors) are shared by
// those of its machine.
int threads_of_rank(const Communicator* world, int64_t total);

}  // namespace fathom::cli
