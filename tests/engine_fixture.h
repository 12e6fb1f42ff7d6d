// A small model behind an engine, requests to it, and what each of them gets alone.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "infer/engine.h"
#include "tests/tiny_model.h"

namespace fathom::testing_engine {

using namespace testing_models;

inline ModelConfig engine_model() {
  ModelConfig c = tiny_config();
  c.num_hidden_layers = 3;
  c.max_position_embeddings = 512;
  return c;
}

struct Fixture {
  explicit Fixture(const Policy& policy = kPolicyBf16) : Fixture(engine_model(), policy) {}
  Fixture(const ModelConfig& config, const Policy& policy) : model(config, policy) {
    initialize_parameters(model.config(), 3, model.weights());
  }
  Context ctx{2};
  Model model;
};

struct Reply {
  std::vector<int32_t> tokens;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  std::string error;
  RequestUsage usage;
  std::vector<GeneratedToken> details;
  std::vector<double> prompt_logprobs;
};

inline Request request_to(Reply& reply, std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed = 0,
                   double temperature = 0) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.seed = seed;
  r.sampling.temperature = temperature;
  r.on_event = [&reply](const RequestEvent& event) {
    EXPECT_FALSE(reply.finished) << "an event behind the last";
    for (const GeneratedToken& token : event.tokens) {
      reply.tokens.push_back(token.id);
      reply.details.push_back(token);
    }
    for (const GeneratedToken& score : event.prompt_logprobs)
      reply.prompt_logprobs.push_back(score.logprob);
    reply.finished = event.finished;
    reply.reason = event.reason;
    reply.error = event.error;
    reply.usage = event.usage;
    return true;
  };
  return r;
}

inline EngineConfig plain_config() { return {.cache_tokens = 1024, .max_draft = 0}; }

// What each request gets alone in a fresh engine.
inline Reply alone(Fixture& f, Request request) {
  Reply reply;
  auto on_event = request_to(reply, {}, 1).on_event;
  request.on_event = on_event;
  EngineConfig config = plain_config();
  config.cache_dtype = f.model.policy().latent_cache;
  Engine engine(f.model, config);
  engine.submit(std::move(request));
  engine.run_until_idle(f.ctx);
  EXPECT_TRUE(reply.finished);
  return reply;
}

}  // namespace fathom::testing_engine
