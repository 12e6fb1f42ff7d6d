// The server's own limits, short enough to be waited for: slow clients, silent ones, readers that do
// not read, bodies beyond the limit.
#include "serve/http_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include <thread>

namespace fathom::serve {
namespace {


class Client {
 public:
  explicit Client(int64_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  void send(std::string_view text) const {
    ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
  }
  void half_close() const { ::shutdown(socket_, SHUT_WR); }
  // Everything until the server closes; "…" at the end if it does not within 5 s.
  std::string read_all() const {
    std::string text;
    char buffer[65536];
    for (;;) {
      pollfd wait{socket_, POLLIN, 0};
      if (::poll(&wait, 1, 5000) <= 0) return text + "…";
      const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
      if (n <= 0) return text;
      text.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  int socket_;
};

class HttpServerTest : public testing::Test {
 protected:
  void start(HttpServerConfig config, HttpHandler handler) {
    server_ = std::make_unique<HttpServer>(config, std::move(handler));
    thread_ = std::thread([this] { server_->run(); });
  }
  void start(HttpServerConfig config) {
    start(config, [](HttpRequest request, std::shared_ptr<HttpReply> reply) {
      reply->send(HttpResponse::json(request.body.empty() ? "{}" : request.body));
    });
  }
  void TearDown() override {
    server_->stop(0.1);
    thread_.join();
    EXPECT_EQ(server_->stats().num_connections, 0);
  }
  // The connection's place is free a moment after its end.
  void expect_no_connections() const {
    for (int wait = 0; wait < 250 && server_->stats().num_connections > 0; ++wait) usleep(20000);
    EXPECT_EQ(server_->stats().num_connections, 0);
  }

  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(HttpServerTest, SlowHeadersAndBodiesAreCutOff) {
  start({.header_seconds = 0.2, .body_seconds = 0.2, .idle_seconds = 0.2});
  Client header(server_->port()), body(server_->port()), idle(server_->port());
  header.send("GET / HTTP/1.1\r\nHo");
  body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
  for (const Client* client : {&header, &body, &idle}) EXPECT_EQ(client->read_all(), "");
  // One byte in a while does not buy more time: the deadline is the whole header's.
  Client drip(server_->port());
  std::atomic<bool> stop{false};
  std::thread dripping([&] {
    const std::string_view text = "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for (const char letter : text) {
      if (stop) break;
      drip.send(std::string_view(&letter, 1));
      usleep(50000);
    }
  });
  EXPECT_EQ(drip.read_all(), "");
  stop = true;
  dripping.join();
  expect_no_connections();
}

TEST_F(HttpServerTest, OversizedMessagesAreRefusedBeforeTheyAreRead) {
  start({.max_header_bytes = 1024, .max_body_bytes = 2000, .max_buffered_bytes = 5000});
  Client declared(server_->port()), chunked(server_->port()), header(server_->port());
  declared.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2001\r\n\r\n");
  EXPECT_TRUE(declared.read_all().starts_with("HTTP/1.1 413 "));
  chunked.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n" +
               std::string(1500, 'x') + "\r\n5dc\r\n" + std::string(1500, 'x') + "\r\n0\r\n\r\n");
  EXPECT_TRUE(chunked.read_all().starts_with("HTTP/1.1 413 "));
  header.send("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(5000, 'x') + "\r\n\r\n");
  EXPECT_TRUE(header.read_all().starts_with("HTTP/1.1 431 "));
  // Bodies that are announced and never come count too: the third would be too much.
  Client first(server_->port()), second(server_->port()), third(server_->port());
  const std::string announce = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1900\r\n\r\n";
  first.send(announce);
  second.send(announce);
  usleep(200000);
  third.send(announce);
  EXPECT_TRUE(third.read_all().starts_with("HTTP/1.1 503 "));
}

TEST_F(HttpServerTest, ReadersThatDoNotReadAreCutOff) {
  std::atomic<int> gone{0};
  start({.max_unsent_bytes = 1 << 20}, [&](HttpRequest, std::shared_ptr<HttpReply> reply) {
    reply->on_gone([&] { ++gone; });
    reply->begin(200, {{"Content-Type", "text/plain"}});
    for (int i = 0; i < 200; ++i) reply->write(std::string(100'000, 'x'));
  });
  Client client(server_->port());
  client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  for (int wait = 0; wait < 250 && gone == 0; ++wait) usleep(20000);
  EXPECT_EQ(gone, 1);
  expect_no_connections();
}

// A client that says that it will send no more counts as gone; one that went on to its next request
// does not.
TEST_F(HttpServerTest, HalfClosedAndPipelinedClients) {
  std::atomic<int> gone{0};
  std::atomic<int> begun{0};
  start({}, [&](HttpRequest request, std::shared_ptr<HttpReply> reply) {
    ++begun;
    reply->on_gone([&] { ++gone; });
    if (request.path == "/slow") return;  // is never answered
    server_->post_after(0.1, [reply] { reply->send(HttpResponse::json("{}")); });
  });
  Client half(server_->port());
  half.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
  for (int wait = 0; wait < 250 && begun == 0; ++wait) usleep(20000);
  half.half_close();
  for (int wait = 0; wait < 250 && gone == 0; ++wait) usleep(20000);
  EXPECT_EQ(gone, 1);
  Client pipelined(server_->port());
  std::string five;
  for (int i = 0; i < 4; ++i) five += "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
  five += "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  pipelined.send(five);
  const std::string replies = pipelined.read_all();
  int64_t count = 0;
  for (size_t at = 0; (at = replies.find("HTTP/1.1 200 ", at)) != std::string::npos; ++at) ++count;
  EXPECT_EQ(count, 5);
  EXPECT_EQ(gone, 1);
}

TEST_F(HttpServerTest, MoreConnectionsThanAllowedAreClosed) {
  start({.max_connections = 2});
  Client first(server_->port()), second(server_->port());
  usleep(200000);
  Client third(server_->port());
  EXPECT_EQ(third.read_all(), "");
  first.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(first.read_all().starts_with("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace fathom::serve
