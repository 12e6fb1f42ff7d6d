// The service as clients meet it: the real program, a tiny model, plain sockets.
#include <set>

#include "tests/serve_fixture.h"

namespace fathom {
namespace {

using testing_serve::Answer;
using testing_serve::ServeTest;
using testing_serve::Server;

TEST_F(ServeTest, ChatStreamedEqualsWhole) {
  Json body = chat_body(40);
  const Answer whole = server_->post("/v1/chat/completions", body);
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json reply = whole.json();
  EXPECT_EQ(reply["object"], "chat.completion");
  EXPECT_EQ(reply["choices"][0]["finish_reason"], "length");
  const Json& usage = reply["usage"];
  EXPECT_EQ(usage["completion_tokens"], 40);
  EXPECT_EQ(usage["prompt_cache_hit_tokens"].get<int64_t>() +
                usage["prompt_cache_miss_tokens"].get<int64_t>(),
            usage["prompt_tokens"].get<int64_t>());
  EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], 0);

  body["stream"] = true;
  const Answer streamed = server_->post("/chat/completions", body);
  ASSERT_EQ(streamed.status, 200);
  EXPECT_TRUE(streamed.has("text/event-stream"));
  EXPECT_TRUE(streamed.is_done());
  std::string content;
  const auto events = streamed.events();
  EXPECT_EQ(events.front()["choices"][0]["delta"]["role"], "assistant");
  for (const Json& event : events) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_EQ(event["id"], events[0]["id"]);
    content += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(content, reply["choices"][0]["message"]["content"]);
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 40);
  // OpenAI's way: the usage in a chunk of its own, null before.
  body["stream_options"] = {{"include_usage", true}};
  const auto with_usage = server_->post("/chat/completions", body).events();
  EXPECT_TRUE(with_usage.back()["choices"].empty());
  EXPECT_EQ(with_usage.back()["usage"]["completion_tokens"], 40);
  EXPECT_TRUE(with_usage[1]["usage"].is_null());
}

TEST_F(ServeTest, StopStringsCutTextAndTokens) {
  Json body = chat_body(60);
  const std::string text =
      server_->post("/chat/completions", body).json()["choices"][0]["message"]["content"];
  // Two letters that stand together somewhere behind the beginning; the weights are random, the text
  // is always the same.
  size_t at = text.size() / 3;
  const auto is_letter = [&](size_t i) { return std::isalnum(static_cast<unsigned char>(text[i])); };
  while (at + 1 < text.size() && !(is_letter(at) && is_letter(at + 1))) ++at;
  ASSERT_LT(at + 1, text.size());
  const std::string stop = text.substr(at, 2);
  body["stop"] = stop;
  const Json cut = server_->post("/chat/completions", body).json();
  EXPECT_EQ(cut["choices"][0]["message"]["content"], text.substr(0, text.find(stop)));
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "stop");
  EXPECT_LT(cut["usage"]["completion_tokens"].get<int64_t>(), 60);
}

TEST_F(ServeTest, SeveralChoicesDifferAndCountThePromptOnce) {
  Json body = chat_body(12);
  const int64_t prompt = server_->post("/chat/completions", body).json()["usage"]["prompt_tokens"];
  body["n"] = 3;
  const Json reply = server_->post("/chat/completions", body).json();
  ASSERT_EQ(reply["choices"].size(), 3u);
  EXPECT_EQ(reply["usage"]["prompt_tokens"], prompt);
  EXPECT_EQ(reply["usage"]["completion_tokens"], 36);
  EXPECT_NE(reply["choices"][0]["message"], reply["choices"][1]["message"]);
}

