// The service among clients that break, vanish, crowd and cheat, and its own sudden death: the real
// program, a tiny model, plain sockets. script/soak runs the same with larger numbers.
#include <unistd.h>

#include <atomic>
#include <deque>
#include <filesystem>
#include <map>
#include <thread>

#include "tests/serve_fixture.h"

namespace fathom {
namespace {

using testing_serve::Answer;
using testing_serve::ServeTest;
using testing_serve::Server;
using testing_serve::Wire;

class RobustnessTest : public ServeTest {
 protected:
  // How often: in the suite, or under script/soak.
  static int64_t rounds(int64_t usual, int64_t soaking) {
    return getenv("FATHOM_SOAK") != nullptr ? soaking : usual;
  }
  static int64_t num_descriptors(const Server& server) {
    int64_t count = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", server.pid())))
      count += !entry.path().empty();
    return count;
  }
  // Descriptors of connections go a moment after the connections.
  static void expect_descriptors(const Server& server, int64_t at_most) {
    for (int wait = 0; wait < 250 && num_descriptors(server) > at_most; ++wait) usleep(20000);
    EXPECT_LE(num_descriptors(server), at_most);
  }
  static Json wait_until_idle(const Server& server, const std::string& key = "") {
    Json status;
    for (int wait = 0; wait < 500; ++wait) {
      status = ask_for(server, "/api/status", key)["models"][0];
      if (status["running"] == 0 && status["waiting"] == 0) break;
      usleep(20000);
    }
    EXPECT_EQ(status["running"], 0);
    EXPECT_EQ(status["waiting"], 0);
    return status;
  }
};

TEST_F(RobustnessTest, HostileMessagesAreRefusedAndTheServerLives) {
  const auto status = [&](const std::string& text, bool half_close = true) {
    Wire wire(server_->port());
    wire.send(text);
    if (half_close) wire.half_close();
    return wire.read_answer(3000).status;
  };
  const std::string post = "POST /tokenize HTTP/1.1\r\nHost: a\r\n";
  // Two readings of the length: how requests are smuggled.
  for (const char* lengths :
       {"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: -3\r\n\r\nabc",
        "Content-Length: 3, 3\r\n\r\nabc",
        "Content-Length: +3\r\n\r\nabc",
        "Content-Length: 0x3\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n"}) {
    EXPECT_EQ(status(post + lengths, false), 400) << lengths;
  }
  EXPECT_EQ(status("GET /health HTTP/1.1\r\n\r\n", false), 400) << "no Host";
  EXPECT_EQ(status("GET /health HTTP/9.9\r\nHost: a\r\n\r\n", false), 400);
  EXPECT_EQ(status("GET http\x01 HTTP/1.1\r\nHost: a\r\n\r\n", false), 400);
  EXPECT_EQ(status("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", false), 400);
  EXPECT_EQ(status(post + "Content-Length: 99999999999\r\n\r\n", false), 413);
  EXPECT_EQ(status(post + "Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", false), 413);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(40000, 'x') + "\r\n\r\n", false), 431);
  EXPECT_EQ(status(post + "Content-Length: 50\r\n\r\nabc"), 0) << "half of a body, then the end";
  // One behind the other on one connection.
  Wire wire(server_->port());
  std::string three;
  for (int i = 0; i < 3; ++i) three += Server::message("POST", "/tokenize", R"({"prompt":"the"})");
  wire.send(three);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(wire.read_answer().status, 200) << i;
  // Slowly, byte by byte.
  Wire slow(server_->port());
  for (const char c : Server::message("POST", "/tokenize", R"({"prompt":"a"})"))
    slow.send(std::string_view(&c, 1));
  EXPECT_EQ(slow.read_answer().status, 200);
  EXPECT_EQ(server_->ask("GET", "/health").status, 200);
}

