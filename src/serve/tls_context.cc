#include "serve/tls_context.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "core/error.h"
#include "core/file.h"

namespace fathom::serve {
namespace {

std::string openssl_reason() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : "not readable";
}

std::string date_of(const ASN1_TIME* time) {
  std::tm tm{};
  if (ASN1_TIME_to_tm(time, &tm) != 1) return "a date that cannot be read";
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02} UTC", tm.tm_year + 1900, tm.tm_mon + 1,
                     tm.tm_mday, tm.tm_hour, tm.tm_min);
}

void check_dates(const std::string& file, const X509* certificate) {
  const ASN1_TIME* begin = X509_get0_notBefore(certificate);
  const ASN1_TIME* end = X509_get0_notAfter(certificate);
  if (X509_cmp_current_time(begin) > 0)
    throw_bad_input({file, "", "valid from " + date_of(begin), "a certificate valid today", ""});
  if (X509_cmp_current_time(end) < 0)
    throw_bad_input({file, "", "expired on " + date_of(end), "a certificate valid today",
                     "renew it, then start again"});
}

// HTTP/1.1 is what this server speaks; who offers only others is told so by the handshake.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_bytes,
                    const unsigned char* offered, unsigned int offered_bytes, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_bytes, kOurs, sizeof kOurs - 1, offered, offered_bytes) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

ssl_ctx_st* make_tls_context(const std::string& certificate_file, const std::string& key_file) {
  for (const std::string& file : {certificate_file, key_file}) {
    if (!local_file_system().info(file).exists)
      throw_bad_input({file, "", "no such file", "a PEM file", ""});
  }
  ERR_clear_error();
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()),
                                                            &SSL_CTX_free);
  FATHOM_CHECK(context != nullptr, "TLS: {}", openssl_reason());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                         SSL_OP_CIPHER_SERVER_PREFERENCE);
  // Thousands of streams wait for tokens most of the time: their buffers are given back meanwhile.
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  if (SSL_CTX_use_certificate_chain_file(context.get(), certificate_file.c_str()) != 1)
    throw_bad_input({certificate_file, "", openssl_reason(), "a certificate in PEM", ""});
  check_dates(certificate_file, SSL_CTX_get0_certificate(context.get()));
  if (SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1)
    throw_bad_input({key_file, "", openssl_reason(),
                     "the private key of " + certificate_file + " in PEM, without a password", ""});
  SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);
  return context.release();
}

}  // namespace fathom::serve
