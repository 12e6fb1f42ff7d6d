// `fathom serve`: the HTTP service.
#include <sys/resource.h>

#include <cmath>

#include <cstdio>
#include <memory>

#include "cli/model_loading.h"
#include "cli/stop_signal.h"
#include "cli/verbs.h"
#include "core/json.h"
#include "serve/price_cards.h"
#include "serve/run_service.h"

namespace fathom::cli {
namespace {

struct Options {
  std::vector<std::string> models;
  std::string host = "127.0.0.1", database, precision = "bf16", prefix_cache,
              chat_template = "auto";
  std::string tls_certificate, tls_key;
  int64_t port = 8000, threads = 0, cache_tokens = 0, max_sequences = 64, speculate = 2;
  int64_t max_queued = 4096, max_body_bytes = 4 << 20, off_peak_percent = 100;
  double expert_memory = 0;  // GB
  double target_first_token_ms = 0, target_token_ms = 0;
  double request_seconds = 1800, drain_seconds = 30, keep_alive_seconds = 10;
  double stall_seconds = 60;
  std::vector<std::string> price_cards;
  std::string currency = "USD";
  std::optional<double> price_hit, price_miss, price_output;
  bool no_auth = false, deepseek_temperature = false, status_422 = false;
  bool template_as_published = false;
};

// The card of a model, but for what was given by itself.
serve::PriceCard price_of(const Options& options, const std::string& name) {
  serve::PriceCard card =
      serve::price_card(serve::card_of(options.price_cards, name), options.currency);
  const auto set = [](int64_t& micro, const std::optional<double>& price) {
    if (price) micro = std::llround(*price * 1e6);
  };
  set(card.hit_micro, options.price_hit);
  set(card.miss_micro, options.price_miss);
  set(card.output_micro, options.price_output);
  card.off_peak_percent = options.off_peak_percent;
  return card;
}

// "NAME=DIR" or "DIR", whose last part then is the name.
std::pair<std::string, std::string> name_and_folder(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0)
    return {text.substr(0, equals), text.substr(equals + 1)};
  std::string folder = text;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return {base_name(folder), folder};
}

std::unique_ptr<serve::ModelHost> open_host(const Options& options, const std::string& text) {
  const auto [name, folder] = name_and_folder(text);
  const serve::PriceCard price = price_of(options, name);
  // What is small is read first: a folder without a tokenizer shall not be loaded for minutes.
  serve::ChatVocabulary vocabulary = serve::open_chat_vocabulary(
      local_file_system(), folder, {options.chat_template, options.template_as_published});
  auto ctx = std::make_unique<Context>(static_cast<int>(options.threads));
  auto model = open_model(*ctx, folder, options.precision, options.speculate == 0,
                          ModelUse::kLongInference, options.expert_memory);
  EngineConfig engine{.max_sequences = options.max_sequences, .max_draft = options.speculate};
  engine.cache_tokens = options.cache_tokens > 0 ? options.cache_tokens
                                                 : std::max<int64_t>(16384, model->max_positions());
  if (!options.prefix_cache.empty()) {
    engine.fingerprint = model_fingerprint(*ctx, *model);
    engine.prefix_folder = join_path(options.prefix_cache, name);
  }
  auto host = std::make_unique<serve::ModelHost>(name, std::move(ctx), std::move(model),
                                                 std::move(vocabulary), engine, price);
  host->warm_up();
  return host;
}

// A stream is a descriptor: as many as the system lets us.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int run(Options options) {
  if (options.host == "localhost") options.host = "127.0.0.1";
  const bool is_loopback = options.host.starts_with("127.") || options.host == "::1";
  if (options.no_auth && !options.database.empty())
    fail(ErrorKind::kUsage, "serve: give --db FILE or --no-auth, not both");
  if (options.database.empty() && !options.no_auth && !is_loopback)
    fail(ErrorKind::kUsage,
         "serve: --host {} can be reached from outside: give --db FILE (keys), or --no-auth to "
         "serve everyone",
         options.host);
  if (options.tls_certificate.empty() != options.tls_key.empty())
    fail(ErrorKind::kUsage, "serve: --tls-cert and --tls-key come together");
  raise_descriptor_limit();
  for (const std::string& text : options.models) price_of(options, name_and_folder(text).first);
  StopSignal stop;
  serve::RunOptions service;
  service.config.http.host = options.host;
  service.config.http.port = options.port;
  service.config.http.tls_certificate = options.tls_certificate;
  service.config.http.tls_key = options.tls_key;
  service.config.http.max_body_bytes = options.max_body_bytes;
  service.config.needs_keys = !options.database.empty();
  if (service.config.needs_keys) service.config.database = options.database;
  service.config.max_waiting = options.max_queued;
  service.config.targets = {.first_token_seconds = 1e-3 * options.target_first_token_ms,
                            .token_seconds = 1e-3 * options.target_token_ms};
  service.config.request_seconds = options.request_seconds;
  service.config.keep_alive_seconds = options.keep_alive_seconds;
  service.config.drain_seconds = options.drain_seconds;
  service.config.currency = options.currency;
  service.config.stall_seconds = options.stall_seconds;
  service.config.deepseek_temperature = options.deepseek_temperature;
  service.config.status_422 = options.status_422;
  service.config.version = FATHOM_VERSION;
  service.stop = &StopSignal::flag();
  service.load = [&] {
    std::vector<std::unique_ptr<serve::ModelHost>> hosts;
    for (const std::string& text : options.models) {
      hosts.push_back(open_host(options, text));
      for (size_t i = 0; i + 1 < hosts.size(); ++i) {
        if (hosts[i]->name() == hosts.back()->name())
          fail(ErrorKind::kUsage, "serve: two models are called {}; give NAME=DIR",
               hosts[i]->name());
      }
    }
    return hosts;
  };
  service.on_listening = [&](const std::string& url) {
    fmt::print(stderr, "listening on {}\n", url);
    std::fflush(stderr);
  };
  service.on_draining = [&] {
    fmt::print(stderr, "ending: what runs has {:g} s to finish; a second signal ends it at once\n",
               options.drain_seconds);
    std::fflush(stderr);
  };
  service.on_stall = [](const std::string& state) {
    fmt::print(stderr, "stalled: what the service was doing\n{}", state);
    std::fflush(stderr);
  };
  serve::run_service(service);
  return kExitDone;
}

}  // namespace

