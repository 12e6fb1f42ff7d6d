// Counts every allocation of the process. Include it in one file of a test program: it replaces the
// global operators.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace fathom::testing_models {
inline std::atomic<int64_t> num_allocations{0};
// Memory that ends: of the allocations of at least kLargeBytes the one after so many more fails.
inline constexpr size_t kLargeBytes = 64 << 10;
inline std::atomic<int64_t> large_until_failure{-1};  // below 0: none
inline void count_allocation(size_t bytes) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  if (bytes >= kLargeBytes && large_until_failure.load(std::memory_order_relaxed) >= 0 &&
      large_until_failure.fetch_sub(1, std::memory_order_relaxed) == 0)
    throw std::bad_alloc();
}
}  // namespace fathom::testing_models

// Not inlined: the compiler would see malloc's memory reach operator delete and warn.
[[gnu::noinline]] void* operator new(size_t bytes) {
  fathom::testing_models::count_allocation(bytes);
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new[](size_t bytes) { return operator new(bytes); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, size_t) noexcept { std::free(p); }
// Scratch memory is aligned: those count too.
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t alignment) {
  fathom::testing_models::count_allocation(bytes);
  const size_t a = static_cast<size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (bytes + a - 1) / a * a)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new[](size_t bytes, std::align_val_t alignment) {
  return operator new(bytes, alignment);
}
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, size_t, std::align_val_t) noexcept {
  std::free(p);
}