// The shapes that lm-evaluation-harness sends and reads; the sums must agree with scoring the parts.
TEST_F(ServeTest, ScoresAsHarnessesAsk) {
  const Json tokens = server_->post("/tokenize", {{"prompt", "the lazy dog"},
                                                  {"add_special_tokens", false}})
                          .json()["tokens"];
  ASSERT_GT(tokens.size(), 3u);
  Json body{{"model", "tiny"},       {"prompt", Json::array({tokens, tokens})},
            {"max_tokens", 1},       {"logprobs", 1},
            {"echo", true},          {"temperature", 0},
            {"seed", 1234}};
  const Json reply = server_->post("/v1/completions", body).json();
  ASSERT_EQ(reply["choices"].size(), 2u) << reply.dump();
  const Json& scores = reply["choices"][0]["logprobs"];
  ASSERT_EQ(scores["token_logprobs"].size(), tokens.size() + 1);
  EXPECT_TRUE(scores["token_logprobs"][0].is_null());
  EXPECT_EQ(reply["choices"][1]["logprobs"], scores);
  double sum = 0;
  for (size_t i = 1; i < tokens.size(); ++i) {
    sum += scores["token_logprobs"][i].get<double>();
    // Each token's score, from a request that ends before it and may only choose it.
    Json prefix = Json::array();
    for (size_t j = 0; j < i; ++j) prefix.push_back(tokens[j]);
    Json one{{"model", "tiny"}, {"prompt", prefix}, {"max_tokens", 1}, {"logprobs", 0},
             {"ignore_eos", true}, {"logit_bias", {{fmt::format("{}", tokens[i].get<int>()), 100}}}};
    const Json single = server_->post("/v1/completions", one).json();
    EXPECT_NEAR(single["choices"][0]["logprobs"]["token_logprobs"][0].get<double>(),
                scores["token_logprobs"][i].get<double>(), 2e-6);
  }
  EXPECT_LT(sum, 0);
  const Json info = ask_for(*server_, "/tokenizer_info");
  EXPECT_EQ(info["eos_token"], "<｜end▁of▁sentence｜>");
  EXPECT_EQ(server_->post("/detokenize", {{"tokens", tokens}}).json()["prompt"], "the lazy dog");
}

// The same texts by `fathom eval`, which runs the model over whole windows, without engine, cache
// or server.
TEST_F(ServeTest, ScoresAreThoseOfEval) {
  const std::vector<std::string> texts = {"the quick brown fox jumps over the lazy dog",
                                          "数学 和 编程", "the server answers the client again"};
  std::string lines;
  double sum = 0;
  int64_t num_tokens = 0;
  for (const std::string& text : texts) {
    lines += Json{{"text", text}}.dump() + "\n";
    const Json tokens = server_->post("/tokenize", {{"prompt", text}}).json()["tokens"];
    const Json reply = server_
                           ->post("/v1/completions", {{"model", "tiny"},
                                                      {"prompt", {tokens}},
                                                      {"max_tokens", 1},
                                                      {"logprobs", 1},
                                                      {"echo", true},
                                                      {"temperature", 0},
                                                      {"seed", 1234}})
                           .json();
    // What a harness reads: all of the context behind the first token, without the one that was
    // generated.
    const Json& scores = reply["choices"][0]["logprobs"]["token_logprobs"];
    ASSERT_EQ(scores.size(), tokens.size() + 1);
    for (size_t i = 1; i + 1 < scores.size(); ++i) {
      sum += scores[i].get<double>();
      ++num_tokens;
      // The token that a greedy choice would take has the largest of the top scores.
      const Json& top = reply["choices"][0]["logprobs"]["top_logprobs"][i];
      double best = -1e9;
      for (const auto& [token, score] : top.items()) best = std::max(best, score.get<double>());
      EXPECT_GE(best, scores[i].get<double>());
    }
  }
  write_file_atomically(local_file_system(), path("texts.jsonl"), lines);
  const Json eval = program_json(fmt::format(
      "eval perplexity --model '{}' --data '{}' --precision fp32 --threads 1 --json --quiet",
      path("tiny"), path("texts.jsonl")));
  ASSERT_EQ(eval["tokens"], num_tokens);
  // Scores are printed with six digits behind the point: half of the last for each token, and what
  // fp32 logits of size 10 lose.
  EXPECT_NEAR(-sum, eval["loss"].get<double>() * static_cast<double>(num_tokens),
              1e-5 * static_cast<double>(num_tokens));
  EXPECT_GT(-sum / static_cast<double>(num_tokens), 1)
      << "a random model: the sums are of something";
}

