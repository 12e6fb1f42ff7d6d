// `fathom serve`: the HTTP service.
#include <sys/resource.h>

#include <cmath>

#include <cstdio>
#include <memory>

#include "cli/model_loading.h"
#include "cli/stop_signal.h"
#include "cli/verbs.h"
#include "core/json.h"
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
  double request_seconds = 1800, drain_seconds = 30, keep_alive_seconds = 10;
  double price_hit = 0.07, price_miss = 0.27, price_output = 1.10;
  bool no_auth = false, deepseek_temperature = false, status_422 = false;
  bool template_as_published = false;
};

int64_t micro(double dollars) { return std::llround(dollars * 1e6); }

// "NAME=DIR" or "DIR", whose last part then is the name.
std::pair<std::string, std::string> name_and_folder(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0)
    return {text.substr(0, equals), text.substr(equals + 1)};
  std::string folder = text;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return {base_name(folder), folder};
}

std::unique_ptr<serve::ModelHost> open_host(const Options& options, const std::string& text,
                                            const serve::PriceCard& price) {
  const auto [name, folder] = name_and_folder(text);
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
  auto host = std::make_unique<serve::ModelHost>(
      name, std::move(ctx), std::move(model),
      serve::open_chat_vocabulary(local_file_system(), folder,
                                  {options.chat_template, options.template_as_published}),
      engine, price);
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

int run(const Options& options) {
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
  const serve::PriceCard price{.hit_micro = micro(options.price_hit),
                               .miss_micro = micro(options.price_miss),
                               .output_micro = micro(options.price_output),
                               .off_peak_percent = options.off_peak_percent};
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
  service.config.request_seconds = options.request_seconds;
  service.config.keep_alive_seconds = options.keep_alive_seconds;
  service.config.drain_seconds = options.drain_seconds;
  service.config.deepseek_temperature = options.deepseek_temperature;
  service.config.status_422 = options.status_422;
  service.config.version = FATHOM_VERSION;
  service.stop = &StopSignal::flag();
  service.load = [&] {
    std::vector<std::unique_ptr<serve::ModelHost>> hosts;
    for (const std::string& text : options.models) {
      hosts.push_back(open_host(options, text, price));
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
                     "folder that cached prompts survive a restart in");
            declare_expert_memory(line, options->expert_memory);
            line.add("--max-sequences", options->max_sequences, "running at once").at_least(1);
            line.add("--max-queued", options->max_queued, "requests waiting; more get 503")
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
            line.add("--price-hit", options->price_hit, "USD for a million cached prompt tokens")
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
