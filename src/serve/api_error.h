// What a client is told when a request is refused: an HTTP status and OpenAI's error body, which
// names the field. DeepSeek's table: 400, 401, 402, 422, 429, 500, 503.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "serve/http.h"

namespace fathom::serve {

class ApiError : public std::runtime_error {
 public:
  ApiError(int status, std::string code, const std::string& message, std::string param = {})
      : std::runtime_error(message),
        status_(status),
        code_(std::move(code)),
        param_(std::move(param)) {}

  int status() const { return status_; }
  const std::string& code() const { return code_; }
  const std::string& param() const { return param_; }  // empty: none
  // Seconds after which another try makes sense; 0: not said.
  int retry_after = 0;
  // A value that was understood and is out of range, which DeepSeek's documentation answers 422 and
  // its live service 400.
  bool is_invalid_value = false;

  std::string body() const;
  HttpResponse response() const;

 private:
  int status_;
  std::string code_, param_;
};

// 400: `param` is of the wrong type or form.
[[noreturn]] void throw_invalid(const std::string& param, const std::string& message);
// 400 (or 422): `param` is out of range.
[[noreturn]] void throw_out_of_range(const std::string& param, const std::string& found,
                                     const std::string& expected);
[[noreturn]] void throw_not_found(const std::string& message, const std::string& code = "not_found");
// 503 and 429, with Retry-After.
ApiError overloaded(const std::string& message, int retry_after);
ApiError rate_limited(const std::string& message, int retry_after);

// `text` as a JSON string; what is not UTF-8 becomes U+FFFD.
std::string json_string(std::string_view text);
// Adds an item to what stands between the brackets of a list.
void append_item(std::string& list, std::string_view item);

}  // namespace fathom::serve