Verb serve_verb() {
  auto options = std::make_shared<Options>();
  return {
      .name = "serve",
      .help = "the HTTP service: DeepSeek's and OpenAI's API, keys and metering, the chat page",
      .declare =
          [options](CommandLine& line) {
            line.add("--model", options->models, "model folder, or NAME=DIR; may be given again")
                .required();
            line.add("--host", options->host, "address to listen on");
            line.add("--port", options->port, "0: any that is free").between(0, 65535);
            line.add("--tls-cert", options->tls_certificate,
                     "PEM file with the certificate and its chain: serves https");
            line.add("--tls-key", options->tls_key, "PEM file with the certificate's private key");
            line.add("--db", options->database, "file with keys and ledger (see `fathom keys`)");
            line.add("--no-auth", options->no_auth, "no keys: whoever reaches it may use it");
            line.add("--precision", options->precision, "format of weights and activations")
                .one_of({"bf16", "fp32"});
            line.add("--template", options->chat_template,
                     "form of conversations; folder: the model's own chat template")
                .one_of({"auto", "v3", "r1", "v3.1", "folder"});
            line.add("--template-as-published", options->template_as_published,
                     "DeepSeek's forms to the byte, with their known mistakes");
            line.add("--speculate", options->speculate, "tokens drafted at most, by MTP modules")
                .between(0, 4);
            line.add("--cache-tokens", options->cache_tokens,
                     "of all sequences and cached prompts; 0: 16384 or the model's context")
                .at_least(0);
            line.add("--prefix-cache", options->prefix_cache,
                     "folder that cached prompts survive a restart in; servers may share it");
            declare_expert_memory(line, options->expert_memory);
            line.add("--max-sequences", options->max_sequences, "running at once").at_least(1);
            line.add("--max-queued", options->max_queued, "requests waiting; more get 503")
                .at_least(0);
            line.add("--target-first-token-ms", options->target_first_token_ms,
                     "requests whose first token would come later get 503; 0: they wait")
                .at_least(0);
            line.add(
                    "--target-token-ms", options->target_token_ms,
                    "so many run at once that tokens of a reply come this fast; 0: --max-sequences")
                .at_least(0);
            line.add("--max-body-bytes", options->max_body_bytes, "of a request").at_least(1024);
            line.add("--request-seconds", options->request_seconds, "deadline of a request")
                .at_least(1);
            line.add("--keep-alive-seconds", options->keep_alive_seconds,
                     "a sign of life to those who wait")
                .at_least(0.05);
            line.add("--drain-seconds", options->drain_seconds,
                     "after SIGTERM, for what is running")
                .at_least(0);
            line.add("--stall-seconds", options->stall_seconds,
                     "without a step though there is work: /health is 503, and where every thread "
                     "is goes "
                     "to standard error")
                .at_least(0.1);
            line.add(
                "--price-card", options->price_cards,
                "published prices: v3 (if none is given), r1 or v3.1; NAME=CARD for one model");
            line.add("--currency", options->currency, "of prices and balances")
                .one_of({"USD", "CNY"});
            line.add("--price-hit", options->price_hit,
                     "for a million cached prompt tokens, instead of the card's")
                .at_least(0);
            line.add("--price-miss", options->price_miss, "for a million other prompt tokens")
                .at_least(0);
            line.add("--price-output", options->price_output, "for a million output tokens")
                .at_least(0);
            line.add("--off-peak-percent", options->off_peak_percent,
                     "of the price from 16:30 to 00:30 UTC")
                .between(0, 100);
            line.add("--deepseek-temperature", options->deepseek_temperature,
                     "temperatures mean what DeepSeek's app makes of them");
            line.add("--status-422", options->status_422,
                     "values out of range are 422 instead of 400");
            line.add_threads(options->threads);
          },
      .run = [options] { return run(*options); }};
}

}  // namespace fathom::cli
