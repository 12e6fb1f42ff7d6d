#include "serve/requests.h"

#include <array>

#include "core/json.h"
#include "serve/api_error.h"
#include "serve/field_reader.h"

namespace fathom::serve {
namespace {

constexpr std::array<std::string_view, 12> kIgnored = {
    "user",     "store",          "metadata",  "service_tier", "safety_identifier",
    "best_of",  "prompt_cache_key", "verbosity", "prediction",   "parallel_tool_calls",
    "modalities", "prompt_cache_retention"};

void read_stop(FieldReader& fields, GenerationParameters& generation) {
  const Json* stop = fields.find("stop");
  if (stop == nullptr) return;
  const auto add = [&](const Json& value, const std::string& path) {
    if (!value.is_string())
      throw_invalid(path, fmt::format("found {}, expected a string", json_kind(value)));
    const auto& text = value.get_ref<const std::string&>();
    if (text.empty() || static_cast<int64_t>(text.size()) > kMaxStopBytes)
      throw_out_of_range(path, fmt::format("{} bytes", text.size()),
                         fmt::format("1 to {}", kMaxStopBytes));
    generation.stop.push_back(text);
  };
  if (stop->is_array()) {
    if (static_cast<int64_t>(stop->size()) > kMaxStops)
      throw_out_of_range("stop", fmt::format("{} strings", stop->size()),
                         fmt::format("at most {}", kMaxStops));
    for (size_t i = 0; i < stop->size(); ++i) add((*stop)[i], fmt::format("stop[{}]", i));
  } else {
    add(*stop, "stop");
  }
}

void read_logit_bias(FieldReader& fields, SamplingOptions& sampling) {
  const Json* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  constexpr size_t kMaxBiases = 1024;
  if (bias->size() > kMaxBiases)
    throw_out_of_range("logit_bias", fmt::format("{} tokens", bias->size()),
                       fmt::format("at most {}", kMaxBiases));
  for (const auto& [name, value] : bias->items()) {
    int64_t id = 0;
    bool is_number = !name.empty() && name.size() <= 9;
    for (const char c : name) {
      is_number = is_number && c >= '0' && c <= '9';
      if (is_number) id = id * 10 + (c - '0');
    }
    if (!is_number) throw_invalid("logit_bias", "a key is not a token id");
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100))
      throw_out_of_range("logit_bias." + name, json_kind(value), "a number from -100 to 100");
    sampling.logit_bias.push_back({static_cast<int32_t>(id), value.get<float>()});
  }
}

GenerationParameters read_generation(FieldReader& fields) {
  GenerationParameters g;
  constexpr int64_t kLongest = 1 << 24;
  g.max_tokens = fields.integer("max_tokens", 0, kLongest);
  if (const auto newer = fields.integer("max_completion_tokens", 1, kLongest)) {
    if (g.max_tokens && *g.max_tokens != *newer)
      throw_invalid("max_completion_tokens", "differs from max_tokens; give one of them");
    g.max_tokens = newer;
  }
  g.min_tokens = fields.integer("min_tokens", 0, kLongest).value_or(0);
  g.sampling.temperature = fields.number("temperature", 0, 2).value_or(1.0);
  g.sampling.top_p = fields.number("top_p", 0, 1).value_or(1.0);
  g.sampling.top_k = std::max<int64_t>(0, fields.integer("top_k", -1, kLongest).value_or(0));
  g.sampling.min_p = fields.number("min_p", 0, 1).value_or(0);
  g.sampling.repetition_penalty = fields.number("repetition_penalty", 0.01, 100).value_or(1);
  g.sampling.presence_penalty = fields.number("presence_penalty", -2, 2).value_or(0);
  g.sampling.frequency_penalty = fields.number("frequency_penalty", -2, 2).value_or(0);
  read_logit_bias(fields, g.sampling);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) {
    g.sampling.seed = static_cast<uint64_t>(*seed);
    g.seeded = true;
  }
  read_stop(fields, g);
  g.n = fields.integer("n", 1, kMaxChoices).value_or(1);
  g.ignore_eos = fields.flag("ignore_eos").value_or(false);
  g.stream = fields.flag("stream").value_or(false);
  g.return_token_ids = fields.flag("return_token_ids").value_or(false);
  g.return_routes = fields.flag("return_routes").value_or(false);
  if (const Json* options = fields.object("stream_options")) {
    if (!g.stream) throw_invalid("stream_options", "only allowed with \"stream\": true");
    FieldReader inner(*options, "stream_options");
    g.include_usage = inner.flag("include_usage").value_or(false);
    inner.flag("include_obfuscation");
    inner.finish();
  }
  fields.ignore(kIgnored);
  return g;
}

