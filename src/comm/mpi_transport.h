// Ranks as processes under mpirun (or srun). Built when Open MPI was found; a program without it
// says so when it is started by mpirun.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/transport.h"

namespace fathom {

// Whether a launcher started this process as one of several ranks: its environment says so.
bool started_by_mpi();

// Every rank tells another, twice a second, that it lives and whom it waits for: all tell rank 0,
// which tells rank 1. Who hears nothing from a rank (it was stopped, its machine is gone) names it
// and ends the job; a rank for which all others wait is named and, since a long computation is no
// fault, left alone until hang_seconds have passed: then it hangs, and the job ends. Both are
// called on a thread of the watch; without them nobody watches.
struct MpiWatch {
  double silence_seconds = 8;
  double slow_seconds = 8;
  double hang_seconds = 600;
  std::function<void(const std::string&)> on_silence;  // before the job ends
  std::function<void(const std::string&)> on_slow;
};

// Joins the job. At most once in a process. ranks_per_node 0: the nodes are those that MPI sees.
// An Error when the program was built without MPI.
std::unique_ptr<Transport> join_mpi(int ranks_per_node = 0, const MpiWatch& watch = {});

}  // namespace fathom
