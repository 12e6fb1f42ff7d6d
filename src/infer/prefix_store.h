// Units of the prefix cache as files (docs/formats/prefix_cache.md): one file a unit, named by its
// key, written under a temporary name and renamed, checked by a hash when read. A file that is
// damaged, foreign or of another format is a miss, and is removed. The oldest files go when the
// folder grows beyond its limit.
//
// Several processes may share a folder: a unit that another one has written since is found when it
// is asked for, so one process can read prompts and another go on with them. Each keeps the files
// that it knows of below its limit.
//
// Files are written by a thread of their own from copies, so that a step does not wait for a disk;
// when the disk cannot follow, units are not written (they are only a cache).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/file.h"
#include "infer/unit_key.h"

namespace fathom {

class PrefixStore {
 public:
  // Creates the folder; takes up what is there.
  PrefixStore(FileSystem& files, std::string folder, int64_t max_bytes);
  ~PrefixStore();  // writes what is waiting
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  bool contains(const UnitKey& key);
  // False, and the file is removed, unless it holds exactly this unit with a page of page.size()
  // bytes.
  bool read(const UnitKey& key, const UnitKey& parent, std::span<const int32_t> tokens,
            std::span<std::byte> page);
  void write(const UnitKey& key, const UnitKey& parent, std::span<const int32_t> tokens,
             std::span<const std::byte> page);
  void flush();  // waits until nothing is waiting

  struct Stats {
    int64_t num_files = 0, num_bytes = 0;
    int64_t num_written = 0, num_read = 0, num_dropped = 0, num_damaged = 0, num_removed = 0;
    std::string last_error;  // of writing; the units concerned are lost, nothing else
  };
  Stats stats() const;

 private:
  struct Waiting {
    std::string name, contents;
  };
  struct File {
    int64_t num_bytes = 0;
    std::list<std::string>::iterator age;
  };
  void work();
  bool take_up(const std::string& name);  // whether the folder has it; the lock is held
  void add_file(const std::string& name, int64_t num_bytes);
  void remove_file(const std::string& name);  // the lock is held

  FileSystem& files_;
  std::string folder_;
  int64_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable work_there_, idle_;
  std::deque<Waiting> waiting_;
  int64_t waiting_bytes_ = 0;
  bool writing_ = false, stopping_ = false;
  std::unordered_map<std::string, File> known_;
  std::list<std::string> ages_;  // oldest first
  Stats stats_;
  std::thread writer_;
};

}  // namespace fathom
