// A running `fathom serve` over a tiny random model, and a plain HTTP client, for tests.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "ckpt/hf_folder.h"
#include "core/json.h"
#include "data/tokenizer/bpe_trainer.h"
#include "tests/tiny_model.h"

namespace fathom::testing_serve {

// A folder with a model and a tokenizer that has DeepSeek's special tokens; random weights, so that
// replies are noise of any length.
inline void write_tiny_folder(const std::string& folder,
                              ModelConfig config = testing_models::tiny_config()) {
  const std::vector<std::string_view> documents = {
      "the quick brown fox jumps over the lazy dog", "the server answers the client again",
      "数学 和 编程", "a tiny model says the words that it likes"};
  BpeTrainConfig training;
  training.vocab_size = 310;
  const Tokenizer tokenizer = train_bpe(documents, training);
  config.vocab_size = tokenizer.vocab_size();
  config.max_position_embeddings = 2048;
  Model model(config, policy_by_name("fp32"));
  initialize_parameters(config, 7, model.weights());
  save_hf_folder(local_file_system(), folder, config, model.weights());
  save_tokenizer(local_file_system(), tokenizer, folder);
}

struct Answer {
  int status = 0;  // 0: the connection ended without one
  std::string head, body;
  Json json() const { return parse_json(body, "reply"); }
  bool has(std::string_view text) const { return head.find(text) != std::string::npos; }
  // The JSON of every "data:" line of a stream but [DONE].
  std::vector<Json> events() const {
    std::vector<Json> events;
    for (size_t at = 0; (at = body.find("data: ", at)) != std::string::npos;) {
      at += 6;
      const std::string line = body.substr(at, body.find('\n', at) - at);
      if (line != "[DONE]") events.push_back(parse_json(line, "event"));
    }
    return events;
  }
  bool is_done() const { return body.ends_with("data: [DONE]\n\n"); }
};

// One TCP connection.
class Wire {
 public:
  explicit Wire(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Wire() { close(); }
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  bool connected() const { return connected_; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  int descriptor() const { return socket_; }
  void half_close() { ::shutdown(socket_, SHUT_WR); }
  void send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  // More bytes, or false at the end or after `ms`.
  bool receive(std::string& out, int ms = 20000) {
    pollfd wait{socket_, POLLIN, 0};
    if (::poll(&wait, 1, ms) <= 0) return false;
    char buffer[65536];
    const ssize_t n = ::recv(socket_, buffer, sizeof buffer, 0);
    if (n <= 0) return false;
    out.append(buffer, static_cast<size_t>(n));
    return true;
  }
  // The next reply; what comes behind it stays.
  Answer read_answer(int ms = 20000) {
    Answer answer;
    size_t head_end;
    while ((head_end = pending_.find("\r\n\r\n")) == std::string::npos) {
      if (!receive(pending_, ms)) return answer;
    }
    answer.head = pending_.substr(0, head_end + 2);
    pending_.erase(0, head_end + 4);
    answer.status = std::stoi(answer.head.substr(9, 3));
    if (answer.has("Transfer-Encoding: chunked")) {
      for (;;) {
        size_t line_end;
        while ((line_end = pending_.find("\r\n")) == std::string::npos) {
          if (!receive(pending_, ms)) return answer;
        }
        const size_t bytes = std::stoul(pending_.substr(0, line_end), nullptr, 16);
        while (pending_.size() < line_end + 4 + bytes) {
          if (!receive(pending_, ms)) return answer;
        }
        answer.body += pending_.substr(line_end + 2, bytes);
        pending_.erase(0, line_end + 4 + bytes);
        if (bytes == 0) return answer;
      }
    }
    const size_t at = answer.head.find("Content-Length: ");
    const size_t bytes = at == std::string::npos ? 0 : std::stoul(answer.head.substr(at + 16));
    while (pending_.size() < bytes) {
      if (!receive(pending_, ms)) break;
    }
    answer.body = pending_.substr(0, bytes);
    pending_.erase(0, bytes);
    return answer;
  }

 private:
  int socket_;
  bool connected_ = false;
  std::string pending_;
};

class Server {
 public:
  // Starts the program and waits until it listens.
  explicit Server(std::vector<std::string> arguments) {
    int errors[2];
    EXPECT_EQ(pipe2(errors, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that dies takes its server along
      dup2(errors[1], 2);
      std::vector<char*> argv;
      const char* other = getenv("FATHOM_SERVE_PROGRAM");  // another build of it: script/soak
      std::string program = other != nullptr ? other : FATHOM_BINARY_DIR "/fathom", verb = "serve";
      argv.push_back(program.data());
      argv.push_back(verb.data());
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(program.c_str(), argv.data());
      _exit(127);
    }
    ::close(errors[1]);
    errors_ = errors[0];
    const bool tls = std::find(arguments.begin(), arguments.end(), "--tls-cert") != arguments.end();
    const std::string sign = fmt::format("listening on http{}://127.0.0.1:", tls ? "s" : "");
    char buffer[4096];
    while (log_.find(sign) == std::string::npos || log_.back() != '\n') {
      const ssize_t n = read(errors_, buffer, sizeof buffer);
      if (n <= 0) break;
      log_.append(buffer, static_cast<size_t>(n));
    }
    const size_t at = log_.find(sign);
    if (at != std::string::npos) port_ = std::stoi(log_.substr(at + sign.size()));
  }
  ~Server() {
    if (pid_ > 0) kill();
    ::close(errors_);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const { return port_; }
  const std::string& log() const { return log_; }
  pid_t pid() const { return pid_; }
  // SIGTERM and the exit status.
  int end() {
    ::kill(pid_, SIGTERM);
    int status = -1;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    char buffer[4096];
    for (ssize_t n; (n = read(errors_, buffer, sizeof buffer)) > 0;)
      log_.append(buffer, static_cast<size_t>(n));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  static std::string message(const std::string& method, const std::string& path,
                             const std::string& body = "", const std::string& key = "") {
    std::string text = method + " " + path + " HTTP/1.1\r\nHost: test\r\n";
    if (!key.empty()) text += "Authorization: Bearer " + key + "\r\n";
    if (!body.empty())
      text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
    return text + "\r\n" + body;
  }
  Answer ask(const std::string& method, const std::string& path, const std::string& body = "",
             const std::string& key = "") const {
    Wire wire(port_);
    wire.send(message(method, path, body, key));
    return wire.read_answer();
  }
  Answer post(const std::string& path, const Json& body, const std::string& key = "") const {
    return ask("POST", path, body.dump(), key);
  }

 private:
  pid_t pid_ = -1;
  int errors_ = -1, port_ = 0;
  std::string log_;
};

// A server over the tiny model for all tests of a program, and more of them where a test wants its
// own.
class ServeTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fmt::format("{}/serve_test_files/{}", FATHOM_BINARY_DIR, ::getpid());
    local_file_system().remove_all(folder_);
    local_file_system().make_directories(folder_);
    write_tiny_folder(folder_ + "/tiny");
    server_ = start({"--no-auth"}).release();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(server_->end(), 0);
    delete server_;
    local_file_system().remove_all(folder_);
  }
  static std::unique_ptr<Server> start(std::vector<std::string> more) {
    std::vector<std::string> arguments = {"--model", "tiny=" + folder_ + "/tiny", "--port", "0",
                                          "--threads", "1", "--precision", "fp32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto server = std::make_unique<Server>(arguments);
    EXPECT_GT(server->port(), 0) << server->log();
    return server;
  }
  static Json chat_body(int64_t max_tokens = 8) {
    return {{"model", "deepseek-chat"},
            {"messages", {{{"role", "user"}, {"content", "the quick brown fox"}}}},
            {"max_tokens", max_tokens},
            {"ignore_eos", true},
            {"seed", 1}};
  }
  static std::string path(const std::string& name) { return folder_ + "/" + name; }
  static Json ask_for(const Server& server, const std::string& where, const std::string& key = "") {
    return server.ask("GET", where, "", key).json();
  }
  // What `fathom keys` prints.
  static Json keys(const std::string& db, const std::string& arguments) {
    return program_json(fmt::format("keys {} --db '{}' --json", arguments, db));
  }
  static Json program_json(const std::string& arguments) {
    std::string out;
    std::FILE* pipe =
        popen(fmt::format("'{}/fathom' {} 2>/dev/null", FATHOM_BINARY_DIR, arguments).c_str(), "r");
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
    EXPECT_EQ(pclose(pipe), 0) << arguments;
    return parse_json(out, "output");
  }

  static inline std::string folder_;
  static inline Server* server_ = nullptr;
};

}  // namespace fathom::testing_serve
