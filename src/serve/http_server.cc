#include "serve/http_server.h"

#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <unordered_set>

#include "core/error.h"
#include "serve/http_stream.h"
#include "serve/tls_context.h"

namespace fathom::serve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::steady_clock;

// Bytes that a client may send ahead while its request is answered.
constexpr size_t kMaxPipelinedBytes = 64 << 10;
constexpr size_t kReadBytes = 4096;

steady_clock::duration seconds_of(double seconds) {
  return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(seconds));
}

auto with(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

std::string head_of(int status, const HttpHeaders& headers, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, http_reason(status));
  for (const auto& [name, value] : headers) head.append(name).append(": ").append(value) += "\r\n";
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return head;
}

// What another thread may touch of a reply, and the bytes on their way to the client.
class Reply final : public HttpReply, public std::enable_shared_from_this<Reply> {
 public:
  Reply(asio::io_context& io, bool keep_alive, bool is_head, bool chunked, int64_t max_unsent)
      : wake_(io), io_(io), keep_alive_(keep_alive), is_head_(is_head), chunked_(chunked),
        max_unsent_(max_unsent) {
    wake_.expires_at(steady_clock::time_point::max());
  }

  void send(HttpResponse response) override {
    on_server([this, response = std::move(response)]() mutable {
      if (begun_ || gone_) return;
      begun_ = true;
      if (response.status == 413 || response.status == 408) keep_alive_ = false;
      std::string head = head_of(response.status, response.headers, keep_alive_);
      if (response.status != 304)
        head += fmt::format("Content-Length: {}\r\n", response.body.size());
      unsent_ += head + "\r\n";
      if (!is_head_) unsent_ += response.body;
      done_ = true;
    });
  }
  void begin(int status, HttpHeaders headers) override {
    on_server([this, status, headers = std::move(headers)] {
      if (begun_ || gone_) return;
      begun_ = true;
      if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end is where the connection closes
      unsent_ += head_of(status, headers, keep_alive_);
      unsent_ += chunked_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
    });
  }
  void write(std::string bytes) override {
    on_server([this, bytes = std::move(bytes)] {
      if (!begun_ || done_ || gone_ || bytes.empty() || is_head_) return;
      if (chunked_) unsent_ += fmt::format("{:x}\r\n", bytes.size());
      unsent_ += bytes;
      if (chunked_) unsent_ += "\r\n";
      if (static_cast<int64_t>(unsent_.size()) > max_unsent_) set_gone();
    });
  }
  void end() override {
    on_server([this] {
      if (!begun_ || done_ || gone_) return;
      if (chunked_ && !is_head_) unsent_ += "0\r\n\r\n";
      done_ = true;
    });
  }
  void abort() override {
    on_server([this] { set_gone(); });
  }
  void on_gone(std::function<void()> callback) override {
    on_server([this, callback = std::move(callback)] {
      if (gone_) return callback();
      on_gone_ = std::move(callback);
    });
  }

  // The rest is for the connection, on the server's thread.
  void set_gone() {
    if (gone_ || (done_ && unsent_.empty())) return;
    gone_ = true;
    wake_.cancel();
    if (auto callback = std::exchange(on_gone_, nullptr); callback != nullptr && !done_) callback();
  }
  bool gone() const { return gone_; }
  bool done() const { return done_; }
  bool keep_alive() const { return keep_alive_; }
  void close_after() { keep_alive_ = false; }
  std::string take_unsent() { return std::exchange(unsent_, {}); }
  bool has_unsent() const { return !unsent_.empty(); }
  void drop_callback() { on_gone_ = nullptr; }

  asio::steady_timer wake_;  // cancelled when there is something to do

 private:
  template <typename Work>
  void on_server(Work work) {
    // Dispatch: at once where this already is the server's thread, so that order is kept there.
    asio::dispatch(io_, [self = shared_from_this(), work = std::move(work)]() mutable {
      work();
      self->wake_.cancel();
    });
  }

