// The engine: a reply is a function of the request alone, whatever else runs, however pages and
// prompts are cut, drafted or thrown out; and every page comes back.
#include "infer/engine.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "infer/latent_cache.h"
#include "tests/engine_fixture.h"

namespace fathom {
namespace {

using namespace testing_engine;
using namespace testing_models;

// Prompts with common beginnings, some longer than a page, greedy and sampled.
std::vector<Request> mixed_requests(const Model& model, int64_t count, uint64_t seed) {
  const Random random(seed, RandomPurpose::kTest);
  std::vector<Request> requests;
  for (int64_t i = 0; i < count; ++i) {
    const auto draw = [&](uint64_t what, uint64_t bound) {
      return static_cast<int64_t>(random.below(static_cast<uint64_t>(i) * 8 + what, bound));
    };
    std::vector<int32_t> prompt = random_tokens(1 + draw(0, 200), model.config().vocab_size,
                                                50 + static_cast<uint64_t>(draw(1, 3)));
    if (draw(2, 2) == 0) prompt.push_back(static_cast<int32_t>(draw(3, 60)));
    Request r;
    r.prompt = std::move(prompt);
    r.max_tokens = 1 + draw(4, 40);
    r.sampling.temperature = draw(5, 3) * 0.7;
    r.sampling.top_p = draw(5, 3) == 2 ? 0.9 : 1;
    r.sampling.seed = static_cast<uint64_t>(i);
    r.sampling.frequency_penalty = draw(6, 4) == 0 ? 0.5 : 0;
    r.priority = draw(7, 3);
    requests.push_back(std::move(r));
  }
  return requests;
}

TEST(Engine, RepliesDoNotDependOnCompanyPressureChunksOrDrafts) {
  for (const auto& [policy, num_modules] :
       {std::pair(&kPolicyBf16, 1), std::pair(&kPolicyFp32, 1), std::pair(&kPolicyBf16, 2)}) {
    ModelConfig config = engine_model();
    config.num_nextn_predict_layers = num_modules;
    Fixture f(config, *policy);
    const std::vector<Request> requests = mixed_requests(f.model, 24, 1);
    std::vector<Reply> want;
    for (const Request& request : requests) want.push_back(alone(f, request));
    int64_t num_preemptions = 0, num_accepted = 0;
    for (const int64_t cache_tokens : {4096, 448}) {  // 448: about a quarter of the demand
      for (const int64_t chunk : {2048, 48, 7}) {
        for (const int64_t max_draft : {0, 3}) {
          Engine engine(f.model, {.cache_tokens = cache_tokens,
                                  .cache_dtype = policy->latent_cache,
                                  .prefill_tokens = chunk,
                                  .prefill_tokens_beside_decoding = chunk,
                                  .max_draft = max_draft});
          std::vector<Reply> got(requests.size());
          size_t next = 0;
          for (int64_t steps = 0; next < requests.size() || engine.step(f.ctx); ++steps) {
            if (next < requests.size() && steps % 3 != 2) {
              Request request = requests[next];
              request.on_event = request_to(got[next], {}, 1).on_event;
              engine.submit(std::move(request));
              ++next;
              engine.step(f.ctx);
            }
          }
          for (size_t i = 0; i < requests.size(); ++i) {
            ASSERT_TRUE(got[i].finished);
            ASSERT_EQ(got[i].tokens, want[i].tokens)
                << policy->name << " request " << i << " cache " << cache_tokens << " chunk "
                << chunk << " drafts " << max_draft;
            ASSERT_EQ(got[i].reason, want[i].reason);
          }
          const EngineStats stats = engine.stats();
          num_preemptions += stats.num_preemptions;
          num_accepted += stats.accepted[0];
          EXPECT_EQ(stats.num_running + stats.num_waiting, 0);
          engine.clear_prefix_cache();
          engine.step(f.ctx);
          EXPECT_EQ(engine.stats().num_free_pages, engine.stats().num_pages);
        }
      }
    }
    EXPECT_GT(num_preemptions, 0) << "no pressure: the test proves less than it says";
    EXPECT_GT(num_accepted, 0) << "no draft was ever right";
  }
}

// With prompts of one token every row chooses one: the engine's counters, which know nothing of
// requests, must be the sum of what the tokens report. In company the same tokens report the same.
// What an engine that always drafts `max_draft` tokens must draft behind each token of a reply, and
// what of it comes true, by position: every module over the whole sequence again at each step, in
// an order written down from SPEC C.6 alone.
struct DraftCounts {
  std::array<int64_t, DraftDepth::kMaxDepth> drafted{}, accepted{};
};
DraftCounts naive_drafting(Fixture& f, const Request& request, const std::vector<int32_t>& reply,
                           int64_t max_draft, bool first_module_only = false) {
  const ModelConfig& config = f.model.config();
  const int64_t D = config.hidden_size, V = config.vocab_size;
  const int64_t modules = first_module_only ? 1 : config.num_nextn_predict_layers;
  std::vector<int32_t> all = request.prompt;
  all.insert(all.end(), reply.begin(), reply.end());
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  DistributionBuilder builder(V);
  TokenDistribution distribution(V);
  DraftCounts counts;
  // Token n is the newest; the first step of the reply had no drafts.
  int64_t n = prompt_tokens + 1;
  while (n + 1 < static_cast<int64_t>(all.size())) {
    LatentCache cache(CacheLayout::of(config, DType::kF32), n + max_draft + 64);
    std::vector<float> hidden(static_cast<size_t>((n + max_draft) * D)), after(hidden);
    std::vector<float> logits(static_cast<size_t>(V));
    const auto rows_of = [&](std::vector<float>& rows, int64_t first, int64_t count) {
      return TensorView(rows.data() + first * D, DType::kF32, Shape{count, D}, "rows");
    };
    const TensorView logits_LV(logits.data(), DType::kF32, Shape{1, V}, "logits");
    SequenceInput input = cache.input(std::span(all).first(static_cast<size_t>(n)));
    forward_cached(f.ctx, f.model, cache.layout(), std::span(&input, 1),
                   {.logits_LV = logits_LV, .hidden_TD = rows_of(hidden, 0, n)});
    std::vector<int32_t> known(all.begin(), all.begin() + n + 1);
    int64_t first = 0, count = n;  // positions of the pass
    for (int64_t d = 0; d < max_draft; ++d) {
      const int64_t module = std::min(d, modules - 1);
      const bool again = d > module;  // the last module on its own hidden state
      if (again) {
        first = n + d - modules;
        count = 1;
        std::copy_n(after.begin() + (first - 1) * D, D, hidden.begin() + first * D);
      } else if (d > 0) {
        hidden = after;
      }
      const int64_t next = first + module + 1;
      input = cache.input(
          std::span(known).subspan(static_cast<size_t>(next), static_cast<size_t>(count)));
      input.num_cached = first;
      forward_mtp_cached(f.ctx, f.model, cache.layout(), module, std::span(&input, 1),
                         rows_of(hidden, first, count),
                         {.logits_LV = logits_LV, .hidden_TD = rows_of(after, first, count)});
      builder.build(request.sampling, {.logits = logits}, distribution);
      known.push_back(distribution.draw(Random(request.sampling.seed, RandomPurpose::kSampling),
                                        known.size() - static_cast<size_t>(prompt_tokens)));
    }
    // The step that decodes token n and its drafts.
    const int64_t left = static_cast<int64_t>(all.size()) - (n + 1);
    ++n;
    for (int64_t d = 0; d < std::min(max_draft, left - 1); ++d) {
      const bool right = known[static_cast<size_t>(n)] == all[static_cast<size_t>(n)];
      ++counts.drafted[static_cast<size_t>(d)];
      counts.accepted[static_cast<size_t>(d)] += right;
      if (!right) break;
      ++n;
    }
  }
  return counts;
}

TEST(Engine, SeveralMtpModulesDraftOneBehindTheOther) {
  ModelConfig config = engine_model();
  config.vocab_size = 5;  // so that untrained modules are often right
  bool differs_from_the_first_alone = false;
  for (const int64_t modules : {1, 2, 3}) {
    config.num_nextn_predict_layers = modules;
    Fixture f(config, kPolicyFp32);
    for (const int64_t max_draft : {modules, int64_t{4}}) {
      for (const double temperature : {0.0, 1.0}) {
        Reply reply;
        const Request request =
            request_to(reply, random_tokens(9, config.vocab_size, 1), 90, 5, temperature);
        const Reply plain = alone(f, request);
        EngineConfig engine_config = plain_config();
        engine_config.cache_dtype = DType::kF32;
        engine_config.expanded_prefill = false;
        engine_config.max_draft = max_draft;
        engine_config.adapt_draft = false;
        Engine engine(f.model, engine_config);
        engine.submit(request);
        engine.run_until_idle(f.ctx);
        EXPECT_EQ(reply.tokens, plain.tokens);
        const DraftCounts expected = naive_drafting(f, request, plain.tokens, max_draft);
        const EngineStats stats = engine.stats();
        EXPECT_EQ(stats.drafted, expected.drafted) << modules << " modules, " << max_draft;
        EXPECT_EQ(stats.accepted, expected.accepted) << modules << " modules, " << max_draft;
        if (modules > 1) {
          const DraftCounts first = naive_drafting(f, request, plain.tokens, max_draft, true);
          differs_from_the_first_alone |= first.accepted != stats.accepted;
        }
      }
    }
  }
  EXPECT_TRUE(differs_from_the_first_alone) << "the counts would not notice";
}

TEST(Engine, ReportedExpertsAreThoseThatRan) {
  Fixture f;
  std::vector<Reply> replies(3);
  const auto request = [&](size_t i) {
    Request r = request_to(replies[i], {static_cast<int32_t>(5 + i)}, 20, i, 1.0);
    r.report_experts = i != 1;
    r.use_prefix_cache = false;
    return r;
  };
  const ModelConfig& config = f.model.config();
  const auto num_layers =
      moe_layers(config).size() - static_cast<size_t>(config.num_nextn_predict_layers);
  const auto A = static_cast<size_t>(config.num_experts_per_tok);
  std::vector<std::vector<int32_t>> of_first;
  {
    Engine engine(f.model, plain_config());
    engine.submit(request(0));
    engine.run_until_idle(f.ctx);
    const auto counts = engine.expert_counts();
    std::vector<int64_t> reported(counts.size());
    ASSERT_EQ(replies[0].details.size(), 20u);
    for (const GeneratedToken& token : replies[0].details) {
      ASSERT_EQ(token.experts.size(), num_layers * A);
      for (size_t k = 0; k < token.experts.size(); ++k) {
        ++reported[k / A * static_cast<size_t>(config.n_routed_experts) +
                   static_cast<size_t>(token.experts[k])];
      }
      of_first.push_back(token.experts);
    }
    EXPECT_EQ(reported, std::vector<int64_t>(counts.begin(), counts.end()));
  }
  replies.assign(3, {});
  Engine engine(f.model, {.cache_tokens = 1024, .max_draft = 2});
  for (size_t i = 0; i < 3; ++i) engine.submit(request(i));
  engine.run_until_idle(f.ctx);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(replies[0].details[i].experts, of_first[i]);
    EXPECT_TRUE(replies[1].details[i].experts.empty());
  }
}

TEST(Engine, ACachedPromptIsFoundAndChangesNothing) {
  Fixture f;
  const std::vector<int32_t> prompt = random_tokens(300, f.model.config().vocab_size, 9);
  Reply first, second, other_tenant, no_cache;
  Engine engine(f.model, {.cache_tokens = 2048});
  engine.submit(request_to(first, prompt, 20));
  engine.run_until_idle(f.ctx);
  EXPECT_EQ(first.usage.cached_tokens, 0);
  engine.submit(request_to(second, prompt, 20));
  Request r = request_to(other_tenant, prompt, 20);
  r.tenant = "somebody else";
  engine.submit(std::move(r));
  r = request_to(no_cache, prompt, 20);
  r.use_prefix_cache = false;
  engine.submit(std::move(r));
  engine.run_until_idle(f.ctx);
  EXPECT_EQ(second.usage.cached_tokens, 256);
  EXPECT_EQ(other_tenant.usage.cached_tokens, 0);
  EXPECT_EQ(no_cache.usage.cached_tokens, 0);
  for (const Reply* reply : {&second, &other_tenant, &no_cache})
    EXPECT_EQ(reply->tokens, first.tokens);
}

// Several completions of one prompt, sent together: one computes its pages, the others wait for
// them.
TEST(Engine, CompletionsOfOnePromptShareItsPages) {
  Fixture f;
  const std::vector<int32_t> prompt = random_tokens(200, f.model.config().vocab_size, 9);
  Engine engine(f.model, {.cache_tokens = 4096});
  std::vector<Reply> replies(4);
  for (size_t i = 0; i < replies.size(); ++i)
    engine.submit(request_to(replies[i], prompt, 10, i, 1.0));
  engine.run_until_idle(f.ctx);
  EXPECT_EQ(replies[0].usage.cached_tokens, 0);
  for (size_t i = 1; i < replies.size(); ++i) EXPECT_EQ(replies[i].usage.cached_tokens, 192);
  EXPECT_EQ(engine.stats().prompt_tokens, 200 + 3 * 8);
  EXPECT_NE(replies[0].tokens, replies[1].tokens) << "another seed draws the same";
}

TEST(Engine, TheDiskCacheSurvivesARestartAndDamageIsAMiss) {
  Fixture f;
  const std::string folder =
      ::testing::TempDir() + "engine_prefix_store" + std::to_string(::getpid());
  std::filesystem::remove_all(folder);
  const std::vector<int32_t> prompt = random_tokens(400, f.model.config().vocab_size, 9);
  EngineConfig config{.cache_tokens = 2048,
                      .prefix_folder = folder,
                      .fingerprint = model_fingerprint(f.ctx, f.model)};
  std::vector<Reply> replies(5);
  const auto ask = [&](Reply& reply) {
    Engine engine(f.model, config);
    engine.submit(request_to(reply, prompt, 12));
    engine.run_until_idle(f.ctx);
    engine.flush_prefix_store();
    return engine.stats();
  };
  EXPECT_EQ(ask(replies[0]).store.num_written, 6);
  EXPECT_EQ(ask(replies[1]).store.num_read, 6);
  EXPECT_EQ(replies[1].usage.cached_tokens, 384);

  config.fingerprint += "another model";
  ask(replies[2]);
  EXPECT_EQ(replies[2].usage.cached_tokens, 0);
  config.fingerprint = model_fingerprint(f.ctx, f.model);

  // One bit of every file: nothing is believed, all is computed and written again.
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    std::string contents = local_file_system().read_all(file.path());
    contents[contents.size() / 2] ^= 1;
    write_file_atomically(local_file_system(), file.path(), contents);
  }
  EXPECT_EQ(ask(replies[3]).store.num_damaged, 1) << "behind a miss nothing is looked up";
  EXPECT_EQ(replies[3].usage.cached_tokens, 0);

