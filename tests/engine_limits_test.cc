// Where the engine ends a reply or refuses a request: cancellation, deadlines, the end of the context,
// numbers that are none. The others never notice.
#include <cmath>

#include "core/error.h"
#include "tests/engine_fixture.h"

namespace fathom {
namespace {

using namespace testing_engine;
using namespace testing_models;

TEST(Engine, CancellationDeadlinesAndRefusalsTouchOneRequestOnly) {
  Fixture f;
  Engine engine(f.model, {.cache_tokens = 1024, .max_queued = 4});
  const auto prompt = [&](int64_t n) { return random_tokens(n, f.model.config().vocab_size, 4); };
  Reply cancelled, late, kept, stopped;
  const RequestId id = engine.submit(request_to(cancelled, prompt(300), 100));
  Request r = request_to(late, prompt(20), 100);
  r.deadline = EngineClock::now();
  engine.submit(std::move(r));
  engine.submit(request_to(kept, prompt(30), 15));
  r = request_to(stopped, prompt(40), 100);
  const auto report = r.on_event;
  r.on_event = [&](const RequestEvent& event) {
    report(event);
    return stopped.tokens.size() < 3;  // the client has gone
  };
  engine.submit(std::move(r));
  EXPECT_THROW(engine.submit(request_to(late, prompt(2), 1)), Error) << "the queue is full";
  engine.step(f.ctx);
  engine.cancel(id);
  engine.step(f.ctx);
  EXPECT_TRUE(cancelled.finished);
  EXPECT_EQ(cancelled.reason, FinishReason::kCancelled);
  EXPECT_EQ(late.reason, FinishReason::kDeadline);
  engine.run_until_idle(f.ctx);
  EXPECT_EQ(stopped.reason, FinishReason::kCancelled);
  EXPECT_EQ(kept.tokens.size(), 15u);
  EXPECT_EQ(kept.tokens, alone(f, request_to(kept, prompt(30), 15)).tokens);

  EXPECT_THROW(engine.submit(request_to(late, {}, 1)), Error);
  EXPECT_THROW(engine.submit(request_to(late, {-1}, 1)), Error);
  EXPECT_THROW(engine.submit(request_to(late, {67}, 1)), Error);
  EXPECT_THROW(engine.submit(request_to(late, prompt(512), 1)), Error) << "longer than the context";
  EXPECT_THROW(engine.submit(request_to(late, prompt(2), 0)), Error);
}

// The context ends in mid-answer: the reply ends with "length", and nothing else happens.
TEST(Engine, TheEndOfContextOrCacheIsTheEndOfTheReply) {
  Fixture f;
  for (const int64_t cache_tokens : {1024, 128}) {
    for (const int64_t max_draft : {0, 3}) {
      Engine engine(f.model, {.cache_tokens = cache_tokens, .max_draft = max_draft});
      Reply reply;
      engine.submit(request_to(reply, random_tokens(100, 67, 4), 10000));
      engine.run_until_idle(f.ctx);
      EXPECT_EQ(reply.reason, FinishReason::kLength);
      EXPECT_EQ(reply.tokens.size(),
                static_cast<size_t>(std::min<int64_t>(512, cache_tokens) - 100));
    }
  }
}

// Lengths around the limit, many at once, drafted or not: each is refused with both numbers, or ends
// exactly at its own maximum or the context's.
TEST(Engine, LengthsAroundTheEndOfTheContext) {
  Fixture f;
  const Random random(11, RandomPurpose::kTest);
  uint64_t draws = 0;
  const auto draw = [&](int64_t from, int64_t to) {
    return from + static_cast<int64_t>(random.below(draws++, static_cast<uint64_t>(to - from + 1)));
  };
  int64_t num_refused = 0, num_cut = 0, num_whole = 0;
  for (const int64_t max_draft : {0, 1, 3}) {
    Engine engine(f.model, {.cache_tokens = 4096, .max_draft = max_draft});
    struct Asked {
      Reply reply;
      int64_t expected = 0;
    };
    std::vector<std::unique_ptr<Asked>> asked;
    for (int64_t i = 0; i < 60; ++i) {
      const int64_t num_prompt = draw(0, 3) == 0 ? draw(505, 515) : draw(440, 514);
      const int64_t max_tokens = draw(0, 2) == 0 ? draw(60, 2000) : draw(1, 80);
      auto& a = asked.emplace_back(std::make_unique<Asked>());
      Request request =
          request_to(a->reply, random_tokens(num_prompt, 67, static_cast<uint64_t>(draw(1, 4))),
                     max_tokens, static_cast<uint64_t>(i), static_cast<double>(draw(0, 1)));
      if (num_prompt >= 512) {
        try {
          engine.submit(std::move(request));
          ADD_FAILURE() << num_prompt << " tokens were taken";
        } catch (const Error& error) {
          const std::string text = error.what();
          EXPECT_NE(text.find(std::to_string(num_prompt)), std::string::npos) << text;
          EXPECT_NE(text.find("512"), std::string::npos) << text;
        }
        asked.pop_back();
        ++num_refused;
        continue;
      }
      a->expected = std::min(max_tokens, 512 - num_prompt);
      ++(a->expected == max_tokens ? num_whole : num_cut);
      engine.submit(std::move(request));
    }
    engine.run_until_idle(f.ctx);
    for (const auto& a : asked) {
      EXPECT_TRUE(a->reply.finished);
      EXPECT_EQ(a->reply.reason, FinishReason::kLength) << a->reply.error;
      EXPECT_EQ(static_cast<int64_t>(a->reply.tokens.size()), a->expected);
    }
  }
  EXPECT_GT(num_refused, 10);
  EXPECT_GT(num_cut, 20);
  EXPECT_GT(num_whole, 20);
}

TEST(Engine, NanInTheWeightsIsAnErrorOfThoseItTouches) {
  Fixture f;
  // The embedding of one token.
  const TensorView embedding = f.model.weights()["model.embed_tokens.weight"];
  embedding.as<bf16>()[5 * f.model.config().hidden_size] = bf16(NAN);
  Engine engine(f.model, {.cache_tokens = 1024});
  Reply bad, good;
  engine.submit(request_to(bad, {1, 5, 2}, 4));
  engine.submit(request_to(good, {1, 6, 2}, 1));
  engine.run_until_idle(f.ctx);
  EXPECT_EQ(bad.reason, FinishReason::kError);
  EXPECT_NE(bad.error.find("logit"), std::string::npos) << bad.error;
  EXPECT_EQ(good.reason, FinishReason::kLength);
}

}  // namespace
}  // namespace fathom