  asio::io_context& io_;
  bool keep_alive_;
  const bool is_head_, chunked_;
  const int64_t max_unsent_;
  std::string unsent_;
  bool begun_ = false, done_ = false, gone_ = false;
  std::function<void()> on_gone_;
};

// Of a message that this server will not read: the status, or 0 where the client is simply gone.
int status_of(const error_code& error) {
  if (error == http::error::body_limit) return 413;
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  if (error == beast::error::timeout) return 408;
  if (error == http::error::end_of_stream || error == http::error::partial_message ||
      error.category() != make_error_code(http::error::bad_method).category())
    return 0;
  return 400;
}

// Two readings of where a message ends are how requests are smuggled past a proxy: both are refused,
// whatever the parser would make of them.
bool has_ambiguous_length(const http::fields& fields) {
  if (fields.count(http::field::content_length) > 1 ||
      fields.count(http::field::transfer_encoding) > 1)
    return true;
  const bool has_length = fields.count(http::field::content_length) == 1;
  const auto coding = fields.find(http::field::transfer_encoding);
  if (coding == fields.end()) return false;
  return has_length || !beast::iequals(coding->value(), "chunked");
}

}  // namespace

// Coroutines, timers and posted work belong to `io` and hold plain pointers to this: it outlives them,
// and a shared one would be a circle that never goes.
struct HttpServer::Impl {
  Impl(const HttpServerConfig& config, HttpHandler handler)
      : config(config), handler(std::move(handler)), io(1), acceptor(io), stop_timer(io) {
    if (!config.tls_certificate.empty())
      tls.emplace(make_tls_context(config.tls_certificate, config.tls_key));
  }
  ~Impl() { ending = true; }  // connections that go with `io` have nothing to tell any more

  asio::awaitable<void> accept_loop() {
    while (acceptor.is_open()) {
      error_code error;
      tcp::socket socket = co_await acceptor.async_accept(with(error));
      if (error) {
        if (!acceptor.is_open()) co_return;
        // Out of descriptors: wait for someone to leave.
        asio::steady_timer pause(io, std::chrono::milliseconds(50));
        co_await pause.async_wait(with(error));
        continue;
      }
      if (num_connections >= config.max_connections) {
        ++num_refused;
        continue;  // closes it
      }
      socket.set_option(tcp::no_delay(true), error);
      asio::co_spawn(io, connection(std::move(socket)), asio::detached);
    }
  }

  struct Connection {
    explicit Connection(Impl& server, tcp::socket socket)
        : server(server), stream(std::move(socket)) {
      ++server.num_connections;
      server.connections.insert(this);
    }
    ~Connection() {
      server.connections.erase(this);
      --server.num_connections;
      server.buffered_bytes -= charged_bytes;
      server.check_stopped();
    }
    void charge(int64_t bytes) {
      charged_bytes += bytes;
      server.buffered_bytes += bytes;
    }
    void uncharge() {
      server.buffered_bytes -= charged_bytes;
      charged_bytes = 0;
    }

    Impl& server;
    HttpStream stream;
    beast::flat_buffer buffer;
    int64_t charged_bytes = 0;
    bool idle = true;  // between requests
    Reply* reply = nullptr;  // the one in progress
  };
  // A reply while its connection waits for it. What it would call when its client goes holds the
  // reply in turn, so it must be let go of.
  struct InProgress {
    InProgress(Connection& c, Reply& reply) : c(c) { c.reply = &reply; }
    ~InProgress() { std::exchange(c.reply, nullptr)->drop_callback(); }
    InProgress(const InProgress&) = delete;
    InProgress& operator=(const InProgress&) = delete;
    Connection& c;
  };