// DeepSeek's context caching: pages of 64 tokens from the beginning, told in the usage, each key
// its own.
TEST_F(ServeTest, PrefixesAreFoundAgainByTheirOwnKeyOnly) {
  const std::string db = path("prefixes.db");
  const std::string one = keys(db, "create --name one --balance 100")["key"];
  const std::string other = keys(db, "create --name other --balance 100")["key"];
  const auto server = start({"--db", db});
  const auto hits = [&](const std::string& key, int64_t num_tokens) {
    Json prompt = Json::array();
    for (int64_t i = 0; i < num_tokens; ++i) prompt.push_back(20 + i * 7 % 200);
    const Json usage = server
                           ->post("/v1/completions",
                                  {{"model", "tiny"}, {"prompt", prompt}, {"max_tokens", 2}}, key)
                           .json()["usage"];
    const int64_t hit = usage["prompt_cache_hit_tokens"], miss = usage["prompt_cache_miss_tokens"];
    EXPECT_EQ(hit + miss, num_tokens);
    EXPECT_EQ(usage["prompt_tokens"], num_tokens);
    EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], hit);
    return hit;
  };
  EXPECT_EQ(hits(one, 640), 0);
  // All whole pages but that of the last token, which must be computed to go on.
  EXPECT_EQ(hits(one, 640), 576);
  EXPECT_EQ(hits(one, 641), 576) << "the tenth page is complete for the first time";
  EXPECT_EQ(hits(one, 641), 640);
  EXPECT_EQ(hits(one, 63), 0) << "less than a page";
  EXPECT_EQ(hits(other, 640), 0) << "someone else's";
  EXPECT_EQ(hits(other, 640), 576);
  EXPECT_EQ(server->end(), 0);
}

TEST_F(ServeTest, PriceCardsAndTheirCurrency) {
  const auto server =
      start({"--no-auth", "--price-card", "tiny=r1", "--currency", "CNY", "--price-output", "20"});
  const Json price = ask_for(*server, "/models/tiny")["x_fathom"]["price"];
  EXPECT_EQ(
      price,
      parse_json(
          R"({"currency":"CNY","hit_micro":1000000,"miss_micro":4000000,"output_micro":20000000})",
          "price"));
  EXPECT_EQ(ask_for(*server, "/api/me")["currency"], "CNY");
  EXPECT_EQ(server->end(), 0);
}

TEST_F(ServeTest, FillsInTheMiddle) {
  const Answer answer = server_->post(
      "/beta/completions", {{"model", "deepseek-chat"}, {"prompt", "the quick"},
                            {"suffix", "fox"}, {"max_tokens", 4}, {"ignore_eos", true}});
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(answer.json()["usage"]["completion_tokens"], 4);
}

