#include "cli/processes.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"

namespace fathom::cli {
namespace {

constexpr int kNotStarted = 127;  // as shells say it

std::vector<std::string> own_arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::string> arguments;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = all.find('\0', begin);
    arguments.push_back(all.substr(begin, end - begin));
    if (end == std::string::npos) break;
    begin = end + 1;
  }
  return arguments;
}

std::string own_program() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) fail(ErrorKind::kIo, "cannot find this program's file");
  return {path, static_cast<size_t>(length)};
}

// What the user has not set.
void prefer(const char* name, const char* value) { ::setenv(name, value, /*overwrite=*/0); }

void set_up_open_mpi() {
  if (::access("/dev/shm", W_OK) == 0) prefer("OMPI_MCA_orte_tmpdir_base", "/dev/shm");
  prefer("OMPI_MCA_odls_base_sigkill_timeout", "0");
  prefer("OMPI_MCA_hwloc_base_binding_policy", "none");
  prefer("OMPI_MCA_rmaps_base_oversubscribe", "1");
}

// mpirun's children: the ranks of this machine.
std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", parent));
  return {std::istream_iterator<pid_t>(file), {}};
}

// mpirun itself would kill the ranks when it is told to end.
void ask_to_stop(pid_t mpirun) {
  const std::vector<pid_t> ranks = children_of(mpirun);
  for (const pid_t rank : ranks) ::kill(rank, SIGTERM);
  if (ranks.empty()) ::kill(mpirun, SIGTERM);
}

}  // namespace

int run_as_processes(int num_ranks, bool resume) {
  std::vector<std::string> words{"mpirun", "-n", std::to_string(num_ranks), own_program()};
  const std::vector<std::string> own = own_arguments();
  FATHOM_CHECK(!own.empty(), "a process without a name");
  words.insert(words.end(), own.begin() + 1, own.end());
  if (resume && std::find(own.begin(), own.end(), "--resume") == own.end())
    words.push_back("--resume");
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  sigset_t awaited, before;
  sigemptyset(&awaited);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&awaited, number);
  sigprocmask(SIG_BLOCK, &awaited, &before);
  const pid_t launcher = ::getpid();
  const pid_t mpirun = ::fork();
  if (mpirun < 0) fail(ErrorKind::kIo, "cannot start mpirun");
  if (mpirun == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    ::setpgid(0, 0);  // a keyboard's SIGINT is for the launcher, which hands it on
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != launcher) ::_exit(kNotStarted);  // it died before prctl
    const int nothing = ::open("/dev/null", O_RDONLY);
    if (nothing >= 0) ::dup2(nothing, STDIN_FILENO);
    set_up_open_mpi();
    ::execvp(pointers[0], pointers.data());
    ::_exit(kNotStarted);
  }
  int status = 0;
  while (::waitpid(mpirun, &status, WNOHANG) == 0) {
    const int number = sigwaitinfo(&awaited, nullptr);
    if (number == SIGTERM || number == SIGINT) ask_to_stop(mpirun);
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotStarted)
    fail(ErrorKind::kUsage,
         "--processes: cannot start mpirun (install openmpi-bin), or leave the option out: ranks "
         "are then threads");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace fathom::cli
