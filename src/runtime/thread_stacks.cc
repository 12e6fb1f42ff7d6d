#include "runtime/thread_stacks.h"

#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

namespace fathom {
namespace {

constexpr int kMaxFrames = 64;
constexpr std::chrono::milliseconds kPatience{200};

// A signal's handler has no arguments of ours, so what it fills is global. `wanted` is the thread
// that is asked, 0 when none is: a signal that comes late finds nothing to do.
struct {
  std::atomic<int64_t> wanted{0};
  std::array<void*, kMaxFrames> frames;
  std::atomic<int> num_frames{-1};
} answer;

int64_t own_id() { return ::syscall(SYS_gettid); }

int signal_number() { return SIGRTMIN + 6; }  // the first ones belong to threads of the C library

void write_down(int) {
  const int saved = errno;
  int64_t me = own_id();
  // Taken exactly once, and the frames are complete before the number is seen.
  if (answer.wanted.compare_exchange_strong(me, 0))
    answer.num_frames.store(::backtrace(answer.frames.data(), kMaxFrames),
                            std::memory_order_release);
  errno = saved;
}

std::vector<int64_t> thread_ids() {
  std::vector<int64_t> ids;
  DIR* folder = ::opendir("/proc/self/task");
  if (folder == nullptr) return ids;
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') ids.push_back(std::atoll(entry->d_name));
  }
  ::closedir(folder);
  std::sort(ids.begin(), ids.end());
  return ids;
}

// "ID (NAME) S ppid …": the name may have spaces and parentheses; the times are fields 14 and 15.
void read_stat(ThreadStack& thread) {
  std::ifstream file(fmt::format("/proc/self/task/{}/stat", thread.id));
  std::string text;
  std::getline(file, text);
  const size_t open = text.find('('), close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos) return;
  thread.name = text.substr(open + 1, close - open - 1);
  std::istringstream fields(text.substr(close + 1));
  std::string field;
  double ticks = 0;
  for (int i = 3; i <= 15 && fields >> field; ++i) {
    if (i >= 14) ticks += std::atof(field.c_str());
  }
  thread.cpu_seconds = ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

void read_frames(ThreadStack& thread) {
  answer.num_frames = -1;
  answer.wanted = thread.id;
  int num_frames = -1;
  if (::syscall(SYS_tgkill, ::getpid(), thread.id, signal_number()) == 0) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while ((num_frames = answer.num_frames.load(std::memory_order_acquire)) < 0 &&
           std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  int64_t wanted = thread.id;
  if (num_frames < 0 && !answer.wanted.compare_exchange_strong(wanted, 0)) {
    // It has begun to write after all: the frames must not be lent to the next before it is done.
    while ((num_frames = answer.num_frames.load(std::memory_order_acquire)) < 0)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  constexpr int kOfTheHandler = 2;  // itself and the kernel's return from it
  for (int i = kOfTheHandler; i < num_frames; ++i)
    thread.frames.push_back(reinterpret_cast<uintptr_t>(answer.frames[static_cast<size_t>(i)]));
}

}  // namespace

std::vector<ThreadStack> thread_stacks() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::array<void*, 4> frames;
  ::backtrace(frames.data(),
              static_cast<int>(frames.size()));  // loads what it needs, which a handler may not
  struct sigaction action {};
  action.sa_handler = write_down;
  action.sa_flags = SA_RESTART;
  ::sigaction(signal_number(), &action, nullptr);
  std::vector<ThreadStack> stacks;
  for (const int64_t id : thread_ids()) {
    ThreadStack& thread = stacks.emplace_back();
    thread.id = id;
    read_stat(thread);
    read_frames(thread);
  }
  // The handler stays: a thread that could not answer may take its signal later, which would end
  // the program.
  return stacks;
}

std::string describe(const std::vector<ThreadStack>& stacks) {
  std::string text;
  for (const ThreadStack& thread : stacks) {
    text += fmt::format("thread {} \"{}\", {:.2f} s of processor time{}\n", thread.id, thread.name,
                        thread.cpu_seconds, thread.frames.empty() ? ": does not answer" : "");
    for (const uintptr_t frame : thread.frames) {
      Dl_info info{};
      // The call is before the address that it returns to.
      if (::dladdr(reinterpret_cast<void*>(frame - 1), &info) == 0 || info.dli_fname == nullptr) {
        text += fmt::format("  {:#x}\n", frame);
        continue;
      }
      text += fmt::format("  {}+{:#x}{}{}\n", info.dli_fname,
                          frame - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase),
                          info.dli_sname == nullptr ? "" : " ",
                          info.dli_sname == nullptr ? "" : info.dli_sname);
    }
  }
  return text;
}

void name_thread(const char* name) { ::pthread_setname_np(::pthread_self(), name); }

}  // namespace fathom