// Valid requests with bytes changed, lost, doubled and moved: never a 5xx, never a crash, and no
// descriptor stays behind.
TEST_F(RobustnessTest, MutatedRequestsAreSurvived) {
  const int64_t descriptors = num_descriptors(*server_);
  const std::vector<std::string> seeds = {
      Server::message("POST", "/chat/completions", chat_body(2).dump()),
      Server::message("POST", "/beta/chat/completions",
                      R"({"model":"tiny","max_tokens":1,"n":2,"stop":["a","b"],"logprobs":true,"top_logprobs":2,)"
                      R"("stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"system",)"
                      R"("content":"s"},{"role":"user","content":[{"type":"text","text":"u"}]},)"
                      R"({"role":"assistant","content":"p","prefix":true}]})"),
      Server::message("POST", "/chat/completions",
                      R"({"model":"tiny","max_tokens":3,"messages":[{"role":"user","content":"json"}],)"
                      R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":)"
                      R"({"type":"object","properties":{"a":{"enum":[1,"x"]}},"required":["a"]}}}})"),
      Server::message("POST", "/v1/messages",
                      R"({"model":"tiny","max_tokens":1,"system":"s","messages":[{"role":"user","content":"u"}]})"),
      Server::message("POST", "/v1/completions",
                      R"({"model":"tiny","prompt":[1,2,3],"max_tokens":1,"echo":true,"logprobs":1})"),
      Server::message("POST", "/tokenize", R"({"prompt":"the fox"})"),
      Server::message("POST", "/apply-template", R"({"messages":[{"role":"user","content":"<think>"}]})"),
      Server::message("PUT", "/api/conversations/x", R"({"title":"a","version":0,"data":{}})"),
      "POST /detokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"tok\r\n"
      "b\r\nens\":[1,2]}\r\n0\r\n\r\n",
      Server::message("GET", "/experts?model=tiny&x=%20"),
  };
  const Random random(3, RandomPurpose::kTest);
  uint64_t draw = 0;
  const auto below = [&](size_t bound) { return static_cast<size_t>(random.below(draw++, bound)); };
  std::map<int, int64_t> by_status;
  const int64_t count = rounds(2000, 100'000);
  for (int64_t i = 0; i < count; ++i) {
    std::string text = seeds[below(seeds.size())];
    for (size_t edits = below(5); edits > 0 && !text.empty(); --edits) {
      const size_t at = below(text.size());
      switch (below(5)) {
        case 0: text[at] = static_cast<char>(below(256)); break;
        case 1: text.erase(at, 1 + below(8)); break;
        case 2: text.insert(at, text.substr(below(text.size()), below(40))); break;
        case 3: text.insert(at, "\r\n"); break;
        default: text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
      }
    }
    Wire wire(server_->port());
    wire.send(text);
    // Half of them end their side at once; the others wait for an answer and may get none.
    const bool waits = below(2) == 0;
    if (!waits) wire.half_close();
    const Answer answer = wire.read_answer(waits ? 10 : 5000);
    ++by_status[answer.status];
    EXPECT_LT(answer.status, 500) << text;
  }
  std::string table;
  for (const auto& [status, times] : by_status) table += fmt::format(" {}: {}", status, times);
  fmt::print("{} mutated requests, replies by status:{}\n", count, table);
  EXPECT_GT(by_status[200], count / 20) << "some must get through, or nothing behind the parser was tried";
  EXPECT_EQ(server_->ask("GET", "/health").status, 200);
  expect_descriptors(*server_, descriptors);
}

