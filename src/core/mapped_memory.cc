#include "core/mapped_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <mutex>

#include "core/error.h"

namespace fathom {
namespace {

// Read by the signal handler: only atomics, and nodes are reused but never freed.
struct Mapping {
  std::atomic<uintptr_t> begin{0}, end{0};  // both 0: free
  std::atomic<int64_t> lost_offset{-1};     // of the first page that could not be read
  std::string path;                         // not read by the handler
  Mapping* next = nullptr;                  // fixed before the node is published
};

std::atomic<Mapping*> first_mapping{nullptr};
std::atomic<bool> any_lost{false};
std::mutex list_mutex;  // of who watches and unwatches
struct sigaction previous_action;
uintptr_t page_bytes = 4096;

void replace_page(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (Mapping* m = first_mapping.load(); m != nullptr; m = m->next) {
    const uintptr_t begin = m->begin.load(), end = m->end.load();
    if (address < begin || address >= end) continue;
    const uintptr_t page = address / page_bytes * page_bytes;
    void* memory = ::mmap(reinterpret_cast<void*>(page), page_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (memory == MAP_FAILED) break;
    std::memset(memory, 0xff, page_bytes);
    int64_t none = -1;
    m->lost_offset.compare_exchange_strong(none, static_cast<int64_t>(page - begin));
    any_lost.store(true);
    return;
  }
  // Not of ours: as if this handler had not been there.
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
  } else {
    ::sigaction(signal, &previous_action, nullptr);
    ::raise(signal);
  }
}

void install_handler() {
  page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = replace_page;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &previous_action);
}

}  // namespace

void watch_mapped_memory(const void* data, int64_t bytes, const std::string& path) {
  static std::once_flag installed;
  std::call_once(installed, install_handler);
  const std::lock_guard lock(list_mutex);
  Mapping* m = first_mapping.load();
  while (m != nullptr && m->begin.load() != 0) m = m->next;
  const bool fresh = m == nullptr;
  if (fresh) m = new Mapping;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  m->path = path;
  m->lost_offset.store(-1);
  m->end.store(begin + static_cast<uintptr_t>(bytes));
  m->begin.store(begin);
  if (fresh) {
    m->next = first_mapping.load();
    first_mapping.store(m);
  }
}

void unwatch_mapped_memory(const void* data) {
  const std::lock_guard lock(list_mutex);
  bool lost = false;
  for (Mapping* m = first_mapping.load(); m != nullptr; m = m->next) {
    if (m->begin.load() == reinterpret_cast<uintptr_t>(data)) {
      m->end.store(0);
      m->begin.store(0);
      m->lost_offset.store(-1);
    }
    lost = lost || m->lost_offset.load() >= 0;
  }
  any_lost.store(lost);
}

void forget_mapped_memory(const void* data, int64_t bytes) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

double resident_share(const void* data, int64_t bytes) {
  constexpr int64_t kPiecePages = 256, kMaxPieces = 4096;
  const auto page = static_cast<int64_t>(page_bytes);
  const int64_t num_pieces = (bytes + kPiecePages * page - 1) / (kPiecePages * page);
  const int64_t stride = std::max<int64_t>(1, num_pieces / kMaxPieces);
  int64_t looked_at = 0, resident = 0;
  unsigned char states[kPiecePages];
  for (int64_t piece = 0; piece < num_pieces; piece += stride) {
    const int64_t begin = piece * kPiecePages * page,
                  length = std::min(kPiecePages * page, bytes - begin);
    auto* address = static_cast<std::byte*>(const_cast<void*>(data)) + begin;
    if (::mincore(address, static_cast<size_t>(length), states) != 0) continue;
    const int64_t pages = (length + page - 1) / page;
    looked_at += pages;
    resident += std::count_if(states, states + pages, [](unsigned char s) { return (s & 1) != 0; });
  }
  return looked_at == 0 ? 1 : static_cast<double>(resident) / static_cast<double>(looked_at);
}

void check_mapped_memory() {
  if (!any_lost.load()) return;
  const std::lock_guard lock(list_mutex);
  for (const Mapping* m = first_mapping.load(); m != nullptr; m = m->next) {
    if (m->lost_offset.load() < 0) continue;
    fail(ErrorKind::kIo,
         "{}: cannot read the page at byte {}: the file was cut short while it was in use, or its "
         "disk failed",
         m->path, m->lost_offset.load());
  }
}

}  // namespace fathom