// Forms that a reply must have, from a model that knows nothing: the constraint alone gives them.
TEST_F(ServeTest, FormsAreEnforced) {
  Json body = chat_body(200);
  body.erase("ignore_eos");
  body["response_format"] = parse_json(
      R"({"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":
          {"a":{"type":"integer","minimum":0,"maximum":99},"b":{"enum":["yes","no"]}},
          "required":["a","b"]}}})",
      "format");
  for (int seed = 0; seed < 5; ++seed) {
    body["seed"] = seed;
    const Answer answer = server_->post("/chat/completions", body);
    ASSERT_EQ(answer.status, 200) << answer.body;
    const Json choice = answer.json()["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "stop") << choice;
    const Json value = parse_json(choice["message"]["content"].get<std::string>(), "content");
    EXPECT_GE(value["a"].get<int64_t>(), 0);
    EXPECT_LE(value["a"].get<int64_t>(), 99);
    EXPECT_TRUE(value["b"] == "yes" || value["b"] == "no");
  }
  body["response_format"]["json_schema"]["schema"] = {{"type", "colour"}};
  EXPECT_EQ(server_->post("/chat/completions", body).status, 400);
  body.erase("response_format");
  body["tools"] = parse_json(
      R"([{"type":"function","function":{"name":"sit","parameters":{"type":"object","properties":
          {"on":{"enum":["mat","sofa"]}},"required":["on"]}}},
         {"type":"function","function":{"name":"eat","parameters":{"type":"object","properties":
          {"what":{"enum":["fish"]}},"required":["what"]}}}])",
      "tools");
  body["tool_choice"] = "required";
  for (int seed = 0; seed < 6; ++seed) {
    body["seed"] = seed;
    body["stream"] = false;
    const Answer answer = server_->post("/chat/completions", body);
    ASSERT_EQ(answer.status, 200) << answer.body;
    const Json reply = answer.json();
    const Json choice = reply["choices"][0];
    ASSERT_EQ(choice["finish_reason"], "tool_calls") << reply;
    ASSERT_EQ(choice["message"]["tool_calls"].size(), 1u);
    const Json call = choice["message"]["tool_calls"][0]["function"];
    const Json arguments = parse_json(call["arguments"].get<std::string>(), "arguments");
    if (call["name"] == "sit") {
      EXPECT_TRUE(arguments["on"] == "mat" || arguments["on"] == "sofa");
    } else {
      EXPECT_EQ(call["name"], "eat");
      EXPECT_EQ(arguments["what"], "fish");
    }
    EXPECT_TRUE(choice["message"]["content"].is_null());
    body["stream"] = true;
    const auto events = server_->post("/chat/completions", body).events();
    EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "tool_calls");
    // The name first, the arguments piece by piece.
    std::string name, text;
    for (const Json& event : events) {
      for (const Json& part : event["choices"][0]["delta"].value("tool_calls", Json::array())) {
        EXPECT_EQ(part["index"], 0);
        EXPECT_EQ(part.contains("id"), name.empty());
        name += part["function"].value("name", "");
        text += part["function"]["arguments"].get<std::string>();
      }
    }
    EXPECT_EQ(name, call["name"]);
    EXPECT_EQ(text, call["arguments"]);
    EXPECT_GT(events.size(), 4u);
  }
}

TEST_F(ServeTest, SpeaksAnthropicsMessages) {
  Json body{{"model", "deepseek-chat"},
            {"max_tokens", 6},
            {"system", "the cat"},
            {"messages", {{{"role", "user"}, {"content", {{{"type", "text"}, {"text", "fox"}}}}}}}};
  body["top_k"] = 1;
  const Answer whole = server_->post("/v1/messages", body);
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json reply = whole.json();
  EXPECT_EQ(reply["type"], "message");
  EXPECT_GT(reply["usage"]["input_tokens"].get<int64_t>() +
                reply["usage"]["cache_read_input_tokens"].get<int64_t>(), 0);
  std::string text;
  for (const Json& block : reply["content"]) text += block["text"].get<std::string>();
  body["stream"] = true;
  const Answer streamed = server_->post("/v1/messages", body);
  std::string from_stream;
  for (const Json& event : streamed.events()) {
    if (event["type"] == "content_block_delta")
      from_stream += event["delta"]["text"].get<std::string>();
  }
  EXPECT_EQ(from_stream, text);
  EXPECT_NE(streamed.body.find("event: message_stop\n"), std::string::npos);
  body.erase("max_tokens");
  EXPECT_EQ(server_->post("/v1/messages", body).json()["type"], "error");
}

