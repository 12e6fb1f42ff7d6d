// How the server and its models are: /health, /metrics, /api/status, /experts.
#include <cmath>

#include "core/json.h"
#include "serve/api_error.h"
#include "serve/service.h"

namespace fathom::serve {
namespace {

const char* state_name(const Core& core) {
  if (core.state() == Core::State::kLoading) return "loading";
  if (core.state() == Core::State::kDraining) return "draining";
  for (const auto& served : core.models()) {
    if (!served->host->trouble().empty()) return "stalled";
  }
  return "ok";
}

struct Balance {
  double max_violation = 0, entropy = 0;
};

// MaxVio of the auxiliary-loss-free paper, and the entropy of the load relative to an even one.
Balance balance_of(std::span<const int64_t> counts) {
  int64_t sum = 0, most = 0;
  for (const int64_t count : counts) {
    sum += count;
    most = std::max(most, count);
  }
  Balance balance;
  if (sum == 0 || counts.size() < 2) return balance;
  const auto total = static_cast<double>(sum), experts = static_cast<double>(counts.size());
  balance.max_violation = static_cast<double>(most) * experts / total - 1;
  for (const int64_t count : counts) {
    const double share = static_cast<double>(count) / total;
    if (share > 0) balance.entropy -= share * std::log(share);
  }
  balance.entropy /= std::log(experts);
  return balance;
}

std::span<const int64_t> layer_counts(const ExpertLoads& loads, size_t layer) {
  return std::span(loads.counts)
      .subspan(layer * static_cast<size_t>(loads.num_experts),
               static_cast<size_t>(loads.num_experts));
}

double ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

HttpResponse Service::health() const {
  const std::string state = state_name(core_);
  HttpResponse response =
      HttpResponse::json(fmt::format(R"({{"status":"{}"}})", state), state == "ok" ? 200 : 503);
  if (state != "ok") response.headers.emplace_back("Retry-After", "5");
  response.headers.emplace_back("Cache-Control", "no-store");
  return response;
}

HttpResponse Service::metrics() const {
  MetricsText text;
  const HttpServerStats http = core_.server().stats();
  text.family("fathom_up", "gauge", "1 when requests are served");
  text.sample("fathom_up", "", std::string(state_name(core_)) == "ok");
  text.family("fathom_http_connections", "gauge", "Open connections");
  text.sample("fathom_http_connections", "", static_cast<double>(http.num_connections));
  text.family("fathom_http_requests_total", "counter", "Requests read");
  text.sample("fathom_http_requests_total", "", static_cast<double>(http.num_requests));
  text.family("fathom_http_refused_total", "counter", "Messages refused by limits or form");
  text.sample("fathom_http_refused_total", "", static_cast<double>(http.num_refused));
  text.family("fathom_http_replies_total", "counter", "Replies by status");
  for (const auto& [status, count] : core_.replies_by_status())
    text.sample("fathom_http_replies_total", label("status", fmt::format("{}", status)),
                static_cast<double>(count));

  struct Row {
    const Served* served;
    EngineStats stats;
    std::string labels;
  };
  std::vector<Row> rows;
  for (const auto& served : core_.models()) {
    rows.push_back({served.get(), served->host->stats(),
                    label("model_name", served->host->name()) + ",engine=\"0\""});
  }
  const auto value = [&](std::initializer_list<const char*> names, const char* type,
                         const char* help, auto get) {
    for (const char* name : names) {
      text.family(name, type, help);
      for (const Row& row : rows) text.sample(name, row.labels, static_cast<double>(get(row)));
    }
  };
  value({"fathom_requests_running", "vllm:num_requests_running"}, "gauge",
        "Sequences that the engine works on", [](const Row& r) { return r.stats.num_running; });
  value({"fathom_requests_waiting", "vllm:num_requests_waiting"}, "gauge",
        "Requests that wait for the engine", [](const Row& r) {
          return r.stats.num_waiting + r.served->admission->num_waiting();
        });
  value({"fathom_requests_running_limit"}, "gauge",
        "Sequences that may run now: --max-sequences, or fewer where targets of latency ask for it",
        [](const Row& r) { return r.served->admission->max_running(); });
  value({"fathom_cache_usage_ratio", "vllm:kv_cache_usage_perc"}, "gauge",
        "Share of the cache's pages in use, cached prompts included", [](const Row& r) {
          return ratio(r.stats.num_pages - r.stats.num_free_pages, r.stats.num_pages);
        });
  value({"fathom_preemptions_total", "vllm:num_preemptions_total"}, "counter",
        "Sequences put back for want of pages",
        [](const Row& r) { return r.stats.num_preemptions; });
  value({"fathom_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"}, "counter",
        "Tokens of prompts", [](const Row& r) {
          return r.stats.prompt_tokens + r.stats.cached_tokens;
        });
  value({"fathom_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"}, "counter",
        "Tokens of prompts found in the prefix cache",
        [](const Row& r) { return r.stats.cached_tokens; });
  value({"fathom_prompt_tokens_total", "vllm:prompt_tokens_total"}, "counter",
        "Tokens of prompts, found or computed",
        [](const Row& r) { return r.stats.prompt_tokens + r.stats.cached_tokens; });
  value({"fathom_generation_tokens_total", "vllm:generation_tokens_total"}, "counter",
        "Tokens generated", [](const Row& r) { return r.stats.output_tokens; });
  value({"fathom_engine_steps_total"}, "counter", "Steps of the engine",
        [](const Row& r) { return r.stats.num_steps; });
  value({"fathom_cancel_steps_max"}, "gauge",
        "Steps that ended between a client's leaving and the release of its place and pages, at most",
        [](const Row& r) { return r.stats.max_cancel_steps; });
  value({"fathom_engine_heartbeat_seconds"}, "gauge", "Since the engine's last step ended",
        [](const Row& r) { return r.stats.heartbeat_seconds; });
  const auto sum = [](const auto& list) {
    int64_t total = 0;
    for (const int64_t item : list) total += item;
    return total;
  };
  value({"fathom_spec_decode_drafts_total", "vllm:spec_decode_num_drafts_total"}, "counter",
        "Drafts that were verified", [](const Row& r) { return r.stats.drafted[0]; });
  value({"fathom_spec_decode_draft_tokens_total", "vllm:spec_decode_num_draft_tokens_total"},
        "counter", "Tokens drafted", [&](const Row& r) { return sum(r.stats.drafted); });
  value({"fathom_spec_decode_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"},
        "counter", "Drafted tokens accepted", [&](const Row& r) { return sum(r.stats.accepted); });
  for (const char* name : {"fathom_spec_decode_accepted_tokens_per_pos_total",
                           "vllm:spec_decode_num_accepted_tokens_per_pos_total"}) {
    text.family(name, "counter", "Drafted tokens accepted, by position");
    for (const Row& row : rows) {
      for (size_t i = 0; i < row.stats.accepted.size(); ++i)
        text.sample(name, row.labels + "," + label("position", fmt::format("{}", i)),
                    static_cast<double>(row.stats.accepted[i]));
    }
  }
  for (const char* name : {"fathom_requests_finished_total", "vllm:request_success_total"}) {
    text.family(name, "counter", "Choices that ended, by reason");
    for (const Row& row : rows) {
      const ModelMetrics& m = row.served->metrics;
      const std::pair<const char*, int64_t> reasons[] = {{"stop", m.num_stop},
                                                         {"length", m.num_length},
                                                         {"tool_calls", m.num_tool_calls},
                                                         {"abort", m.num_cancelled},
                                                         {"error", m.num_error}};
      for (const auto& [reason, count] : reasons)
        text.sample(name, row.labels + "," + label("finished_reason", reason),
                    static_cast<double>(count));
    }
  }
  const auto histogram = [&](std::initializer_list<const char*> names, const char* help,
                             Histogram ModelMetrics::*field) {
    for (const char* name : names) {
      bool first = true;
      for (const Row& row : rows) {
        if (std::exchange(first, false)) text.family(name, "histogram", help);
        text.histogram_samples(name, row.labels, row.served->metrics.*field);
      }
    }
  };
  histogram({"fathom_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
            "From the request to its first token", &ModelMetrics::first_token_seconds);
  histogram({"fathom_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
            "Between tokens of a choice", &ModelMetrics::inter_token_seconds);
  histogram({"fathom_request_time_per_output_token_seconds",
             "vllm:request_time_per_output_token_seconds"},
            "Mean time of a token behind the first, by choice", &ModelMetrics::token_seconds);
  histogram({"fathom_request_queue_time_seconds", "vllm:request_queue_time_seconds"},
            "Waiting for the engine", &ModelMetrics::queue_seconds);
  histogram({"fathom_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
            "From the request to its end", &ModelMetrics::request_seconds);
  histogram({"fathom_request_prompt_tokens", "vllm:request_prompt_tokens"},
            "Tokens of a request's prompts", &ModelMetrics::prompt_tokens);
  histogram({"fathom_request_generation_tokens", "vllm:request_generation_tokens"},
            "Tokens of a request's choices", &ModelMetrics::output_tokens);
  const auto expert_family = [&](const char* name, const char* help, double Balance::*field) {
    text.family(name, "gauge", help);
    for (const Row& row : rows) {
      const ExpertLoads loads = row.served->host->expert_loads();
      for (size_t i = 0; i < loads.layers.size(); ++i) {
        text.sample(name, row.labels + "," + label("layer", fmt::format("{}", loads.layers[i])),
                    balance_of(layer_counts(loads, i)).*field);
      }
    }
  };
  expert_family("fathom_expert_max_violation",
                "Load of a layer's busiest expert over an even one, less 1, since the start",
                &Balance::max_violation);
  expert_family("fathom_expert_load_entropy", "1: all experts of the layer alike",
                &Balance::entropy);
  HttpResponse response = HttpResponse::text(text.take());
  response.headers[0].second = "text/plain; version=0.0.4; charset=utf-8";
  return response;
}

void Service::status(const HttpRequest&, const Caller&, const std::shared_ptr<HttpReply>& reply) {
  // The counters are the server's thread's.
  core_.server().post([this, reply] {
    Json models = Json::array();
    for (const auto& served : core_.models()) {
      const EngineStats s = served->host->stats();
      models.push_back(
          {{"name", served->host->name()},
           {"running", s.num_running},
           {"waiting", s.num_waiting + served->admission->num_waiting()},
           {"steps", s.num_steps},
           {"prompt_tokens", s.prompt_tokens},
           {"cached_tokens", s.cached_tokens},
           {"output_tokens", s.output_tokens},
           {"preemptions", s.num_preemptions},
           {"cancel_steps_max", s.max_cancel_steps},
           {"pages", {{"total", s.num_pages}, {"free", s.num_free_pages}}},
           {"speculation", {{"drafted", s.drafted}, {"accepted", s.accepted}}},
           {"finished",
            {{"stop", s.num_finished[0]},
             {"length", s.num_finished[1]},
             {"cancelled", s.num_finished[2]},
             {"deadline", s.num_finished[3]},
             {"error", s.num_finished[4]}}}});
    }
    const HttpServerStats http = core_.server().stats();
    ++core_.replies_by_status()[200];
    reply->send(HttpResponse::json(Json{{"uptime_s", core_.uptime_seconds()},
                                        {"state", state_name(core_)},
                                        {"models", models},
                                        {"streams", core_.num_generations()},
                                        {"connections", http.num_connections},
                                        {"http_requests", http.num_requests}}
                                       .dump()));
  });
}

void Service::experts(const HttpRequest& http, const Caller&,
                      const std::shared_ptr<HttpReply>& reply) {
  std::string name = http.parameter("model");
  if (name.empty()) name = "deepseek-chat";
  const ModelHost& host = *model_named(name).host;
  const ExpertLoads loads = host.expert_loads();
  Json layers = Json::array();
  for (size_t i = 0; i < loads.layers.size(); ++i) {
    const auto counts = layer_counts(loads, i);
    const Balance balance = balance_of(counts);
    layers.push_back({{"layer", loads.layers[i]},
                      {"counts", std::vector<int64_t>(counts.begin(), counts.end())},
                      {"max_violation", balance.max_violation},
                      {"entropy", balance.entropy}});
  }
  send(reply, HttpResponse::json(Json{{"model", host.name()},
                                      {"num_experts", loads.num_experts},
                                      {"layers", layers}}
                                     .dump()));
}

}  // namespace fathom::serve
