// The service over TLS: the real program, certificates made here, OpenSSL as the client.
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "tests/serve_fixture.h"

namespace fathom {
namespace {

using testing_serve::Answer;
using testing_serve::Server;
using testing_serve::Wire;

// A key and a certificate that it signed itself, valid from and until so many seconds from now.
void write_pair(const std::string& cert_path, const std::string& key_path, long from, long until) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* cert = X509_new();
  X509_set_version(cert, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
  X509_gmtime_adj(X509_getm_notBefore(cert), from);
  X509_gmtime_adj(X509_getm_notAfter(cert), until);
  X509_set_pubkey(cert, key);
  X509_NAME* name = X509_get_subject_name(cert);
  const auto* text = reinterpret_cast<const unsigned char*>("localhost");
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, text, -1, -1, 0);
  X509_set_issuer_name(cert, name);
  ASSERT_GT(X509_sign(cert, key, EVP_sha256()), 0);
  std::FILE* file = std::fopen(cert_path.c_str(), "w");
  PEM_write_X509(file, cert);
  std::fclose(file);
  file = std::fopen(key_path.c_str(), "w");
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  X509_free(cert);
  EVP_PKEY_free(key);
}

// One request by TLS, `version` at most; status 0: no handshake.
struct TlsAnswer {
  std::string text, version;
  bool closed_properly = false;
};
TlsAnswer ask_by_tls(int port, const std::string& message, int version = TLS1_3_VERSION) {
  TlsAnswer answer;
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  &SSL_CTX_free);
  SSL_CTX_set_security_level(context.get(), 0);  // so that old versions fail at the server
  SSL_CTX_set_min_proto_version(context.get(), TLS1_VERSION);
  SSL_CTX_set_max_proto_version(context.get(), version);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), &SSL_free);
  Wire wire(port);
  SSL_set_fd(ssl.get(), wire.descriptor());
  if (SSL_connect(ssl.get()) == 1) {
    answer.version = SSL_get_version(ssl.get());
    SSL_write(ssl.get(), message.data(), static_cast<int>(message.size()));
    char buffer[4096];
    int n;
    while ((n = SSL_read(ssl.get(), buffer, sizeof buffer)) > 0)
      answer.text.append(buffer, static_cast<size_t>(n));
    answer.closed_properly = SSL_get_error(ssl.get(), n) == SSL_ERROR_ZERO_RETURN;
  }
  ERR_clear_error();
  return answer;
}

int64_t num_descriptors(pid_t pid) {
  int64_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid)))
    count += !entry.path().empty();
  return count;
}

class ServeTlsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fmt::format("{}/serve_tls_test_files/{}", FATHOM_BINARY_DIR, ::getpid());
    local_file_system().remove_all(folder_);
    local_file_system().make_directories(folder_);
    testing_serve::write_tiny_folder(folder_ + "/tiny");
    constexpr long kDay = 86400;
    write_pair(path("good.pem"), path("good.key"), -kDay, kDay);
    write_pair(path("old.pem"), path("old.key"), -3 * kDay, -kDay);
    write_pair(path("early.pem"), path("early.key"), kDay, 3 * kDay);
  }
  static void TearDownTestSuite() { local_file_system().remove_all(folder_); }
  static std::string path(const std::string& name) { return folder_ + "/" + name; }
  static std::vector<std::string> arguments(const std::string& cert, const std::string& key) {
    return {"--model", "tiny=" + path("tiny"), "--port", "0", "--threads", "1", "--precision",
            "fp32", "--tls-cert", path(cert), "--tls-key", path(key)};
  }
  // What it says when it ends at once.
  static std::string refusal(const std::string& cert, const std::string& key) {
    Server server(arguments(cert, key));
    EXPECT_EQ(server.port(), 0);
    EXPECT_NE(server.end(), 0);
    return server.log();
  }

  static inline std::string folder_;
};