  // Tells the client why and closes; a client that goes on sending has a moment to read it.
  asio::awaitable<void> refuse(Connection& c, int status, const char* message = nullptr) {
    ++num_refused;
    error_code error;
    const std::string body = fmt::format(
        R"({{"error":{{"message":"{}","type":"{}","param":null,"code":"{}"}}}})",
        message != nullptr ? message : http_reason(status), status == 503 ? "server_error" : "invalid_request_error",
        status == 413   ? "request_too_large"
        : status == 503 ? "overloaded"
                        : "invalid_request_error");
    const std::string text = head_of(status, {{"Content-Type", "application/json"}}, false) +
                             fmt::format("Content-Length: {}\r\n\r\n{}", body.size(), body);
    c.stream.tcp().expires_after(std::chrono::seconds(5));
    co_await asio::async_write(c.stream, asio::buffer(text), with(error));
    if (c.stream.tls() == nullptr)
      c.stream.tcp().socket().shutdown(tcp::socket::shutdown_send, error);
    std::array<char, kReadBytes> drain;
    for (int64_t bytes = 0; bytes < config.max_body_bytes;) {
      const size_t n = co_await c.stream.async_read_some(asio::buffer(drain), with(error));
      if (error) break;
      bytes += static_cast<int64_t>(n);
    }
  }

  asio::awaitable<void> connection(tcp::socket socket) {
    Connection c(*this, std::move(socket));
    c.buffer.max_size(static_cast<size_t>(config.max_header_bytes) + kMaxPipelinedBytes);
    if (!stopping && (!tls || co_await shake_hands(c))) {
      while (co_await one_request(c)) {
      }
    }
    error_code error;
    if (c.stream.tls() != nullptr) {
      // Says that this was all, so that the client can tell it from a cut; not for long.
      c.stream.tcp().expires_after(std::chrono::seconds(1));
      co_await c.stream.tls()->async_shutdown(with(error));
    }
    c.stream.tcp().socket().shutdown(tcp::socket::shutdown_both, error);
  }

  // Whoever speaks plain HTTP here is told so, in plain HTTP.
  asio::awaitable<bool> shake_hands(Connection& c) {
    error_code error;
    std::array<char, kReadBytes> hello;
    c.stream.tcp().expires_after(seconds_of(config.header_seconds));
    const size_t bytes = co_await c.stream.async_read_some(asio::buffer(hello), with(error));
    if (error || bytes == 0) co_return false;
    if (hello[0] >= 'A' && hello[0] <= 'Z') {
      co_await refuse(c, 400, "this port speaks TLS: use https");
      co_return false;
    }
    auto& stream = c.stream.begin_tls(*tls);
    co_await stream.async_handshake(HttpStream::Tls::server, asio::buffer(hello, bytes),
                                    with(error));
    if (!error) co_return true;
    ++num_refused;
    c.stream.end_tls();
    co_return false;
  }