// A string, or OpenAI's list of parts, of which text is understood.
std::string read_content(const Json& value, const std::string& path) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array())
    throw_invalid(path, fmt::format("found {}, expected a string", json_kind(value)));
  std::string text;
  for (size_t i = 0; i < value.size(); ++i) {
    FieldReader part(value[i], fmt::format("{}[{}]", path, i));
    const std::string type = part.required_text("type");
    if (type != "text")
      throw_invalid(part.path_of("type"), "only parts of type \"text\" are understood");
    text += part.required_text("text");
    constexpr std::array<std::string_view, 1> kCacheHint = {"cache_control"};
    part.ignore(kCacheHint);
    part.finish();
  }
  return text;
}

std::vector<ToolCall> read_tool_calls(const Json& list, const std::string& path) {
  std::vector<ToolCall> calls;
  for (size_t i = 0; i < list.size(); ++i) {
    FieldReader fields(list[i], fmt::format("{}[{}]", path, i));
    ToolCall call;
    call.id = fields.required_text("id");
    if (fields.text("type").value_or("function") != "function")
      throw_invalid(fields.path_of("type"), "expected \"function\"");
    fields.integer("index", 0, INT64_MAX);
    const Json* function = fields.object("function");
    if (function == nullptr) throw_invalid(fields.path_of("function"), "missing");
    FieldReader inner(*function, fields.path_of("function"));
    call.name = inner.required_text("name");
    call.arguments = inner.required_text("arguments");
    inner.finish();
    fields.finish();
    calls.push_back(std::move(call));
  }
  return calls;
}

ChatMessage read_message(const Json& value, const std::string& path, bool allow_prefix,
                         bool is_last) {
  FieldReader fields(value, path);
  ChatMessage message;
  const std::string role = fields.required_text("role");
  if (role == "system" || role == "developer") {
    message.role = ChatRole::kSystem;
  } else if (role == "user") {
    message.role = ChatRole::kUser;
  } else if (role == "assistant") {
    message.role = ChatRole::kAssistant;
  } else if (role == "tool") {
    message.role = ChatRole::kTool;
  } else {
    throw_invalid(fields.path_of("role"), "expected system, developer, user, assistant or tool");
  }
  const Json* content = fields.find("content");
  if (content != nullptr) message.content = read_content(*content, fields.path_of("content"));
  fields.text("name");
  if (message.role == ChatRole::kAssistant) {
    message.reasoning_content = fields.text("reasoning_content").value_or("");
    if (const Json* calls = fields.array("tool_calls", kMaxTools))
      message.tool_calls = read_tool_calls(*calls, fields.path_of("tool_calls"));
    message.prefix = fields.flag("prefix").value_or(false);
    if (message.prefix && !allow_prefix)
      throw_invalid(fields.path_of("prefix"), "prefix completion lives at /beta/chat/completions");
    if (message.prefix && !is_last)
      throw_invalid(fields.path_of("prefix"), "only the last message may be a prefix");
    // What clients send back of a reply that they were given.
    constexpr std::array<std::string_view, 5> kEchoed = {"refusal", "annotations", "audio",
                                                         "function_call", "token_ids"};
    fields.ignore(kEchoed);
  } else if (message.role == ChatRole::kTool) {
    message.tool_call_id = fields.required_text("tool_call_id");
  }
  if (content == nullptr && message.tool_calls.empty())
    throw_invalid(fields.path_of("content"), "missing, expected a string");
  fields.finish();
  return message;
}

