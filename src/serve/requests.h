// The bodies of /chat/completions and /completions, read and checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/json_fwd.h"
#include "data/tokenizer/tokenizer.h"
#include "infer/sampling.h"

namespace fathom::serve {

// What both say about generating.
struct GenerationParameters {
  std::optional<int64_t> max_tokens;
  int64_t min_tokens = 0;
  SamplingOptions sampling;  // its seed only where `seeded`
  bool seeded = false;
  std::vector<std::string> stop;
  int64_t n = 1;
  bool ignore_eos = false;
  bool stream = false;
  bool include_usage = false;
  bool return_token_ids = false;
  bool return_routes = false;  // the experts of every token
  int64_t num_top_logprobs = -1;  // -1: none asked for
};

struct ToolCall {
  std::string id, name, arguments;  // arguments: JSON as text
};

enum class ChatRole { kSystem, kUser, kAssistant, kTool };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
  std::string reasoning_content;
  std::vector<ToolCall> tool_calls;
  std::string tool_call_id;
  bool prefix = false;  // of the last message: go on from here
};

struct Tool {
  std::string name, description;
  std::string parameters;  // JSON schema as text; empty: none
};

struct ToolChoice {
  enum Kind { kAuto, kNone, kRequired, kNamed } kind = kAuto;
  std::string name;
};

struct ResponseFormat {
  enum Kind { kText, kJsonObject, kJsonSchema } kind = kText;
  std::string schema;  // as text
};

struct ChatRequest {
  std::string model;
  std::vector<ChatMessage> messages;
  GenerationParameters generation;
  std::vector<Tool> tools;
  ToolChoice tool_choice;
  ResponseFormat response_format;
  std::optional<bool> thinking;  // not said: by the model's name
};

struct CompletionRequest {
  using Prompt = std::variant<std::string, std::vector<TokenId>>;
  std::string model;
  std::vector<Prompt> prompts;  // one choice (or n) for each
  std::optional<std::string> suffix;
  bool echo = false;
  GenerationParameters generation;
};

// The limits of requests.
inline constexpr int64_t kMaxChoices = 16;
inline constexpr int64_t kMaxPrompts = 256;
inline constexpr int64_t kMaxMessages = 10000;
inline constexpr int64_t kMaxStops = 16, kMaxStopBytes = 1024;
inline constexpr int64_t kMaxTopLogprobs = 20;
inline constexpr int64_t kMaxTools = 128;

// Errors: ApiError that names the field. `allow_prefix`: the last message may be the beginning of
// the reply (/beta).
ChatRequest parse_chat_request(const Json& body, bool allow_prefix);
CompletionRequest parse_completion_request(const Json& body);
// The list "messages" alone, for what takes it apart from a chat.
std::vector<ChatMessage> parse_messages(const Json& list, const std::string& path,
                                        bool allow_prefix);
std::vector<Tool> parse_tools(const Json& list, const std::string& path);

}  // namespace fathom::serve