  // A folder with room for two units keeps two.
  config.prefix_folder_bytes = 2 * 64 * 1024;
  EXPECT_LE(ask(replies[4]).store.num_bytes, config.prefix_folder_bytes);
  for (const Reply& reply : replies) EXPECT_EQ(reply.tokens, replies[0].tokens);
  std::filesystem::remove_all(folder);
}

TEST(Engine, PromptLogprobsAreThoseOfTheModel) {
  Fixture f(kPolicyFp32);
  const std::vector<int32_t> prompt = random_tokens(150, f.model.config().vocab_size, 4);
  Engine engine(f.model, {.cache_tokens = 1024, .cache_dtype = DType::kF32});
  for (const int64_t max_tokens : {0, 3}) {
    Reply reply;
    Request r = request_to(reply, prompt, max_tokens);
    r.prompt_logprobs = true;
    r.num_top_logprobs = 2;
    engine.submit(std::move(r));
    engine.run_until_idle(f.ctx);
    ASSERT_EQ(reply.prompt_logprobs.size(), prompt.size());
    const int64_t S = static_cast<int64_t>(prompt.size()), V = f.model.config().vocab_size;
    std::vector<float> logits(static_cast<size_t>(S * V));
    TrainingPass pass(f.model, 1, S);
    pass.logits(f.ctx, {.num_rows = 1, .context = S, .row_length = S, .tokens = prompt.data()},
                TensorView(logits.data(), DType::kF32, Shape{S, V}, "logits"), {});
    for (int64_t i = 1; i < S; ++i) {
      const double want = compute_logprobs(
          std::span(logits).subspan(static_cast<size_t>((i - 1) * V), static_cast<size_t>(V)), 0,
          prompt[static_cast<size_t>(i)], {});
      ASSERT_NEAR(reply.prompt_logprobs[static_cast<size_t>(i)], want, 1e-4) << i;
    }
    EXPECT_EQ(static_cast<int64_t>(reply.tokens.size()), max_tokens);
    for (const GeneratedToken& token : reply.details) {
      ASSERT_EQ(token.top.size(), 2u);
      EXPECT_EQ(token.top[0].id, token.id) << "greedy";
      EXPECT_EQ(token.top[0].logprob, token.logprob);
    }
  }
}