ToolChoice read_tool_choice(FieldReader& fields, const std::vector<Tool>& tools) {
  ToolChoice choice;
  const Json* value = fields.find("tool_choice");
  if (value == nullptr) return choice;
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (text == "auto") {
      choice.kind = ToolChoice::kAuto;
    } else if (text == "none") {
      choice.kind = ToolChoice::kNone;
    } else if (text == "required") {
      choice.kind = ToolChoice::kRequired;
    } else {
      throw_invalid("tool_choice", "expected none, auto, required or a named function");
    }
  } else {
    FieldReader inner(*value, "tool_choice");
    if (inner.required_text("type") != "function")
      throw_invalid("tool_choice.type", "expected \"function\"");
    const Json* function = inner.object("function");
    if (function == nullptr) throw_invalid("tool_choice.function", "missing");
    FieldReader named(*function, "tool_choice.function");
    choice = {ToolChoice::kNamed, named.required_text("name")};
    named.finish();
    inner.finish();
    bool known = false;
    for (const Tool& tool : tools) known |= tool.name == choice.name;
    if (!known) throw_invalid("tool_choice.function.name", "not among the tools");
  }
  if (tools.empty() && choice.kind != ToolChoice::kNone && choice.kind != ToolChoice::kAuto)
    throw_invalid("tool_choice", "there are no tools");
  return choice;
}

ResponseFormat read_response_format(FieldReader& fields) {
  ResponseFormat format;
  const Json* value = fields.object("response_format");
  if (value == nullptr) return format;
  FieldReader inner(*value, "response_format");
  const std::string type = inner.required_text("type");
  if (type == "json_object") {
    format.kind = ResponseFormat::kJsonObject;
  } else if (type == "json_schema") {
    format.kind = ResponseFormat::kJsonSchema;
    const Json* wrapper = inner.object("json_schema");
    if (wrapper == nullptr) throw_invalid("response_format.json_schema", "missing");
    FieldReader schema(*wrapper, "response_format.json_schema");
    const Json* text = schema.find("schema");
    if (text == nullptr) throw_invalid("response_format.json_schema.schema", "missing");
    format.schema = text->dump();
    schema.text("name");
    schema.text("description");
    schema.flag("strict");
    schema.finish();
  } else if (type != "text") {
    throw_invalid("response_format.type", "expected text, json_object or json_schema");
  }
  inner.finish();
  return format;
}

std::optional<bool> read_thinking(FieldReader& fields) {
  std::optional<bool> thinking;
  if (const Json* value = fields.object("thinking")) {
    FieldReader inner(*value, "thinking");
    const std::string type = inner.required_text("type");
    if (type != "enabled" && type != "disabled")
      throw_invalid("thinking.type", "expected enabled or disabled");
    thinking = type == "enabled";
    inner.integer("budget_tokens", 0, INT64_MAX);
    inner.finish();
  }
  if (const Json* value = fields.object("chat_template_kwargs")) {
    FieldReader inner(*value, "chat_template_kwargs");
    for (const auto* name : {"thinking", "enable_thinking"}) {
      if (const auto flag = inner.flag(name)) thinking = flag;
    }
    inner.finish();
  }
  fields.text("reasoning_effort");
  return thinking;
}

std::vector<TokenId> read_ids(const Json& list, const std::string& path) {
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& value = list[i];
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
      throw_invalid(fmt::format("{}[{}]", path, i), "expected a token id");
    ids.push_back(value.get<TokenId>());
  }
  return ids;
}

}  // namespace

std::vector<ChatMessage> parse_messages(const Json& list, const std::string& path,
                                        bool allow_prefix) {
  if (list.empty()) throw_invalid(path, "empty, expected at least one message");
  std::vector<ChatMessage> messages;
  messages.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    messages.push_back(read_message(list[i], fmt::format("{}[{}]", path, i), allow_prefix,
                                    i + 1 == list.size()));
  }
  return messages;
}

