// A service whose engine stops in the middle of a step: what /health says and what is written down.
#include "serve/run_service.h"
#include "tests/serve_fixture.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "ckpt/load_model.h"
#include "serve/chat_vocabulary.h"

namespace fathom {
namespace {

using testing_serve::Server;
using testing_serve::Wire;

// A gate that the engine's thread runs into.
class Gate final : public TokenConstraint {
 public:
  explicit Gate(int64_t num_ids)
      : words_(static_cast<size_t>(TokenMask::num_words(num_ids)), ~uint64_t{0}) {}
  const TokenMask& allowed() override {
    std::unique_lock lock(mutex_);
    reached_ = true;
    moved_.notify_all();
    moved_.wait(lock, [this] { return open_; });
    mask_ = TokenMask(words_);
    return mask_;
  }
  void advance(int32_t) override {}
  void wait_until_reached() {
    std::unique_lock lock(mutex_);
    moved_.wait(lock, [this] { return reached_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    moved_.notify_all();
  }

 private:
  std::vector<uint64_t> words_;
  TokenMask mask_;
  std::mutex mutex_;
  std::condition_variable moved_;
  bool reached_ = false, open_ = false;
};

// What another thread says, once it does.
class Said {
 public:
  void say(const std::string& text) {
    const std::lock_guard lock(mutex_);
    texts_.push_back(text);
    moved_.notify_all();
  }
  std::string wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        moved_.wait_for(lock, std::chrono::seconds(60), [this] { return !texts_.empty(); }));
    return texts_.empty() ? "" : texts_.back();
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return texts_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  std::vector<std::string> texts_;
};

class WatchdogTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fmt::format("{}/watchdog_test_files", FATHOM_BINARY_DIR);
    local_file_system().remove_all(folder_);
    local_file_system().make_directories(folder_);
    testing_serve::write_tiny_folder(folder_);
    serve::RunOptions options;
    options.config.stall_seconds = 0.2;
    options.stop = &stop_;
    options.load = [this] {
      auto ctx = std::make_unique<Context>(1);
      auto model = load_model(*ctx, local_file_system(), folder_, policy_by_name("fp32"));
      std::vector<std::unique_ptr<serve::ModelHost>> hosts;
      hosts.push_back(std::make_unique<serve::ModelHost>(
          "tiny", std::move(ctx), std::move(model),
          serve::open_chat_vocabulary(local_file_system(), folder_, {}),
          EngineConfig{.cache_tokens = 1024}, serve::PriceCard{}));
      host_ = hosts[0].get();
      return hosts;
    };
    options.on_listening = [this](const std::string& url) { listening_.say(url); };
    options.on_stall = [this](const std::string& state) { stalled_.say(state); };
    service_ = std::thread([options] { serve::run_service(options); });
    const std::string url = listening_.wait();
    port_ = std::stoi(url.substr(url.rfind(':') + 1));
  }
  void TearDown() override {
    stop_ = true;
    service_.join();
    local_file_system().remove_all(folder_);
  }
  testing_serve::Answer health() const {
    Wire wire(port_);
    wire.send(Server::message("GET", "/health"));
    return wire.read_answer();
  }

  std::string folder_;
  std::atomic<bool> stop_{false};
  Said listening_, stalled_;
  serve::ModelHost* host_ = nullptr;
  std::thread service_;
  int port_ = 0;
};

TEST_F(WatchdogTest, AStalledEngineIsSeenAndDescribed) {
  // Idle for longer than an engine may be silent, which is no stall, and then at work.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(health().status, 200);
  EXPECT_EQ(stalled_.count(), 0u);
  const auto gate = std::make_shared<Gate>(host_->tokenizer().vocab_size());
  Request request{
      .prompt = {1, 2, 3, 4, 5}, .max_tokens = 2, .tenant = "k_of_someone", .constraint = gate};
  host_->submit(std::move(request), /*ticket=*/1'000'000, nullptr, true);
  gate->wait_until_reached();
  const std::string state = stalled_.wait();
  const auto answer = health();
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.body.find("stalled"), std::string::npos) << answer.body;
  for (const char* part :
       {"model tiny: no step for", "of k_of_someone: prompt of 5 tokens, 0 generated", "\"engine\"",
        "\"http\"", "\"worker\"", "+0x"}) {
    EXPECT_NE(state.find(part), std::string::npos) << part << "\n" << state;
  }
  EXPECT_EQ(state.find("does not answer"), std::string::npos) << state;
  gate->open();
  for (int wait = 0; wait < 1000 && health().status != 200; ++wait) usleep(10000);
  EXPECT_EQ(health().status, 200) << "it goes on";
  EXPECT_EQ(stalled_.count(), 1u) << "said once";
}

}  // namespace
}  // namespace fathom
