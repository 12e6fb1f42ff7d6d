// Where every thread of this process is: for a program that has stopped going on, before someone
// ends it. Linux: a signal asks each thread in turn to write down its own frames, so that one that
// sits in a lock or in a loop tells too. Not a profiler, and not for a program that works.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom {

struct ThreadStack {
  int64_t id = 0;  // the kernel's
  std::string name;
  double cpu_seconds = 0;
  // Return addresses, innermost first; empty for a thread that did not answer within a fifth of a
  // second.
  std::vector<uintptr_t> frames;
};

// Of all threads, by id. One caller at a time; others wait. System calls that a signal interrupts
// return EINTR in the threads that are asked, where they do not restart.
std::vector<ThreadStack> thread_stacks();

// A line for each thread and each frame: "FILE+0xOFFSET" as `addr2line -Cfe FILE OFFSET` takes it,
// with the name of the function where the program knows it.
std::string describe(const std::vector<ThreadStack>& stacks);

// Of the calling thread, as /proc and debuggers show it; 15 letters at most.
void name_thread(const char* name);

}  // namespace fathom
