// A client's connection, with TLS or without, as one stream that Asio and Beast read and write. Only
// http_server.cc includes it.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <optional>
#include <string_view>
#include <utility>

namespace fathom::serve {

// The socket with Beast's deadlines. Deadlines are set for reading and writing together, so a read
// that goes on for as long as it takes while replies are written with one must go round them.
class TimedSocket {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;
  using lowest_layer_type = boost::asio::ip::tcp::socket::lowest_layer_type;

  explicit TimedSocket(boost::asio::ip::tcp::socket socket) : tcp_(std::move(socket)) {}

  boost::beast::tcp_stream& tcp() { return tcp_; }
  void set_timed_reads(bool timed) { timed_reads_ = timed; }
  executor_type get_executor() { return tcp_.get_executor(); }
  lowest_layer_type& lowest_layer() { return tcp_.socket().lowest_layer(); }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return timed_reads_ ? tcp_.async_read_some(buffers, std::forward<Token>(token))
                        : tcp_.socket().async_read_some(buffers, std::forward<Token>(token));
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tcp_.async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  boost::beast::tcp_stream tcp_;
  bool timed_reads_ = true;
};

class HttpStream {
 public:
  using executor_type = TimedSocket::executor_type;
  using Tls = boost::asio::ssl::stream<TimedSocket&>;

  explicit HttpStream(boost::asio::ip::tcp::socket socket) : socket_(std::move(socket)) {}

  TimedSocket& socket() { return socket_; }
  boost::beast::tcp_stream& tcp() { return socket_.tcp(); }
  executor_type get_executor() { return socket_.get_executor(); }
  // From here on everything goes through it; its handshake comes first.
  Tls& begin_tls(boost::asio::ssl::context& context) { return tls_.emplace(socket_, context); }
  Tls* tls() { return tls_ ? &*tls_ : nullptr; }
  void end_tls() { tls_.reset(); }

  // Bytes that the system takes at once: nearly always all of a stream's next token, without the
  // timers and the operation that waiting for room needs. 0 with TLS, and where something is amiss,
  // which the next real write will say.
  size_t send_now(std::string_view bytes) {
    if (tls_) return 0;
    boost::system::error_code error;
    auto& socket = tcp().socket();
    if (!socket.non_blocking()) socket.non_blocking(true, error);
    const size_t sent =
        error ? 0 : socket.write_some(boost::asio::buffer(bytes.data(), bytes.size()), error);
    return error ? 0 : sent;
  }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_read_some(buffers, std::forward<Token>(token))
                : socket_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_write_some(buffers, std::forward<Token>(token))
                : socket_.async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  TimedSocket socket_;
  std::optional<Tls> tls_;
};

}  // namespace fathom::serve
