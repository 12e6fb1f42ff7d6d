// What makes the model write: /chat/completions and /completions. On the worker: bodies become
// token ids, and what they may cost is reserved.
#include <openssl/rand.h>

#include "core/json.h"
#include "serve/api_error.h"
#include "serve/chat_prompt.h"
#include "serve/chat_reply.h"
#include "serve/completion_reply.h"
#include "serve/field_reader.h"
#include "serve/output_constraint.h"
#include "serve/service.h"

namespace fathom::serve {
namespace {

constexpr int64_t kDefaultChatTokens = 4096, kDefaultCompletionTokens = 16;

uint64_t random_seed() {
  uint64_t seed = 0;
  FATHOM_CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(&seed), sizeof seed), 1, "seed");
  return seed;
}

// What DeepSeek's app and web page do (published with V3-0324).
double mapped_temperature(double temperature) {
  return temperature <= 1 ? 0.3 * temperature : temperature - 0.7;
}

}  // namespace

Served& Service::model_named(const std::string& name) {
  Served* served = core_.find_model(name);
  if (served != nullptr) return *served;
  std::string known;
  for (const auto& model : core_.models()) known += fmt::format(", {}", model->host->name());
  // DeepSeek's status; OpenAI's would be 404.
  ApiError error(400, "model_not_found",
                 fmt::format("model: found {}, expected deepseek-chat, deepseek-reasoner{}",
                             json_string(name.substr(0, 80)), known),
                 "model");
  throw error;
}

// Checks what the engine would refuse, chooses what was left open, and reserves the cost.
void Service::let_in(GenerationInput& input, const Caller& caller) {
  const ModelHost& host = *input.served->host;
  const int64_t room = host.max_request_tokens();
  int64_t longest = 0;
  TokenUse most;
  for (const auto& prompt : input.prompts) {
    if (prompt.empty()) throw_invalid("prompt", "no tokens, expected at least one");
    for (const TokenId id : prompt) {
      if (!host.tokenizer().is_valid(id))
        throw_out_of_range("prompt", fmt::format("token id {}", id),
                           fmt::format("0 to {}", host.tokenizer().vocab_size() - 1));
    }
    const auto tokens = static_cast<int64_t>(prompt.size());
    longest = std::max(longest, tokens);
    most.miss += tokens;
  }
  if (longest + (input.max_tokens > 0 ? 1 : 0) > room) {
    ApiError error(400, "context_length_exceeded",
                   fmt::format("prompt: found {} tokens, expected fewer than the context of {}",
                               longest, room),
                   "messages");
    throw error;
  }
  // The context's end is a finish reason, not an error.
  input.max_tokens = std::min(input.max_tokens, room - longest);
  for (const LogitBias& bias : input.parameters.sampling.logit_bias) {
    if (!host.tokenizer().is_valid(bias.id))
      throw_out_of_range("logit_bias", fmt::format("token id {}", bias.id),
                         fmt::format("0 to {}", host.tokenizer().vocab_size() - 1));
  }
  SamplingOptions& sampling = input.parameters.sampling;
  // An empty nucleus: the likeliest token alone.
  if (sampling.top_p == 0) sampling.top_p = 1e-9;
  if (core_.config().deepseek_temperature)
    sampling.temperature = mapped_temperature(sampling.temperature);
  validate(sampling);
  if (!input.parameters.seeded) sampling.seed = random_seed();
  input.reader.stop = input.parameters.stop;
  input.key_id = caller.key_id;
  most.output = input.max_tokens * input.parameters.n * static_cast<int64_t>(input.prompts.size());
  input.meter = core_.accounts().reserve(caller, host.name(), most, host.price());
}

