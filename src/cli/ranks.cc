#include "cli/ranks.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cli/command_line.h"
#include "comm/in_process.h"
#include "comm/mpi_transport.h"
#include "core/file.h"
#include "runtime/cpu.h"

namespace fathom::cli {
namespace {

// Two builds may carry the same version number: what must be the same is the program's file.
std::string hash_of_program() {
  FileSystem& files = local_file_system();
  const std::string self = "/proc/self/exe";
  if (!files.info(self).exists) return "";
  const std::string bytes = files.read_all(self);
  return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()));
}

// Ranks that were started as something else would go on side by side and fail far from the cause.
void check_same(const Communicator& world, const std::string& fingerprint) {
  const std::vector<std::string> all = world.gather_text(fingerprint);
  std::vector<int> others;
  for (int r = 1; r < world.size(); ++r) {
    if (all[static_cast<size_t>(r)] != all[0]) others.push_back(r);
  }
  if (others.empty()) return;
  throw_bad_input({.where = "mpirun",
                   .found = fmt::format("rank {} with another configuration or program version "
                                        "than rank 0",
                                        fmt::join(others, ", ")),
                   .expected = "the same on all ranks"});
}

void say(const std::string& what) {
  fmt::print(stderr, "fathom: {}\n", what);
  std::fflush(stderr);
}

int run_as_process(const ParallelConfig& config, const std::string& fingerprint,
                   const std::function<int(const Communicator*)>& body) {
  const std::unique_ptr<Transport> transport =
      // Before the waiting ranks, which know less, give up themselves.
      join_mpi(static_cast<int>(config.ranks_per_node),
               {.hang_seconds = 0.9 * config.timeout_seconds, .on_silence = say, .on_slow = say});
  const Communicator world(*transport, {.timeout_seconds = config.timeout_seconds});
  int status = kExitFailed;
  try {
    check_same(world, hash_of_program() + " " + fingerprint);
    status = body(&world);
    world.barrier();
    return status;
  } catch (const std::exception& error) {
    // mpirun hands on a number alone: this one tells launchers that trying again does not help.
    const auto* known = dynamic_cast<const Error*>(&error);
    const bool would_fail_again = known != nullptr && (known->kind() == ErrorKind::kBadInput ||
                                                       known->kind() == ErrorKind::kUsage);
    status = would_fail_again ? kExitUsage : kExitFailed;
    // What all ranks see alike is said by the first alone.
    if (world.rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
    fmt::print(stderr, "fathom: error: rank {}: {}\n", world.rank(), error.what());
    std::fflush(stderr);
    transport->abort(error.what(), status);
    throw;
  }
}

}  // namespace

int run_on_ranks(const ParallelConfig& config, const std::string& fingerprint,
                 const std::function<int(const Communicator*)>& body) {
  if (started_by_mpi()) return run_as_process(config, fingerprint, body);
  if (config.ranks == 1) return body(nullptr);
  int status = kExitDone;
  run_ranks(static_cast<int>(config.ranks),
            {.ranks_per_node = static_cast<int>(config.ranks_per_node),
             .comm = {.timeout_seconds = config.timeout_seconds},
             .watch = {.hang_seconds = 0.9 * config.timeout_seconds,
                       .on_slow = say,
                       .on_hang =
                           [](const std::string& what) {
                             say(what);
                             std::_Exit(kExitFailed);
                           }}},
            [&](Communicator& world) {
              const int own = body(&world);
              if (world.rank() == 0) status = own;
            });
  return status;
}

std::string share_text(const Communicator& world, const std::string& text) {
  auto size = static_cast<int64_t>(text.size());
  world.broadcast<int64_t>(0, std::span<int64_t>(&size, 1));
  std::string shared = text;
  shared.resize(static_cast<size_t>(size));
  world.broadcast<char>(0, shared);
  return shared;
}

int threads_of_rank(const Communicator* world, int64_t total) {
  if (world == nullptr) return static_cast<int>(total);
  int here = 0;
  for (int r = 0; r < world->size(); ++r)
    here += world->node_of(r) == world->node_of(world->rank()) ? 1 : 0;
  const int64_t all = total > 0 ? total : cpu_info().num_cpus;
  return static_cast<int>(std::max<int64_t>(1, all / here));
}

}  // namespace fathom::cli
