#include "cli/restarts.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "cli/command_line.h"
#include "core/error.h"

namespace fathom::cli {
namespace {

// Signal handlers have no other way to know.
std::atomic<pid_t> child_of_launcher{0};
std::atomic<bool> asked_to_stop{false};
static_assert(std::atomic<pid_t>::is_always_lock_free);

extern "C" void hand_on(int) {
  asked_to_stop = true;
  const pid_t child = child_of_launcher;
  if (child > 0) ::kill(child, SIGTERM);
}

void catch_signals(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

std::string describe(int status) {
  return WIFSIGNALED(status) ? fmt::format("was killed by signal {}", WTERMSIG(status))
                             : fmt::format("failed with status {}", WEXITSTATUS(status));
}

}  // namespace

int run_with_restarts(int max_restarts, const std::function<int(int)>& attempt) {
  const pid_t launcher = ::getpid();
  for (int number = 0;; ++number) {
    std::fflush(nullptr);
    catch_signals(hand_on);
    int pipe_ends[2];  // a byte: trying again does not help
    if (::pipe(pipe_ends) != 0) fail(ErrorKind::kIo, "cannot make a pipe for the run");
    const pid_t child = ::fork();
    if (child < 0) fail(ErrorKind::kIo, "cannot start a process for the run");
    if (child == 0) {
      // Keyboards send SIGINT to both; the launcher hands its copy on, and two mean "at once".
      ::setpgid(0, 0);
      catch_signals(SIG_DFL);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != launcher) ::_exit(kExitFailed);  // it died before prctl
      ::close(pipe_ends[0]);
      try {
        return attempt(number);
      } catch (const Error& error) {
        const bool would_fail_again =
            error.kind() == ErrorKind::kBadInput || error.kind() == ErrorKind::kUsage;
        if (would_fail_again && ::write(pipe_ends[1], "!", 1) != 1) ::_exit(kExitFailed);
        throw;
      }
    }
    ::close(pipe_ends[1]);
    child_of_launcher = child;
    if (asked_to_stop) ::kill(child, SIGTERM);  // between the fork and the line above
    const int status = wait_for(child);
    child_of_launcher = 0;
    char byte = 0;
    const bool hopeless = ::read(pipe_ends[0], &byte, 1) == 1 ||
                          (WIFEXITED(status) && WEXITSTATUS(status) == kExitUsage);
    ::close(pipe_ends[0]);
    const bool over = WIFEXITED(status) && (WEXITSTATUS(status) == kExitDone ||
                                            WEXITSTATUS(status) == kExitSavedOnSignal);
    if (over || hopeless || asked_to_stop || number == max_restarts) {
      catch_signals(SIG_DFL);
      return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    fmt::print(stderr, "fathom: the run {}; going on from its last checkpoint (restart {} of {})\n",
               describe(status), number + 1, max_restarts);
  }
}

}  // namespace fathom::cli
