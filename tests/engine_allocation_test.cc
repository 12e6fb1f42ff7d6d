// A decoding step of the engine allocates nothing once it is warm: every operator new of this
// program is counted, scratch memory's growth among them.
#include "core/counting_allocator.h"
#include "infer/engine.h"
#include "tests/tiny_model.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

using testing_models::num_allocations;

struct Case {
  int threads;
  int64_t batch;
  double temperature;
  int64_t max_draft;
  int64_t num_modules;
};

// The number of steps at the end that allocated nothing, of those between the prompts and the end
// of the replies. The depth of drafting is fixed: chosen by time, a first step of a new size would
// come at any point.
int64_t quiet_steps(const Case& c, bool leave_room) {
  ModelConfig config = testing_models::tiny_config();
  config.num_nextn_predict_layers = c.num_modules;
  Context ctx(c.threads);
  Model model(config, kPolicyBf16);
  initialize_parameters(config, 3, model.weights());
  Engine engine(model, {.cache_tokens = 4096, .max_draft = c.max_draft, .adapt_draft = false});
  int64_t num_tokens = 0, num_finished = 0;
  std::vector<std::vector<int32_t>> kept;  // what a client who copies would do
  for (int64_t i = 0; i < c.batch; ++i) {
    Request request;
    request.prompt =
        testing_models::random_tokens(6 + i, config.vocab_size, static_cast<uint64_t>(i));
    request.max_tokens = 240;
    request.sampling.temperature = c.temperature;
    request.sampling.top_p = 0.95;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.on_event = [&](const RequestEvent& event) {
      num_tokens += static_cast<int64_t>(event.tokens.size());
      num_finished += event.finished;
      if (!leave_room) kept.emplace_back(event.tokens.size());
      return true;
    };
    engine.submit(std::move(request));
  }
  int64_t quiet = 0;
  while (num_finished == 0) {
    const int64_t before = num_allocations;
    engine.step(ctx);
    if (num_finished > 0) break;
    quiet = num_allocations == before ? quiet + 1 : 0;
  }
  EXPECT_GT(num_tokens, 200);
  return quiet;
}

TEST(EngineAllocationTest, ADecodingStepAllocatesNothing) {
  for (const int threads : {1, 2}) {
    for (const int64_t batch : {1, 8}) {
      for (const double temperature : {0.0, 0.8}) {
        for (const auto& [max_draft, num_modules] :
             {std::pair(0, 1), std::pair(2, 1), std::pair(2, 2)}) {
          const Case c{threads, batch, temperature, max_draft, num_modules};
          // A thread's scratch finds its size when it first gets each kind of work; the replies
          // are long enough for 60 steps behind that, and for the border of a page.
          EXPECT_GE(quiet_steps(c, true), 60)
              << threads << " threads, batch " << batch << ", temperature " << temperature
              << ", drafting " << max_draft << " by " << num_modules;
        }
      }
    }
  }
}

// The test itself: a client that keeps its tokens allocates in every step.
TEST(EngineAllocationTest, AnAllocationInAStepIsSeen) {
  EXPECT_LT(quiet_steps({1, 1, 0.0, 0, 1}, false), 3);
}

// Where memory ends in the middle of a step (the scratch of its products, its logits), those in the
// call get an error; the engine goes on, and the next request gets what it always gets.
TEST(EngineAllocationTest, MemoryThatEndsIsAnErrorOfThoseInTheCall) {
  const ModelConfig config = testing_models::tiny_config();
  Model model(config, kPolicyBf16);
  initialize_parameters(config, 3, model.weights());
  struct Reply {
    std::vector<int32_t> tokens;
    FinishReason reason = FinishReason::kStop;
    std::string error;
  };
  const auto submit = [&](Engine& engine, int64_t prompt_tokens, Reply& reply) {
    reply.tokens.reserve(64);
    Request request;
    request.prompt = testing_models::random_tokens(prompt_tokens, config.vocab_size, 5);
    request.max_tokens = 8;
    request.sampling.temperature = 0;
    request.on_event = [&reply](const RequestEvent& event) {
      for (const GeneratedToken& token : event.tokens) reply.tokens.push_back(token.id);
      reply.reason = event.reason;
      reply.error = event.error;
      return true;
    };
    engine.submit(std::move(request));
  };
  Reply plain;
  {
    Context ctx(2);
    Engine engine(model, {.cache_tokens = 1024, .max_draft = 0});
    submit(engine, 9, plain);
    engine.run_until_idle(ctx);
  }
  int64_t num_failed = 0;
  for (int64_t k = 0; k < 6; ++k) {
    Context ctx(2);
    Engine engine(model, {.cache_tokens = 1024, .max_draft = 2});
    Reply long_one, another, after;
    submit(engine, 200, long_one);
    submit(engine, 30, another);
    testing_models::large_until_failure = k;
    engine.run_until_idle(ctx);
    testing_models::large_until_failure = -1;
    for (const Reply* reply : {&long_one, &another}) {
      if (reply->reason != FinishReason::kError) continue;
      ++num_failed;
      EXPECT_NE(reply->error.find("out of memory"), std::string::npos) << reply->error;
    }
    submit(engine, 9, after);
    engine.run_until_idle(ctx);
    EXPECT_EQ(after.tokens, plain.tokens) << "behind failure " << k;
    engine.clear_prefix_cache();
    engine.step(ctx);
    EXPECT_EQ(engine.stats().num_free_pages, engine.stats().num_pages);
  }
  EXPECT_GT(num_failed, 1) << "no memory ended: the test proves nothing";
}

}  // namespace
}  // namespace fathom
