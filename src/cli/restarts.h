// A launcher that does not give up: the run is a child of this process, started again from its last
// checkpoint when it dies. For ranks as threads, which a fault of one of them ends together, and for
// processes that this program starts (processes.h); where mpirun or Slurm started the program, the
// job's own script does it (docs/many_ranks.md).
#pragma once

#include <functional>

namespace fathom::cli {

// Runs `attempt(number)` (0 the first time) in a child process, again after a death or a failure,
// at most `max_restarts` times, and returns the exit status of the last. Bad input, which would
// fail alike, and "saved on a signal" end it at once. SIGINT and SIGTERM are handed to the child,
// which dies with this process. No thread may have been started yet.
int run_with_restarts(int max_restarts, const std::function<int(int)>& attempt);

}  // namespace fathom::cli
