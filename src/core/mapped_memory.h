// Mapped files whose pages turn out to be gone. A file that shrinks after it was mapped, or a disk
// that fails, makes a plain read of memory raise SIGBUS, which ends a process. Here the page is
// replaced by one of 0xff bytes (NaN in every float format), the file is marked, and the reader
// goes on; whoever uses mapped memory calls check_mapped_memory() before it trusts what it
// computed.
//
// The list of mapped files is global to the process because signal handlers are.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

// A file's mapping, from mmap to munmap: LocalFileSystem::map does both.
void watch_mapped_memory(const void* data, int64_t bytes, const std::string& path);
void unwatch_mapped_memory(const void* data);

// An Error that names the file and the offset if a page of any file that is mapped now could not be
// read; it stays so until the file is unmapped. Costs one atomic load while all is well.
void check_mapped_memory();

// The pages wholly inside this range of a mapping may leave memory; reading them again is fine.
void forget_mapped_memory(const void* data, int64_t bytes);

// The share of a mapping's pages that are in memory now, 0 to 1; of a large one some pieces are
// looked at. What a kernel does not tell counts as in memory.
double resident_share(const void* data, int64_t bytes);

}  // namespace fathom