std::vector<Tool> parse_tools(const Json& list, const std::string& path) {
  std::vector<Tool> tools;
  for (size_t i = 0; i < list.size(); ++i) {
    FieldReader fields(list[i], fmt::format("{}[{}]", path, i));
    if (fields.required_text("type") != "function")
      throw_invalid(fields.path_of("type"), "expected \"function\"");
    const Json* function = fields.object("function");
    if (function == nullptr) throw_invalid(fields.path_of("function"), "missing");
    FieldReader inner(*function, fields.path_of("function"));
    Tool tool;
    tool.name = inner.required_text("name");
    bool good = !tool.name.empty() && tool.name.size() <= 64;
    for (const char c : tool.name) {
      good = good && (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-');
    }
    if (!good)
      throw_invalid(inner.path_of("name"), "expected 1 to 64 letters, digits, '_' and '-'");
    tool.description = inner.text("description").value_or("");
    if (const Json* parameters = inner.object("parameters")) tool.parameters = parameters->dump();
    inner.flag("strict");
    inner.finish();
    fields.finish();
    tools.push_back(std::move(tool));
  }
  return tools;
}

ChatRequest parse_chat_request(const Json& body, bool allow_prefix) {
  FieldReader fields(body, "");
  ChatRequest request;
  request.model = fields.required_text("model");
  const Json* messages = fields.array("messages", kMaxMessages);
  if (messages == nullptr) throw_invalid("messages", "missing, expected an array");
  request.messages = parse_messages(*messages, "messages", allow_prefix);
  request.generation = read_generation(fields);
  if (request.generation.max_tokens == 0) throw_out_of_range("max_tokens", "0", "at least 1");
  if (const Json* tools = fields.array("tools", kMaxTools))
    request.tools = parse_tools(*tools, "tools");
  request.tool_choice = read_tool_choice(fields, request.tools);
  request.response_format = read_response_format(fields);
  request.thinking = read_thinking(fields);
  const bool logprobs = fields.flag("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, kMaxTopLogprobs);
  if (top && !logprobs) throw_invalid("top_logprobs", "only allowed with \"logprobs\": true");
  if (logprobs) request.generation.num_top_logprobs = top.value_or(0);
  fields.finish();
  return request;
}

CompletionRequest parse_completion_request(const Json& body) {
  FieldReader fields(body, "");
  CompletionRequest request;
  request.model = fields.required_text("model");
  const Json* prompt = fields.find("prompt");
  if (prompt == nullptr) throw_invalid("prompt", "missing, expected a string or token ids");
  if (prompt->is_string()) {
    request.prompts.emplace_back(prompt->get<std::string>());
  } else if (prompt->is_array() && !prompt->empty() && (*prompt)[0].is_number()) {
    request.prompts.emplace_back(read_ids(*prompt, "prompt"));
  } else if (prompt->is_array() && !prompt->empty()) {
    if (static_cast<int64_t>(prompt->size()) > kMaxPrompts)
      throw_out_of_range("prompt", fmt::format("{} prompts", prompt->size()),
                         fmt::format("at most {}", kMaxPrompts));
    for (size_t i = 0; i < prompt->size(); ++i) {
      const Json& item = (*prompt)[i];
      const std::string path = fmt::format("prompt[{}]", i);
      if (item.is_string()) {
        request.prompts.emplace_back(item.get<std::string>());
      } else if (item.is_array()) {
        request.prompts.emplace_back(read_ids(item, path));
      } else {
        throw_invalid(path, "expected a string or a list of token ids");
      }
    }
  } else {
    throw_invalid("prompt", "expected a string, token ids, or a list of either");
  }
  request.suffix = fields.text("suffix");
  request.echo = fields.flag("echo").value_or(false);
  request.generation = read_generation(fields);
  if (const auto top = fields.integer("logprobs", 0, kMaxTopLogprobs))
    request.generation.num_top_logprobs = *top;
  if (request.generation.max_tokens == 0 && !request.echo)
    throw_out_of_range("max_tokens", "0", "at least 1, or echo");
  if (request.suffix && request.prompts.size() > 1)
    throw_invalid("suffix", "only allowed with one prompt");
  if (request.echo && request.suffix) throw_invalid("echo", "not allowed with a suffix");
  fields.finish();
  return request;
}

}  // namespace fathom::serve