// A client that goes away frees its place and its pages within two steps of the engine, counted from
// when the server sees it, and its tokens are charged: the ledger of a key has one entry for each, and
// the balance is what is left.
TEST_F(RobustnessTest, DisconnectsEndTheWorkAndAreCharged) {
  const std::string db = path("gone.db");
  const std::string key = keys(db, "create --name k --admin --balance 100")["key"];
  const auto server = start({"--db", db, "--max-sequences", "8"});
  ask_for(*server, "/health");
  const int64_t descriptors = num_descriptors(*server);
  const int64_t clients = rounds(40, 1000);
  Json body = chat_body(400);
  body["stream"] = true;
  for (int64_t i = 0; i < clients; ++i) {
    Wire wire(server->port());
    wire.send(Server::message("POST", "/chat/completions", body.dump(), key));
    std::string some;
    if (i % 4 != 0) wire.receive(some);  // every fourth is gone before it began
  }
  const Json status = wait_until_idle(*server, key);
  const int64_t cancelled = status["finished"]["cancelled"], steps = status["cancel_steps_max"];
  EXPECT_GT(cancelled, 0) << "nobody left in the middle, so nothing was measured";
  EXPECT_LE(steps, 2);
  EXPECT_EQ(status["pages"]["free"], status["pages"]["total"]);
  const Json ledger = ask_for(*server, "/api/console/ledger?limit=1000", key)["entries"];
  EXPECT_EQ(static_cast<int64_t>(ledger.size()), std::min<int64_t>(clients, 1000));
  int64_t pico = 0, tokens = 0, most = 0;
  for (const Json& entry : ledger) {
    const int64_t output = entry["completion_tokens"];
    tokens += output;
    most = std::max(most, output);
    pico += output * 1'100'000 + entry["prompt_cache_miss_tokens"].get<int64_t>() * 270'000 +
            entry["prompt_cache_hit_tokens"].get<int64_t>() * 70'000;
  }
  EXPECT_GT(tokens, clients / 2);
  fmt::print("{} disconnects: {} ended in the engine, the last {} steps after it was seen at most; "
             "{} tokens charged, {} at most for one of 400\n",
             clients, cancelled, steps, tokens, most);
  EXPECT_EQ(ask_for(*server, "/api/console/keys", key)["keys"][0]["balance_micro"].get<int64_t>(),
            (int64_t{100'000'000'000'000} - pico) / 1'000'000);
  // The slots and the cache are free: eight long replies at once are served.
  Json busy = chat_body(50);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] { EXPECT_EQ(server->post("/chat/completions", busy, key).status, 200); });
  for (auto& thread : threads) thread.join();
  expect_descriptors(*server, descriptors);
  EXPECT_EQ(server->end(), 0);
}

// Kill it in the middle of streams, several times: the ledger has every token that anyone received,
// and the balance is what was there less the ledger, to the last one.
TEST_F(RobustnessTest, KilledServersLoseNoToken) {
  const std::string db = path("kill.db");
  const std::string key = keys(db, "create --name k --admin --balance 100")["key"];
  const int64_t kills = rounds(4, 200);
  int64_t received = 0;
  for (int64_t round = 0; round < kills; ++round) {
    const auto server = start({"--db", db});
    Json body = chat_body(300);
    body["stream"] = body["return_token_ids"] = true;
    Wire wire(server->port());
    wire.send(Server::message("POST", "/chat/completions", body.dump(), key));
    std::string text;
    const size_t enough = 1000 + static_cast<size_t>(round % 20) * 2000;
    while (text.size() < enough && wire.receive(text)) {
    }
    server->kill();
    while (wire.receive(text)) {
    }
    for (size_t at = 0; (at = text.find("\"token_ids\":[", at)) != std::string::npos;) {
      at += 13;
      const std::string list = text.substr(at, text.find(']', at) - at);
      if (!list.empty()) received += 1 + std::count(list.begin(), list.end(), ',');
    }
  }
  const auto server = start({"--db", db});
  int64_t tokens = 0, pico = 0;
  const Json ledger = ask_for(*server, "/api/console/ledger?limit=1000", key);
  ASSERT_EQ(static_cast<int64_t>(ledger["entries"].size()), kills);
  for (const Json& entry : ledger["entries"]) {
    tokens += entry["completion_tokens"].get<int64_t>();
    pico += entry["completion_tokens"].get<int64_t>() * 1'100'000 +
            entry["prompt_cache_miss_tokens"].get<int64_t>() * 270'000 +
            entry["prompt_cache_hit_tokens"].get<int64_t>() * 70'000;
  }
  EXPECT_EQ(ledger["entries"][0]["status"], "killed");
  fmt::print("{} kills: {} tokens charged, {} received\n", kills, tokens, received);
  EXPECT_GE(tokens, received) << "nobody got what was not counted";
  EXPECT_GT(received, 0);
  const Json row = ask_for(*server, "/api/console/keys", key)["keys"][0];
  EXPECT_EQ(row["balance_micro"].get<int64_t>(),
            (int64_t{100'000'000'000'000} - pico) / 1'000'000);
}

