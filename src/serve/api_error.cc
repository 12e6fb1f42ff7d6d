#include "serve/api_error.h"

#include <fmt/format.h>

#include "data/tokenizer/json_text.h"
#include "data/tokenizer/unicode.h"

namespace fathom::serve {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 402: return "insufficient_balance";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

std::string ApiError::body() const {
  return fmt::format(R"({{"error":{{"message":{},"type":"{}","param":{},"code":{}}}}})",
                     json_string(what()), type_of(status_),
                     param_.empty() ? "null" : json_string(param_), json_string(code_));
}

HttpResponse ApiError::response() const {
  HttpResponse response = HttpResponse::json(body(), status_);
  if (retry_after > 0) response.headers.emplace_back("Retry-After", fmt::format("{}", retry_after));
  if (status_ == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

void throw_invalid(const std::string& param, const std::string& message) {
  throw ApiError(400, "invalid_request_error", fmt::format("{}: {}", param, message), param);
}

void throw_out_of_range(const std::string& param, const std::string& found,
                        const std::string& expected) {
  ApiError error(400, "invalid_request_error",
                 fmt::format("{}: found {}, expected {}", param, found, expected), param);
  error.is_invalid_value = true;
  throw error;
}

void throw_not_found(const std::string& message, const std::string& code) {
  throw ApiError(404, code, message);
}

ApiError overloaded(const std::string& message, int retry_after) {
  ApiError error(503, "overloaded", message);
  error.retry_after = retry_after;
  return error;
}

ApiError rate_limited(const std::string& message, int retry_after) {
  ApiError error(429, "rate_limit_exceeded", message);
  error.retry_after = retry_after;
  return error;
}

void append_item(std::string& list, std::string_view item) {
  if (!list.empty()) list += ',';
  list += item;
}

std::string json_string(std::string_view text) {
  std::string out;
  if (is_valid_utf8(text)) {
    append_json_string(text, out);
  } else {
    append_json_string(utf8_with_replacement(text), out);
  }
  return out;
}

}  // namespace fathom::serve
