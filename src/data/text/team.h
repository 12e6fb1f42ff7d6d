// Processes that prepare one folder together, over a file system that all of them see. This layer
// knows no ranks of its own: who starts the processes says how they meet.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace fathom {

struct Team {
  int rank = 0;
  int size = 1;
  // The text of every process, by rank. Called by all in the same order; nobody goes on before all
  // have come, and what one wrote to files before, all can read behind it. Empty with one process.
  std::function<std::vector<std::string>(const std::string& mine)> exchange;

  bool is_first() const { return rank == 0; }
  std::vector<std::string> gather(const std::string& mine) const {
    return size == 1 ? std::vector<std::string>{mine} : exchange(mine);
  }
  // What the first process says, on all.
  std::string share(const std::string& of_first) const {
    return gather(is_first() ? of_first : std::string())[0];
  }
};

}  // namespace fathom