  // False: the connection is to be closed.
  asio::awaitable<bool> one_request(Connection& c) {
    error_code error;
    c.idle = true;
    if (c.buffer.size() == 0) {
      if (stopping) co_return false;
      c.stream.tcp().expires_after(seconds_of(config.idle_seconds));
      auto space = c.buffer.prepare(kReadBytes);
      const size_t n = co_await c.stream.async_read_some(space, with(error));
      if (error || n == 0) co_return false;
      c.buffer.commit(n);
    }
    c.idle = false;
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(config.max_header_bytes));
    parser.body_limit(static_cast<uint64_t>(config.max_body_bytes));
    c.stream.tcp().expires_after(seconds_of(config.header_seconds));
    co_await http::async_read_header(c.stream, c.buffer, parser, with(error));
    if (error) {
      if (const int status = status_of(error); status != 0) co_await refuse(c, status);
      co_return false;
    }
    const auto& head = parser.get();
    if (has_ambiguous_length(head) || head.version() < 10 || head.version() > 11 ||
        (head.version() == 11 && head.count(http::field::host) != 1)) {
      co_await refuse(c, 400);
      co_return false;
    }
    if (const auto length = parser.content_length();
        length && *length > static_cast<uint64_t>(config.max_body_bytes)) {
      co_await refuse(c, 413);
      co_return false;
    }
    const int64_t expected = parser.content_length()
                                 ? static_cast<int64_t>(*parser.content_length())
                                 : (parser.chunked() ? config.max_body_bytes : 0);
    if (buffered_bytes + expected > config.max_buffered_bytes) {
      co_await refuse(c, 503);
      co_return false;
    }
    c.charge(expected);
    if (beast::iequals(head[http::field::expect], "100-continue")) {
      constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(c.stream, asio::buffer(kContinue), with(error));
      if (error) co_return false;
    }
    c.stream.tcp().expires_after(seconds_of(config.body_seconds));
    co_await http::async_read(c.stream, c.buffer, parser, with(error));
    if (error) {
      if (const int status = status_of(error); status != 0) co_await refuse(c, status);
      co_return false;
    }
    c.stream.tcp().expires_never();
    ++num_requests;
    co_return co_await answer(c, parser.release());
  }

  asio::awaitable<bool> answer(Connection& c, http::request<http::string_body> message) {
    HttpRequest request;
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    const size_t question = std::min(request.target.find('?'), request.target.size());
    const bool good_path =
        percent_decode(std::string_view(request.target).substr(0, question), false, request.path);
    if (question < request.target.size()) request.query = request.target.substr(question + 1);
    for (const auto& field : message) {
      std::string name(field.name_string());
      for (char& letter : name) {
        if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter + 32);
      }
      request.headers.emplace_back(std::move(name), std::string(field.value()));
    }
    request.body = std::move(message.body());

    const auto reply = std::make_shared<Reply>(io, message.keep_alive() && !stopping,
                                               request.method == "HEAD", message.version() == 11,
                                               config.max_unsent_bytes);
    if (!good_path || request.path.empty() || request.path[0] != '/') {
      co_await refuse(c, 400);
      co_return false;
    }
    const InProgress in_progress(c, *reply);
    if (ending) reply->set_gone();
    handler(std::move(request), reply);
    using namespace asio::experimental::awaitable_operators;
    c.stream.socket().set_timed_reads(false);  // the watch shares no deadline with the writing
    co_await (write_reply(c, *reply) || watch_for_end(c, *reply));
    c.stream.socket().set_timed_reads(true);
    if (!reply->done() || reply->has_unsent()) reply->set_gone();
    c.uncharge();
    co_return !reply->gone() && reply->keep_alive() && !stopping;
  }

  asio::awaitable<void> write_reply(Connection& c, Reply& reply) {
    while (!reply.gone()) {
      error_code error;
      if (reply.has_unsent()) {
        const std::string bytes = reply.take_unsent();
        const size_t sent = c.stream.send_now(bytes);
        if (sent == bytes.size()) continue;
        c.stream.tcp().expires_after(seconds_of(config.write_seconds));
        co_await asio::async_write(c.stream, asio::buffer(bytes) + sent, with(error));
        c.stream.tcp().expires_never();
        if (error) {
          reply.set_gone();
          co_return;
        }
      } else if (reply.done()) {
        co_return;
      } else {
        co_await reply.wake_.async_wait(with(error));
        if ((co_await asio::this_coro::cancellation_state).cancelled() !=
            asio::cancellation_type::none)
          co_return;
      }
    }
  }

  // Reads ahead while the reply is made: what comes is the next request, and the end of it means
  // that nobody waits for this one any more.
  asio::awaitable<void> watch_for_end(Connection& c, Reply& reply) {
    while (!reply.gone()) {
      error_code error;
      if (c.buffer.size() >= kMaxPipelinedBytes) {
        // Enough: from here on only writing shows whether anyone is there.
        asio::steady_timer forever(io, steady_clock::time_point::max());
        co_await forever.async_wait(with(error));
        co_return;
      }
      const auto space = c.buffer.prepare(kReadBytes);
      const size_t n = co_await c.stream.async_read_some(space, with(error));
      if (!error && n > 0) {
        c.buffer.commit(n);
        continue;
      }
      if (error == asio::error::operation_aborted) co_return;
      reply.close_after();
      if (!reply.done()) reply.set_gone();
      if (!reply.gone()) {
        // The reply is complete and on its way: let it get there.
        asio::steady_timer forever(io, steady_clock::time_point::max());
        co_await forever.async_wait(with(error));
      }
      co_return;
    }
  }

  void close_idle() {
    for (Connection* c : connections) {
      if (c->idle) c->stream.tcp().cancel();
    }
  }
  void stop_within(double seconds) {
    error_code error;
    acceptor.close(error);
    stopping = true;
    close_idle();
    stop_timer.expires_after(seconds_of(seconds));
    stop_timer.async_wait([this](const error_code& error) {
      if (!error) end_now();
    });
    check_stopped();
  }
  void check_stopped() {
    if (stopping && connections.empty()) end_now();
  }
  // Whatever is left is cut off and comes to its end; with nothing left to wait for, run() returns.
  void end_now() {
    if (std::exchange(ending, true)) return;
    stop_timer.cancel();
    for (asio::steady_timer* timer : timers) timer->cancel();
    for (Connection* c : connections) {
      if (c->reply != nullptr) c->reply->set_gone();
      c->stream.tcp().close();
    }
    work.reset();
  }

  HttpServerConfig config;
  HttpHandler handler;
  // Above `io`: what goes with it may still touch these.
  std::optional<asio::ssl::context> tls;
  std::unordered_set<Connection*> connections;
  std::unordered_set<asio::steady_timer*> timers;  // of post_after()
  bool stopping = false, ending = false;
  int64_t buffered_bytes = 0;
  std::atomic<int64_t> num_connections{0}, num_requests{0}, num_refused{0};
  std::atomic<clockid_t> cpu_clock{};
  std::atomic<bool> has_cpu_clock{false};
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor;
  asio::steady_timer stop_timer;
};

