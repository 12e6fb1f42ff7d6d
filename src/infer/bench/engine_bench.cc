#include "infer/bench/engine_bench.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "core/error.h"
#include "core/random.h"

namespace fathom {
namespace {

double seconds_between(EngineClock::time_point a, EngineClock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

std::vector<int32_t> random_prompt(const Model& model, int64_t count, uint64_t seed,
                                   uint64_t index) {
  const Random random(seed, RandomPurpose::kTest, index);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(
        random.below(i, static_cast<uint64_t>(model.config().vocab_size)));
  }
  return tokens;
}

struct Progress {
  int64_t num_tokens = 0;
  EngineClock::time_point first, last;
  bool finished = false;
  RequestUsage usage;
};

Request timed_request(std::vector<int32_t> prompt, int64_t max_tokens, Progress& progress) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.use_prefix_cache = false;
  request.on_event = [&progress](const RequestEvent& event) {
    const auto now = EngineClock::now();
    if (progress.num_tokens == 0 && !event.tokens.empty()) progress.first = now;
    if (!event.tokens.empty()) progress.last = now;
    progress.num_tokens += static_cast<int64_t>(event.tokens.size());
    progress.finished = event.finished;
    if (event.finished) {
      if (event.reason == FinishReason::kError) throw Error(ErrorKind::kBadInput, event.error);
      progress.usage = event.usage;
    }
    return true;
  };
  return request;
}

EngineConfig engine_config(const EngineBenchOptions& o, int64_t tokens_each, int64_t count) {
  return {.cache_tokens = (tokens_each + kCachePageTokens) * count,
          .cache_dtype = o.cache_dtype,
          .max_draft = o.max_draft,
          .adapt_draft = o.adapt_draft};
}

// The given prompts, one after the other: decoding alone is timed.
double run_prompts(Context& ctx, const Model& model, const EngineBenchOptions& o,
                   EngineBenchResult& result) {
  Engine engine(model, engine_config(o, model.max_positions(), 1));
  int64_t tokens = 0;
  double seconds = 0;
  result.usage = {};
  for (const auto& prompt : o.prompts) {
    Progress progress;
    engine.submit(timed_request(prompt, o.gen_tokens + 1, progress));
    engine.run_until_idle(ctx);
    tokens += progress.num_tokens - 1;
    seconds += seconds_between(progress.first, progress.last);
    result.usage.drafted_tokens += progress.usage.drafted_tokens;
    result.usage.accepted_tokens += progress.usage.accepted_tokens;
  }
  result.stats = engine.stats();
  return static_cast<double>(tokens) / seconds;
}

// One repetition of one test; prompt: time until every prompt has its first token.
double run_once(Context& ctx, const Model& model, const EngineBenchOptions& o, bool prompt,
                EngineBenchResult& result) {
  if (!prompt && !o.prompts.empty()) return run_prompts(ctx, model, o, result);
  const int64_t prompt_tokens = prompt ? o.prompt_tokens : o.depth + 1;
  const int64_t output_tokens = prompt ? 1 : o.gen_tokens + 1;
  Engine engine(model, engine_config(o, prompt_tokens + output_tokens, o.parallel));
  std::vector<Progress> progress(static_cast<size_t>(o.parallel));
  for (size_t i = 0; i < progress.size(); ++i) {
    engine.submit(timed_request(random_prompt(model, prompt_tokens, o.seed, i), output_tokens,
                                progress[i]));
  }
  auto begin = EngineClock::now();
  const auto num_started = [&] {
    return std::count_if(progress.begin(), progress.end(),
                         [](const Progress& p) { return p.num_tokens > 0; });
  };
  while (num_started() < o.parallel) engine.step(ctx);
  if (prompt) return static_cast<double>(o.parallel * prompt_tokens) /
                     seconds_between(begin, EngineClock::now());
  // All decode now.
  int64_t before = 0, after = 0;
  for (const Progress& p : progress) before += p.num_tokens;
  begin = EngineClock::now();
  while (std::none_of(progress.begin(), progress.end(), [](const Progress& p) { return p.finished; }))
    engine.step(ctx);
  const double seconds = seconds_between(begin, EngineClock::now());
  for (const Progress& p : progress) after += p.num_tokens;
  engine.run_until_idle(ctx);
  result.usage = {};
  for (const Progress& p : progress) {
    result.usage.drafted_tokens += p.usage.drafted_tokens;
    result.usage.accepted_tokens += p.usage.accepted_tokens;
  }
  result.stats = engine.stats();
  return static_cast<double>(after - before) / seconds;
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5);
  return values[at];
}

