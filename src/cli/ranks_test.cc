// Ranks that do not belong together. This program starts itself under mpirun, every rank with a
// fingerprint of its own choice.
#include "cli/ranks.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "comm/mpi_transport.h"

namespace fathom::cli {
namespace {

// Started by the test below, as one rank of several.
TEST(RanksUnderMpi, Body) {
  if (!started_by_mpi() || std::getenv("FATHOM_TEST_FINGERPRINT") == nullptr)
    GTEST_SKIP() << "runs under mpirun, which the test below starts";
  const int status = run_on_ranks({}, std::getenv("FATHOM_TEST_FINGERPRINT"),
                                  [](const Communicator* world) { return world->rank(); });
  ASSERT_TRUE(status == 0 || status == 1 || status == 2);
}

struct Outcome {
  int status = 0;
  std::string output;
  int count(const std::string& part) const {
    int found = 0;
    for (size_t at = output.find(part); at != output.npos; at = output.find(part, at + 1)) ++found;
    return found;
  }
};

Outcome start(const std::vector<std::string>& fingerprints, const std::vector<std::string>& programs) {
  std::string command = "mpirun --allow-run-as-root --oversubscribe";
  for (size_t i = 0; i < fingerprints.size(); ++i) {
    command += fmt::format("{} -n 1 -x FATHOM_TEST_FINGERPRINT='{}' {} --gtest_filter=RanksUnderMpi.Body",
                           i == 0 ? "" : " :", fingerprints[i], programs[i]);
  }
  const std::string said = ::testing::TempDir() + fmt::format("fathom_ranks_{}", ::getpid());
  Outcome outcome{.status = ::system((command + " > " + said + " 2>&1").c_str())};
  std::ostringstream text;
  text << std::ifstream(said).rdbuf();
  outcome.output = text.str();
  std::filesystem::remove(said);
  return outcome;
}

TEST(Ranks, OfDifferentConfigurationsOrVersionsAreRefusedInOneMessage) {
#ifndef FATHOM_MPI
  GTEST_SKIP() << "built without MPI";
#endif
  if (started_by_mpi()) GTEST_SKIP() << "this is one of the processes";
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const Outcome same = start({"0.1.0 {}", "0.1.0 {}", "0.1.0 {}"}, {self, self, self});
  EXPECT_EQ(same.status, 0) << same.output;
  const Outcome older = start({"0.1.0 {}", "0.1.0 {}", "0.0.9 {}"}, {self, self, self});
  EXPECT_NE(older.status, 0);
  EXPECT_EQ(older.count("found rank 2 with another configuration or program version"), 1)
      << older.output;
  // The same version number, built differently: a byte behind the program's end.
  const std::string other = ::testing::TempDir() + fmt::format("fathom_other_{}", ::getpid());
  std::filesystem::copy_file(self, other, std::filesystem::copy_options::overwrite_existing);
  std::ofstream(other, std::ios::app) << 'x';
  const Outcome rebuilt = start({"0.1.0 {}", "0.1.0 {}", "0.1.0 {}"}, {self, other, self});
  std::filesystem::remove(other);
  EXPECT_NE(rebuilt.status, 0);
  EXPECT_EQ(rebuilt.count("found rank 1 with another configuration or program version"), 1)
      << rebuilt.output;
}

}  // namespace
}  // namespace fathom::cli