TEST_F(ServeTest, TokensTellTheirExperts) {
  Json body = chat_body(9);
  EXPECT_FALSE(server_->post("/chat/completions", body).json()["choices"][0].contains("token_routes"));
  body["return_routes"] = true;
  const Json whole = server_->post("/chat/completions", body).json()["choices"][0]["token_routes"];
  ASSERT_EQ(whole.size(), 9u);
  for (const Json& token : whole) {
    ASSERT_EQ(token["layers"].size(), 4u);
    EXPECT_TRUE(token["layers"][0].empty() && token["layers"][1].empty()) << "dense layers";
    for (size_t layer = 2; layer < 4; ++layer) {
      const auto experts = token["layers"][layer].get<std::set<int64_t>>();
      EXPECT_EQ(experts.size(), 4u) << token;
      EXPECT_LT(*experts.rbegin(), 16);
    }
  }
  body["stream"] = true;
  Json streamed = Json::array();
  for (const Json& event : server_->post("/chat/completions", body).events())
    for (const Json& token : event["choices"][0]["token_routes"]) streamed.push_back(token);
  EXPECT_EQ(streamed, whole);
  EXPECT_EQ(ask_for(*server_, "/models/tiny")["x_fathom"]["routes"], true);
}

TEST_F(ServeTest, PrefixCompletionGoesOn) {
  Json body = chat_body(4);
  body["messages"].push_back({{"role", "assistant"}, {"content", "the lazy"}, {"prefix", true}});
  EXPECT_EQ(server_->post("/chat/completions", body).status, 400);
  const Answer answer = server_->post("/beta/v1/chat/completions", body);
  EXPECT_EQ(answer.status, 200) << answer.body;
  const Json applied = server_->post("/apply-template", {{"messages", body["messages"]}}).json();
  EXPECT_TRUE(applied["prompt"].get<std::string>().ends_with("<｜Assistant｜>the lazy"));
}

TEST_F(ServeTest, BadRequestsNameTheField) {
  const auto refused = [&](const char* change, const std::string& param, int status = 400) {
    Json body = chat_body();
    body.update(Json::parse(change));
    const Answer answer = server_->post("/chat/completions", body);
    EXPECT_EQ(answer.status, status) << change << answer.body;
    if (answer.status == status) {
      EXPECT_EQ(answer.json()["error"]["param"], param) << change;
    }
  };
  refused(R"({"temperature":"hot"})", "temperature");
  refused(R"({"temperature":2.1})", "temperature");
  refused(R"({"n":1000000000})", "n");
  refused(R"({"max_tokens":-1})", "max_tokens");
  refused(R"({"max_tokens":1.5})", "max_tokens");
  refused(R"({"messages":[]})", "messages");
  refused(R"({"messages":[{"role":"king","content":"x"}]})", "messages[0].role");
  refused(R"({"messages":[{"role":"user","content":7}]})", "messages[0].content");
  refused(R"({"temprature":1})", "temprature");
  refused(R"({"model":"gpt-9"})", "model");
  EXPECT_EQ(server_->ask("GET", "/models/gpt-9").status, 404);
  refused(R"({"stop":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]})", "stop");
  refused(R"({"top_logprobs":3})", "top_logprobs");
  refused(R"({"logit_bias":{"99999":1}})", "logit_bias");
  const auto raw = [&](const std::string& body) {
    return server_->ask("POST", "/chat/completions", body).status;
  };
  EXPECT_EQ(raw("{"), 400);
  EXPECT_EQ(raw("[]"), 400);
  EXPECT_EQ(raw(R"({"model":"\ud800"})"), 400);
  EXPECT_EQ(raw(R"({"model":"x","temperature":NaN})"), 400);
  EXPECT_EQ(raw(std::string(300, '[') + std::string(300, ']')), 400);
  EXPECT_EQ(raw("\xff\xfe"), 400);
  std::string words = "the";
  for (int i = 0; i < 5000; ++i) words += " the";
  refused(Json{{"messages", {{{"role", "user"}, {"content", words}}}}}.dump().c_str(), "messages");
  EXPECT_EQ(server_->ask("GET", "/chat/completions").status, 405);
  EXPECT_TRUE(server_->ask("GET", "/chat/completions").has("Allow: POST"));
  EXPECT_EQ(server_->ask("GET", "/nothing").status, 404);
  EXPECT_EQ(server_->post("/chat/completions", chat_body()).status, 200) << "it lives";
}