TEST_F(ServeTlsTest, AnswersStreamsAndClosesInOrder) {
  Server server(arguments("good.pem", "good.key"));
  ASSERT_GT(server.port(), 0) << server.log();
  const std::string get = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    const TlsAnswer answer = ask_by_tls(server.port(), get, version);
    EXPECT_TRUE(answer.text.starts_with("HTTP/1.1 200 ")) << answer.text;
    EXPECT_EQ(answer.version, version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
    EXPECT_TRUE(answer.closed_properly) << "else a cut could not be told from the end";
  }
  EXPECT_EQ(ask_by_tls(server.port(), get, TLS1_1_VERSION).version, "") << "too old";
  // A stream, and a body of more than one TLS record in the request.
  const Json body{{"model", "tiny"},
                  {"messages", {{{"role", "user"}, {"content", "fox"}}}},
                  {"max_tokens", 20},
                  {"ignore_eos", true},
                  {"stream", true},
                  {"metadata", {{"x", std::string(50000, 'x')}}}};
  std::string post = Server::message("POST", "/chat/completions", body.dump());
  post.insert(post.find("\r\n") + 2, "Connection: close\r\n");
  const TlsAnswer streamed = ask_by_tls(server.port(), post);
  EXPECT_NE(streamed.text.find("data: [DONE]"), std::string::npos) << streamed.text.substr(0, 500);
  EXPECT_EQ(server.end(), 0);
}

TEST_F(ServeTlsTest, BrokenHandshakesAreToldAndLeakNothing) {
  Server server(arguments("good.pem", "good.key"));
  ASSERT_GT(server.port(), 0) << server.log();
  Wire plain(server.port());
  plain.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
  const Answer told = plain.read_answer();
  EXPECT_EQ(told.status, 400);
  EXPECT_NE(told.body.find("use https"), std::string::npos) << told.body;
  plain.close();
  const std::string get = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  EXPECT_NE(ask_by_tls(server.port(), get).text, "");
  const int64_t before = num_descriptors(server.pid());
  for (int i = 0; i < 200; ++i) {
    Wire wire(server.port());
    switch (i % 4) {
      case 0:
        break;  // says nothing and goes
      case 1:
        wire.send(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11));  // half a hello
        break;
      case 2:
        wire.send(std::string("\x16\x03\x01\x00\x04zzzz", 9));  // none
        break;
      default:
        ask_by_tls(server.port(), get, TLS1_1_VERSION);
    }
  }
  for (int wait = 0; wait < 200 && num_descriptors(server.pid()) > before; ++wait) usleep(20000);
  EXPECT_LE(num_descriptors(server.pid()), before);
  EXPECT_TRUE(ask_by_tls(server.port(), get).text.starts_with("HTTP/1.1 200 "));
  EXPECT_EQ(server.end(), 0);
}

TEST_F(ServeTlsTest, FilesThatCannotBeUsedAreNamed) {
  const auto names = [](const std::string& log, const std::string& file, const std::string& why) {
    EXPECT_NE(log.find(file), std::string::npos) << log;
    EXPECT_NE(log.find(why), std::string::npos) << log;
  };
  names(refusal("old.pem", "old.key"), "old.pem", "expired on 20");
  names(refusal("early.pem", "early.key"), "early.pem", "valid from 20");
  names(refusal("good.pem", "old.key"), "old.key", "key values mismatch");
  names(refusal("good.pem", "good.pem"), "good.pem", "the private key of");
  names(refusal("good.key", "good.key"), "good.key", "a certificate in PEM");
  names(refusal("none.pem", "good.key"), "none.pem", "no such file");
  std::vector<std::string> half = arguments("good.pem", "good.key");
  half.resize(half.size() - 2);
  Server server(half);
  EXPECT_EQ(server.port(), 0);
  EXPECT_NE(server.log().find("come together"), std::string::npos) << server.log();
}

}  // namespace
}  // namespace fathom
