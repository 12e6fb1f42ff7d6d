// The certificate and key that a server shows, checked when it starts: they exist, belong together
// and are valid today. TLS 1.2 and later.
#pragma once

#include <string>

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace fathom::serve {

// For whoever takes it over (asio's ssl::context does). Files are PEM; the certificate's may hold its
// chain behind it. Errors name the file.
ssl_ctx_st* make_tls_context(const std::string& certificate_file, const std::string& key_file);

}  // namespace fathom::serve