// Names of metrics are a contract: boards and alerts ask for them. One that is renamed or lost
// fails here; one that is new is added to the list.
TEST_F(ServeTest, MetricsHaveBothNames) {
  server_->post("/chat/completions", chat_body());
  const std::string text = server_->ask("GET", "/metrics").body;
  std::set<std::string> names;
  for (size_t at = 0; (at = text.find("# TYPE ", at)) != std::string::npos;) {
    at += 7;
    EXPECT_TRUE(names.insert(text.substr(at, text.find('\n', at) - at)).second) << "twice";
  }
  EXPECT_EQ(names,
            (std::set<std::string>{"fathom_cache_usage_ratio gauge",
                                   "fathom_cancel_steps_max gauge",
                                   "fathom_e2e_request_latency_seconds histogram",
                                   "fathom_engine_heartbeat_seconds gauge",
                                   "fathom_engine_steps_total counter",
                                   "fathom_expert_load_entropy gauge",
                                   "fathom_expert_max_violation gauge",
                                   "fathom_generation_tokens_total counter",
                                   "fathom_http_connections gauge",
                                   "fathom_http_refused_total counter",
                                   "fathom_http_replies_total counter",
                                   "fathom_http_requests_total counter",
                                   "fathom_inter_token_latency_seconds histogram",
                                   "fathom_preemptions_total counter",
                                   "fathom_prefix_cache_hits_total counter",
                                   "fathom_prefix_cache_queries_total counter",
                                   "fathom_prompt_tokens_total counter",
                                   "fathom_request_generation_tokens histogram",
                                   "fathom_request_prompt_tokens histogram",
                                   "fathom_request_queue_time_seconds histogram",
                                   "fathom_request_time_per_output_token_seconds histogram",
                                   "fathom_requests_finished_total counter",
                                   "fathom_requests_running gauge",
                                   "fathom_requests_running_limit gauge",
                                   "fathom_requests_waiting gauge",
                                   "fathom_spec_decode_accepted_tokens_per_pos_total counter",
                                   "fathom_spec_decode_accepted_tokens_total counter",
                                   "fathom_spec_decode_draft_tokens_total counter",
                                   "fathom_spec_decode_drafts_total counter",
                                   "fathom_time_to_first_token_seconds histogram",
                                   "fathom_up gauge",
                                   "vllm:e2e_request_latency_seconds histogram",
                                   "vllm:generation_tokens_total counter",
                                   "vllm:inter_token_latency_seconds histogram",
                                   "vllm:kv_cache_usage_perc gauge",
                                   "vllm:num_preemptions_total counter",
                                   "vllm:num_requests_running gauge",
                                   "vllm:num_requests_waiting gauge",
                                   "vllm:prefix_cache_hits_total counter",
                                   "vllm:prefix_cache_queries_total counter",
                                   "vllm:prompt_tokens_total counter",
                                   "vllm:request_generation_tokens histogram",
                                   "vllm:request_prompt_tokens histogram",
                                   "vllm:request_queue_time_seconds histogram",
                                   "vllm:request_success_total counter",
                                   "vllm:request_time_per_output_token_seconds histogram",
                                   "vllm:spec_decode_num_accepted_tokens_per_pos_total counter",
                                   "vllm:spec_decode_num_accepted_tokens_total counter",
                                   "vllm:spec_decode_num_draft_tokens_total counter",
                                   "vllm:spec_decode_num_drafts_total counter",
                                   "vllm:time_to_first_token_seconds histogram"}));
  for (const char* name :
       {"requests_running", "vllm:num_requests_running", "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc", "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
        "vllm:request_success_total", "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_count", "vllm:request_time_per_output_token_seconds_sum",
        "vllm:e2e_request_latency_seconds_bucket", "vllm:request_queue_time_seconds_bucket",
        "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_per_pos_total", "fathom_expert_max_violation",
        "fathom_time_to_first_token_seconds_bucket", "fathom_http_replies_total{status=\"200\"}"}) {
    EXPECT_NE(text.find(name), std::string::npos) << name;
  }
  EXPECT_NE(text.find("model_name=\"tiny\""), std::string::npos);
  const Json experts = ask_for(*server_, "/experts");
  EXPECT_EQ(experts["layers"].size(), 3u);  // two of the model, one of MTP
  EXPECT_EQ(experts["layers"][0]["counts"].size(), 16u);
}

