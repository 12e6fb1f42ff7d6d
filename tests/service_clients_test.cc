// The official clients against the service, where they are installed: script/test-clients.
#include "tests/serve_fixture.h"

namespace fathom {
namespace {

class ServiceClientsTest : public testing_serve::ServeTest {};

TEST_F(ServiceClientsTest, OfficialClientsPassTheirScenarios) {
  const std::string db = path("clients.db");
  const std::string key = keys(db, "create --name all --balance 100")["key"];
  const std::string one = keys(db, "create --name one --balance 100 --concurrency 1")["key"];
  const auto server = start({"--db", db});
  const int status = system(fmt::format("'{}/script/test-clients' http://127.0.0.1:{} {} {} >'{}' 2>&1",
                                        FATHOM_SOURCE_DIR, server->port(), key, one, path("out"))
                                .c_str());
  const std::string out = local_file_system().read_all(path("out"));
  EXPECT_EQ(server->end(), 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << out;
  EXPECT_EQ(status, 0) << out;
  fmt::print("{}", out);
}

}  // namespace
}  // namespace fathom