GenerationInput Service::chat_input(ChatRequest request, const Caller& caller) {
  Served& served = model_named(request.model);
  ModelHost& host = *served.host;
  GenerationParameters& parameters = request.generation;
  const bool is_reasoner = request.model == "deepseek-reasoner";
  const bool thinking = request.thinking.value_or(is_reasoner);
  if (is_reasoner && parameters.num_top_logprobs >= 0)
    throw_invalid("logprobs", "deepseek-reasoner does not support log-probabilities");
  const bool uses_tools =
      !request.tools.empty() && request.tool_choice.kind != ToolChoice::kNone;
  const auto tools = uses_tools ? std::span<const Tool>(request.tools) : std::span<const Tool>();
  ChatPrompt prompt = host.chat().prompt(request.messages, tools, thinking);
  auto constraints =
      output_constraints(host.vocabularies(), request.response_format, request.tool_choice, tools,
                         prompt.begins_in_thought, parameters.n);
  if (!constraints.empty() && (parameters.ignore_eos || parameters.min_tokens > 0))
    throw_invalid(parameters.ignore_eos ? "ignore_eos" : "min_tokens",
                  "not allowed where the form of the reply is fixed, whose end it decides");
  GenerationInput input{.served = &served,
                        .model = request.model,
                        .prompts = {std::move(prompt.tokens)},
                        .parameters = std::move(parameters),
                        .constraints = std::move(constraints)};
  input.max_tokens = input.parameters.max_tokens.value_or(kDefaultChatTokens);
  input.reader = {.begins_in_thought = prompt.begins_in_thought, .reads_tool_calls = uses_tools,
                  .streams_tool_calls = input.parameters.stream};
  let_in(input, caller);
  return input;
}

void Service::chat(const HttpRequest& http, const Caller& caller,
                   const std::shared_ptr<HttpReply>& reply) {
  bool is_beta = false;
  without_version(http.path, is_beta);
  start_chat<ChatReply>(parse_chat_request(parse_body(http.body), is_beta), caller, reply);
}

void Service::completions(const HttpRequest& http, const Caller& caller,
                          const std::shared_ptr<HttpReply>& reply) {
  CompletionRequest request = parse_completion_request(parse_body(http.body));
  Served& served = model_named(request.model);
  const Tokenizer& tokenizer = served.host->tokenizer();
  const TokenId bos = tokenizer.special().bos;
  GenerationInput input{.served = &served,
                        .model = request.model,
                        .parameters = std::move(request.generation)};
  std::vector<std::string> texts;
  for (CompletionRequest::Prompt& prompt : request.prompts) {
    if (auto* ids = std::get_if<std::vector<TokenId>>(&prompt)) {
      for (const TokenId id : *ids) {
        if (!tokenizer.is_valid(id))
          throw_out_of_range("prompt", fmt::format("token id {}", id),
                             fmt::format("0 to {}", tokenizer.vocab_size() - 1));
      }
      texts.push_back(utf8_text(tokenizer, *ids));
      if (request.suffix) throw_invalid("suffix", "not allowed with a prompt of token ids");
      input.prompts.push_back(std::move(*ids));
      continue;
    }
    std::string& text = std::get<std::string>(prompt);
    if (request.suffix) {
      input.prompts.push_back(infill_prompt(text, *request.suffix, tokenizer));
    } else {
      // The whole prompt is the caller's: tags in it are tags.
      std::vector<TokenId> ids = tokenizer.encode(text, {.allow_special = true});
      if (bos != kNoToken && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
      input.prompts.push_back(std::move(ids));
    }
    texts.push_back(std::move(text));
  }
  input.max_tokens = input.parameters.max_tokens.value_or(kDefaultCompletionTokens);
  input.prompt_logprobs = request.echo && input.parameters.num_top_logprobs >= 0;
  // Without log-probabilities the engine has nothing to do for a prompt that is only repeated.
  if (input.max_tokens == 0 && !input.prompt_logprobs)
    throw_out_of_range("max_tokens", "0", "at least 1, or echo with logprobs");
  input.reader = {.splits_thoughts = false};
  let_in(input, caller);
  auto generation = std::make_shared<CompletionReply>(core_, std::move(input), reply, request.echo,
                                                      std::move(texts));
  core_.server().post([generation] { generation->start(); });
}

}  // namespace fathom::serve