// Who is more important goes first, and takes the place of who is less.
TEST(Engine, PriorityPreempts) {
  Fixture f;
  Engine engine(f.model, {.cache_tokens = 256, .max_draft = 0});
  Reply low, high;
  engine.submit(request_to(low, random_tokens(150, 67, 4), 60));
  for (int i = 0; i < 5; ++i) engine.step(f.ctx);
  Request r = request_to(high, random_tokens(150, 67, 5), 20);
  r.priority = 1;
  engine.submit(std::move(r));
  while (!high.finished) ASSERT_TRUE(engine.step(f.ctx));
  EXPECT_FALSE(low.finished);
  engine.run_until_idle(f.ctx);
  EXPECT_GE(low.usage.num_preemptions, 1);
  EXPECT_EQ(low.tokens, alone(f, request_to(low, random_tokens(150, 67, 4), 60)).tokens);
}

// Random arrivals, cancellations, priorities, cache sizes down to a quarter of the demand, chunks
// and drafts. FATHOM_ENGINE_SCHEDULES says how many (docs/measurements.md has a run of 10,000).
TEST(Engine, SeededSchedulesEndWithEveryPageFreeAndEveryAnswerUnchanged) {
  Fixture f;
  const char* wanted = std::getenv("FATHOM_ENGINE_SCHEDULES");
  const int64_t num_schedules = wanted != nullptr ? std::atoll(wanted) : 60;
  const std::vector<Request> requests = mixed_requests(f.model, 96, 7);
  std::vector<Reply> want;
  for (const Request& request : requests) want.push_back(alone(f, request));
  int64_t num_replies = 0, num_tokens = 0, num_cancelled = 0, num_preemptions = 0, num_drafted = 0;
  for (int64_t schedule = 0; schedule < num_schedules; ++schedule) {
    const Random random(static_cast<uint64_t>(schedule), RandomPurpose::kTest, 99);
    uint64_t draws = 0;
    const auto draw = [&](uint64_t bound) {
      return static_cast<size_t>(random.below(draws++, bound));
    };
    std::vector<size_t> chosen(4 + draw(8));
    int64_t demand = 0;
    for (size_t& i : chosen) {
      i = draw(requests.size());
      demand += static_cast<int64_t>(requests[i].prompt.size()) + requests[i].max_tokens;
    }
    Engine engine(f.model, {.cache_tokens = std::max<int64_t>(256, demand / 4),
                            .max_sequences = 1 + static_cast<int64_t>(draw(12)),
                            .prefill_tokens = 1 + static_cast<int64_t>(draw(200)),
                            .prefill_tokens_beside_decoding = 1 + static_cast<int64_t>(draw(100)),
                            .max_draft = static_cast<int64_t>(draw(4)),
                            .adapt_draft = draw(2) == 0});
    std::vector<Reply> got(chosen.size());
    std::vector<RequestId> ids;
    std::vector<bool> cancelled(chosen.size());
    size_t next = 0;
    while (next < chosen.size() || engine.step(f.ctx)) {
      if (next < chosen.size() && draw(3) != 0) {
        Request request = requests[chosen[next]];
        request.on_event = request_to(got[next], {}, 1).on_event;
        ids.push_back(engine.submit(std::move(request)));
        ++next;
      } else if (next < chosen.size()) {
        engine.step(f.ctx);
      }
      if (next > 0 && draw(40) == 0) {
        const size_t victim = draw(next);
        engine.cancel(ids[victim]);
        cancelled[victim] = true;
      }
    }
    for (size_t i = 0; i < chosen.size(); ++i) {
      const std::vector<int32_t>& full = want[chosen[i]].tokens;
      ASSERT_TRUE(got[i].finished);
      if (got[i].reason == FinishReason::kCancelled) {
        ASSERT_TRUE(cancelled[i]);
        ASSERT_LE(got[i].tokens.size(), full.size());
        ASSERT_TRUE(std::equal(got[i].tokens.begin(), got[i].tokens.end(), full.begin()));
        ++num_cancelled;
      } else {
        ASSERT_EQ(got[i].tokens, full) << "schedule " << schedule << " request " << chosen[i];
        ASSERT_EQ(got[i].reason, want[chosen[i]].reason);
      }
      ++num_replies;
      num_tokens += static_cast<int64_t>(got[i].tokens.size());
      num_drafted += got[i].usage.drafted_tokens;
    }
    num_preemptions += engine.stats().num_preemptions;
    engine.clear_prefix_cache();
    engine.step(f.ctx);
    ASSERT_EQ(engine.stats().num_free_pages, engine.stats().num_pages) << "schedule " << schedule;
  }
  std::printf(
      "%lld schedules: %lld replies, %lld tokens, %lld drafted, %lld cancelled, %lld "
      "preemptions\n",
      static_cast<long long>(num_schedules), static_cast<long long>(num_replies),
      static_cast<long long>(num_tokens), static_cast<long long>(num_drafted),
      static_cast<long long>(num_cancelled), static_cast<long long>(num_preemptions));
  EXPECT_GT(num_preemptions, 0);
  EXPECT_GT(num_cancelled, 0);
}

}  // namespace
}  // namespace fathom
