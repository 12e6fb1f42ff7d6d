// Ranks as processes of one machine or allocation without a command line of mpirun's: the program
// starts mpirun on itself, with the settings of Open MPI that a run wants. Its own defaults cost
// seconds when a rank dies (it waits 2 s before it ends the others, then for the disk that holds
// its session folder, on which the run's checkpoints are being written) and bind a rank's threads
// to one core.
#pragma once

namespace fathom::cli {

// Runs this program once more, with its own arguments (and --resume), as `num_ranks` ranks under
// mpirun, and returns the job's exit status. Variables OMPI_MCA_... of the environment win over the
// settings made here. SIGTERM and SIGINT are handed to the ranks of this machine, so that the run
// saves and ends; the job ends with this process. No thread may have been started yet.
int run_as_processes(int num_ranks, bool resume);

}  // namespace fathom::cli