TEST_F(ServeTest, KeysConversationsAndConsole) {
  const std::string db = path("keys.db");
  const std::string admin = keys(db, "create --name boss --admin")["key"];
  const auto server = start({"--db", db});
  EXPECT_EQ(server->ask("GET", "/models").status, 401);
  EXPECT_EQ(server->ask("GET", "/models", "", "sk-wrong").status, 401);
  EXPECT_EQ(server->ask("GET", "/models", "", admin).status, 200);
  EXPECT_EQ(server->ask("GET", "/health").status, 200);
  // Made in the console; spends; is topped up; is revoked.
  const Answer made = server->post(
      "/api/console/keys", {{"name", "user"}, {"balance_micro", 0}}, admin);
  EXPECT_TRUE(made.has("no-store"));
  const std::string user = made.json()["key"], id = made.json()["id"];
  EXPECT_EQ(server->post("/chat/completions", chat_body(), user).status, 402);
  EXPECT_EQ(server->post("/api/console/keys/" + id + "/top-up", {{"amount_micro", 1000000}}, user).status, 403);
  EXPECT_EQ(server->post("/api/console/keys/" + id + "/top-up", {{"amount_micro", 1000000}}, admin).status, 200);
  const Json reply = server->post("/chat/completions", chat_body(), user).json();
  const Json& usage = reply["usage"];
  const Json entry = ask_for(*server, "/api/console/ledger?key=" + id, admin)["entries"][0];
  EXPECT_EQ(entry["completion_tokens"], usage["completion_tokens"]);
  EXPECT_EQ(entry["prompt_cache_miss_tokens"], usage["prompt_cache_miss_tokens"]);
  EXPECT_EQ(ask_for(*server, "/user/balance", user)["balance_infos"][0]["total_balance"], "0.99");
  EXPECT_EQ(ask_for(*server, "/api/usage", user)["series"][0]["requests"], 1);
  // Conversations belong to their key and have versions.
  const std::string talk = "/api/conversations/one";
  const Json data{{"title", "t"}, {"version", 0}, {"data", {{"x", 1}}}};
  EXPECT_EQ(server->ask("PUT", talk, data.dump(), user).json()["version"], 1);
  const Answer conflict = server->ask("PUT", talk, data.dump(), user);
  EXPECT_EQ(conflict.status, 409);
  EXPECT_EQ(conflict.json()["current"]["version"], 1);
  EXPECT_EQ(ask_for(*server, talk, user)["data"]["x"], 1);
  EXPECT_EQ(server->ask("GET", talk, "", admin).status, 404);
  EXPECT_EQ(server->ask("DELETE", talk, "", user).status, 200);
  EXPECT_TRUE(ask_for(*server, "/api/conversations", user)["conversations"].empty());
  EXPECT_EQ(server->post("/api/console/keys/" + id + "/revoke", Json::object(), admin).status, 200);
  EXPECT_EQ(server->ask("GET", "/models", "", user).status, 401);
  EXPECT_EQ(server->end(), 0);
  EXPECT_EQ(server->log().find(user.substr(10)), std::string::npos);
}
TEST_F(ServeTest, RefusesToServeTheWorldWithoutKeys) {
  EXPECT_NE(system(fmt::format("'{}/fathom' serve --model '{}/tiny' --host 0.0.0.0 2>/dev/null",
                               FATHOM_BINARY_DIR, folder_).c_str()), 0);
}

}  // namespace
}  // namespace fathom
