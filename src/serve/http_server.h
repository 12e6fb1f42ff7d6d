// An HTTP/1.1 server on one thread (Boost.Asio coroutines, Beast's parser): reads requests within
// limits, hands them to a handler, and writes replies that other threads may feed.
//
// A client that closes its end, even only for writing, counts as gone: as with nginx and Go, since
// the two cannot be told apart before something is written. Its reply's on_gone is called.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "serve/http.h"

namespace fathom::serve {

struct HttpServerConfig {
  std::string host = "127.0.0.1";
  int64_t port = 0;  // 0: any that is free
  std::string tls_certificate, tls_key;  // PEM files; empty: plain HTTP
  int64_t max_connections = 8192;
  int64_t max_header_bytes = 16 << 10;
  int64_t max_body_bytes = 4 << 20;
  // Of all bodies being read and requests not yet answered; more is answered 503.
  int64_t max_buffered_bytes = 256 << 20;
  int64_t max_unsent_bytes = 4 << 20;  // of one reply: a reader slower than that is cut off
  double header_seconds = 15;          // for a whole header, from its first byte
  double body_seconds = 60;
  double idle_seconds = 75;  // between requests
  double write_seconds = 60;  // without progress
};

struct HttpServerStats {
  int64_t num_connections = 0;  // open
  int64_t num_requests = 0;     // read whole, since the start
  int64_t num_refused = 0;      // by the limits above
};

class HttpServer {
 public:
  // Binds; an address that cannot be bound is an Error(kIo), a certificate that cannot be used one
  // that names its file.
  HttpServer(const HttpServerConfig& config, HttpHandler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int64_t port() const;
  std::string url() const;

  // Serves on the calling thread until stop().
  void run();
  // Any thread. No new connections, and idle ones are closed. Ends run() when what was written has been
  // sent; after `seconds` whoever is left is cut off.
  void stop(double seconds);
  // Any thread: runs `work` on the server's thread.
  void post(std::function<void()> work);
  // On the server's thread: runs `work` there later, unless run() ends first.
  void post_after(double seconds, std::function<void()> work);
  // Any thread; counters may be of different moments.
  HttpServerStats stats() const;
  // Any thread: processor time that run()'s thread has used; 0 when it is not running.
  double cpu_seconds() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::serve