// A balance for ten requests and a crowd that comes at once: ten are served.
TEST_F(RobustnessTest, ABalanceForTenServesTen) {
  const std::string db = path("ten.db");
  const std::string admin = keys(db, "create --name boss --admin")["key"];
  const auto server = start({"--db", db});
  const Json probe = server->post("/chat/completions", chat_body(10), admin).json()["usage"];
  const int64_t prompt = probe["prompt_tokens"];
  ASSERT_LT(prompt, 64);
  const int64_t pico = 10 * (prompt * 270'000 + 10 * 1'100'000);
  const double dollars = static_cast<double>((pico + 999'999) / 1'000'000) * 1e-6;
  const std::string key =
      keys(db, fmt::format("create --name crowd --balance {:.6f}", dollars))["key"];
  std::atomic<int> served{0}, refused{0}, other{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> clients;
  const int64_t count = rounds(100, 500);
  for (int64_t i = 0; i < count; ++i) {
    clients.emplace_back([&] {
      Wire wire(server->port());
      while (!go) usleep(1000);
      wire.send(Server::message("POST", "/chat/completions", chat_body(10).dump(), key));
      const int status = wire.read_answer(60000).status;
      ++(status == 200 ? served : status == 402 ? refused : other);
    });
  }
  go = true;
  for (auto& client : clients) client.join();
  fmt::print("{} at once on a balance for ten: {} served, {} refused\n", count, served.load(),
             refused.load());
  // Prompts shorter than a page are never cached, and each writes all its tokens: what was reserved
  // is what was spent.
  EXPECT_EQ(served, 10);
  EXPECT_EQ(served + refused, count);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(ask_for(*server, "/user/balance", key)["is_available"], false);
  EXPECT_EQ(server->end(), 0);
}

// What short steps of many say is sent together, and every stream is still its own.
TEST_F(RobustnessTest, ManyStreamsAreEachWhatOneIs) {
  Json body = chat_body(60);
  std::vector<std::string> expected;
  for (int seed = 0; seed < 4; ++seed) {
    body["seed"] = seed;
    const Json reply = server_->post("/chat/completions", body).json();
    expected.push_back(reply["choices"][0]["message"]["content"]);
  }
  body["stream"] = body["return_token_ids"] = true;
  std::vector<std::thread> clients;
  for (size_t i = 0; i < 48; ++i) {
    Json own = body;
    own["seed"] = i % 4;
    clients.emplace_back([&, own, i] {
      const Answer answer = server_->post("/chat/completions", own);
      EXPECT_TRUE(answer.is_done());
      std::string content;
      size_t tokens = 0;
      for (const Json& event : answer.events()) {
        content += event["choices"][0]["delta"].value("content", "");
        tokens += event["choices"][0]["token_ids"].size();
      }
      EXPECT_EQ(content, expected[i % 4]);
      EXPECT_EQ(tokens, 60u);
    });
  }
  for (auto& client : clients) client.join();
}

TEST_F(RobustnessTest, DrainsOnSigterm) {
  const auto server = start({"--no-auth"});
  Json body = chat_body(300);
  body["stream"] = true;
  Wire wire(server->port());
  wire.send(Server::message("POST", "/chat/completions", body.dump()));
  std::string first;
  ASSERT_TRUE(wire.receive(first));
  std::thread end([&] { EXPECT_EQ(server->end(), 0); });
  while (wire.receive(first)) {
  }
  end.join();
  EXPECT_NE(first.find("data: [DONE]"), std::string::npos) << "what ran was finished";
}

// Two at a time, a short queue, a key that may have only so many: every request ends, in 200, 429 or
// 503, and whoever is sent away is told when to come back.
TEST_F(RobustnessTest, CrowdsAreServedOrToldToComeBack) {
  const std::string db = path("crowd.db");
  const std::string key = keys(db, "create --name crowd --balance 100")["key"];
  const std::string limited =
      keys(db, "create --name limited --balance 100 --concurrency 4")["key"];
  const auto server = start({"--db", db, "--max-sequences", "2", "--max-queued", "8",
                             "--request-seconds", "60"});
  std::atomic<int64_t> served{0}, limit{0}, busy{0}, other{0};
  std::vector<std::thread> clients;
  const int64_t count = rounds(60, 200);
  for (int64_t i = 0; i < count; ++i) {
    clients.emplace_back([&, i] {
      const Answer answer =
          server->post("/chat/completions", chat_body(20), i % 2 == 0 ? key : limited);
      ++(answer.status == 200   ? served
         : answer.status == 429 ? limit
         : answer.status == 503 ? busy
                                : other);
      if (answer.status == 503 || answer.status == 429) {
        EXPECT_TRUE(answer.has("Retry-After"));
      }
    });
  }
  for (auto& client : clients) client.join();
  fmt::print("{} clients, 2 slots: {} served, {} over their key's limit, {} told busy\n", count,
             served.load(), limit.load(), busy.load());
  EXPECT_GT(served, 0);
  EXPECT_GT(busy, 0);
  EXPECT_EQ(other, 0);
  EXPECT_EQ(server->end(), 0);
}

// One place, and a target that nobody who waits can reach: who comes to an idle server is served,
// the others are told to come back, at once. A target that everyone reaches refuses nobody.
TEST_F(RobustnessTest, TargetsOfLatencyAreKeptOrToldAbout) {
  const auto crowd = [](const Server& server) {
    std::atomic<int64_t> served{0}, busy{0};
    std::vector<std::thread> clients;
    for (int64_t i = 0; i < 20; ++i) {
      clients.emplace_back([&] {
        const Answer answer = server.post("/chat/completions", chat_body(400));
        EXPECT_TRUE(answer.status == 200 || answer.status == 503) << answer.status;
        if (answer.status == 503) {
          EXPECT_TRUE(answer.has("Retry-After"));
        }
        ++(answer.status == 200 ? served : busy);
      });
    }
    for (auto& client : clients) client.join();
    return std::pair(served.load(), busy.load());
  };
  const auto strict =
      start({"--no-auth", "--max-sequences", "1", "--target-first-token-ms", "0.5"});
  const auto [served, busy] = crowd(*strict);
  fmt::print(
      "20 clients, one place, first tokens within half a millisecond: {} served, {} told busy\n",
      served, busy);
  EXPECT_GE(served, 1);
  EXPECT_GE(busy, 1);
  const Json status = wait_until_idle(*strict);
  EXPECT_EQ(status["pages"]["free"], status["pages"]["total"]);
  EXPECT_EQ(strict->end(), 0);
  const auto lax =
      start({"--no-auth", "--target-first-token-ms", "100000", "--target-token-ms", "100000"});
  EXPECT_EQ(crowd(*lax), std::pair(int64_t{20}, int64_t{0}));
  EXPECT_NE(lax->ask("GET", "/metrics").body.find("fathom_requests_running_limit{"),
            std::string::npos);
  EXPECT_EQ(lax->end(), 0);
}

// One at a time, eight at once: the last ones wait for all others, however fast the machine is.
TEST_F(RobustnessTest, KeepsWaitingClientsAwake) {
  const auto server = start({"--no-auth", "--max-sequences", "1", "--keep-alive-seconds", "0.05"});
  Json body = chat_body(450);
  std::deque<Wire> wires;
  for (int i = 0; i < 8; ++i) wires.emplace_back(server->port());
  int awake_streams = 0, awake_replies = 0;
  for (size_t i = 0; i < wires.size(); ++i) {
    body["stream"] = i % 2 == 0;
    wires[i].send(Server::message("POST", "/chat/completions", body.dump()));
  }
  for (size_t i = 0; i < wires.size(); ++i) {
    const Answer answer = wires[i].read_answer();
    if (i % 2 == 0) {
      EXPECT_TRUE(answer.is_done());
      awake_streams += answer.body.find(": keep-alive\n\n") != std::string::npos ? 1 : 0;
    } else {
      EXPECT_EQ(answer.json()["usage"]["completion_tokens"], 450);
      awake_replies += answer.body[0] == '\n' ? 1 : 0;
    }
  }
  EXPECT_GE(awake_streams, 1);
  EXPECT_GE(awake_replies, 1);
  EXPECT_EQ(server->end(), 0);
}

}  // namespace
}  // namespace fathom