HttpServer::HttpServer(const HttpServerConfig& config, HttpHandler handler)
    : impl_(std::make_unique<Impl>(config, std::move(handler))) {
  error_code error;
  const auto address = asio::ip::make_address(config.host, error);
  if (error) {
    throw_bad_input({"--host", "", config.host, "an IP address, like 127.0.0.1 or ::1", ""});
  }
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(config.port));
  auto& acceptor = impl_->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(4096, error);
  if (error)
    fail(ErrorKind::kIo, "{}:{}: {}{}", config.host, config.port, error.message(),
         error == asio::error::address_in_use
             ? ": another program listens there; try another port, or 0 for any that is free"
             : "");
}

HttpServer::~HttpServer() = default;

int64_t HttpServer::port() const {
  error_code error;
  return impl_->acceptor.local_endpoint(error).port();
}

std::string HttpServer::url() const {
  const std::string& host = impl_->config.host;
  const bool is_v6 = host.find(':') != std::string::npos;
  return fmt::format("http{}://{}{}{}:{}", impl_->tls ? "s" : "", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port());
}

void HttpServer::run() {
  asio::co_spawn(impl_->io, impl_->accept_loop(), asio::detached);
  clockid_t clock{};
  if (::pthread_getcpuclockid(::pthread_self(), &clock) == 0) {
    impl_->cpu_clock = clock;
    impl_->has_cpu_clock = true;
  }
  impl_->io.run();
  impl_->has_cpu_clock = false;
}

double HttpServer::cpu_seconds() const {
  timespec time{};
  if (!impl_->has_cpu_clock || ::clock_gettime(impl_->cpu_clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void HttpServer::stop(double seconds) {
  post([impl = impl_.get(), seconds] { impl->stop_within(seconds); });
}

void HttpServer::post(std::function<void()> work) { asio::post(impl_->io, std::move(work)); }

void HttpServer::post_after(double seconds, std::function<void()> work) {
  if (impl_->ending) return;
  auto timer = std::make_shared<asio::steady_timer>(impl_->io, seconds_of(seconds));
  impl_->timers.insert(timer.get());
  timer->async_wait(
      [impl = impl_.get(), timer, work = std::move(work)](const error_code& error) {
        impl->timers.erase(timer.get());
        if (!error) work();
      });
}

HttpServerStats HttpServer::stats() const {
  return {.num_connections = impl_->num_connections,
          .num_requests = impl_->num_requests,
          .num_refused = impl_->num_refused};
}

}  // namespace fathom::serve