std::vector<double> percentiles(const std::vector<double>& values) {
  return {percentile(values, 0.5), percentile(values, 0.9), percentile(values, 0.99)};
}

bool stopped(const EngineBenchOptions& o) { return o.stop != nullptr && *o.stop; }

}  // namespace

double EngineBenchResult::median() const { return percentile(tokens_per_second, 0.5); }

std::vector<EngineBenchResult> run_engine_bench(Context& ctx, const Model& model,
                                                const EngineBenchOptions& o) {
  std::vector<EngineBenchResult> results;
  const std::string times = o.parallel > 1 ? fmt::format(" x {}", o.parallel) : "";
  for (const bool prompt : {true, false}) {
    if ((prompt ? o.prompt_tokens : o.gen_tokens) == 0) continue;
    EngineBenchResult result;
    result.test = prompt ? fmt::format("pp{}", o.prompt_tokens)
                         : fmt::format("tg{}{}", o.gen_tokens,
                                       o.depth > 0 ? fmt::format(" @ d{}", o.depth) : "");
    result.test += times;
    result.tokens = (prompt ? o.prompt_tokens : o.gen_tokens) * o.parallel;
    if (o.warm_up) run_once(ctx, model, o, prompt, result);
    for (int64_t i = 0; i < o.repetitions && !stopped(o); ++i)
      result.tokens_per_second.push_back(run_once(ctx, model, o, prompt, result));
    if (!result.tokens_per_second.empty()) results.push_back(std::move(result));
  }
  return results;
}

ServingBenchResult run_serving_bench(Context& ctx, const Model& model,
                                     const ServingBenchOptions& options) {
  const EngineBenchOptions& o = options.shape;
  int64_t longest = o.prompts.empty() ? o.prompt_tokens : 0;
  for (const auto& prompt : o.prompts)
    longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  EngineConfig config = engine_config(o, longest + o.gen_tokens, options.num_requests);
  if (options.cache_tokens > 0) config.cache_tokens = options.cache_tokens;
  Engine engine(model, config);
  std::vector<Progress> progress(static_cast<size_t>(options.num_requests));
  std::vector<EngineClock::time_point> arrival(progress.size());
  const auto prompt_of = [&](size_t i) {
    return o.prompts.empty() ? random_prompt(model, o.prompt_tokens, o.seed, i)
                             : o.prompts[i % o.prompts.size()];
  };
  if (o.warm_up) {  // scratch memory is made, mapped weights are read
    std::vector<Progress> ignored(progress.size());
    for (size_t i = 0; i < ignored.size(); ++i)
      engine.submit(timed_request(prompt_of(i), std::min<int64_t>(o.gen_tokens, 8), ignored[i]));
    engine.run_until_idle(ctx);
  }
  const Random random(o.seed, RandomPurpose::kTest, ~uint64_t{0});
  const auto begin = EngineClock::now();
  double at = 0;
  for (size_t i = 0; i < progress.size(); ++i) {
    if (options.rate > 0) at -= std::log(1 - random.uniform(i)) / options.rate;
    arrival[i] = begin + std::chrono::duration_cast<EngineClock::duration>(
                             std::chrono::duration<double>(at));
  }
  size_t next = 0;
  bool busy = false;
  while ((next < progress.size() || busy) && !stopped(o)) {
    if (!busy && next < progress.size()) std::this_thread::sleep_until(arrival[next]);
    for (; next < progress.size() && arrival[next] <= EngineClock::now(); ++next) {
      engine.submit(timed_request(prompt_of(next), o.gen_tokens, progress[next]));
    }
    busy = engine.step(ctx);
  }
  ServingBenchResult result;
  std::vector<double> first, each;
  int64_t output = 0, prompts = 0;
  auto last = begin;
  for (size_t i = 0; i < progress.size(); ++i) {
    const Progress& p = progress[i];
    if (!p.finished) continue;
    first.push_back(seconds_between(arrival[i], p.first));
    if (p.num_tokens > 1)
      each.push_back(seconds_between(p.first, p.last) / static_cast<double>(p.num_tokens - 1));
    output += p.num_tokens;
    prompts += p.usage.prompt_tokens;
    last = std::max(last, p.last);
  }
  result.seconds = seconds_between(begin, last);
  result.output_tokens_per_second = static_cast<double>(output) / result.seconds;
  result.total_tokens_per_second = static_cast<double>(output + prompts) / result.seconds;
  result.first_token_seconds = percentiles(first);
  result.seconds_per_token = percentiles(each);
  result.num_preemptions = engine.stats().num_preemptions;
  return result;
}

}  // namespace fathom
