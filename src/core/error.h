// Errors of the whole project, in two tiers.
//
// A bug (a broken invariant) is a CheckFailure, thrown by FATHOM_CHECK and friends, which are
// always on and print both values. Bad input from outside (a file, a configuration, the command
// line, the disk) is an Error: it says where, what was found, what was expected, and carries the
// tier that the edges map to an exit status. Libraries never print and never exit.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace fathom {

enum class ErrorKind {
  kUsage,     // wrong command line: exit status 2
  kBadInput,  // a file, configuration or request that cannot be right: exit status 1
  kIo,  // the operating system refused (missing file, disk full, no permission): exit status 1
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_status() const { return kind_ == ErrorKind::kUsage ? 2 : 1; }

 private:
  ErrorKind kind_;
};

// A broken invariant inside the program.
class CheckFailure : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// What a message about bad input says. Empty parts are left out.
struct BadInput {
  std::string where;  // file (and position), or the name of the request
  std::string field;  // the field, tensor or line
  std::string found;
  std::string expected;
  std::string hint;
};

[[noreturn]] void throw_bad_input(const BadInput& bad);

template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

// The name in `known` with the smallest edit distance to `name`; empty when none is near (more than
// a third of the letters differ). Used by every "unknown key" message.
template <typename Range>
std::string nearest_name(std::string_view name, const Range& known);
int64_t edit_distance(std::string_view a, std::string_view b);

namespace internal {
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               const std::string& detail);
template <typename A, typename B>
[[noreturn]] void check_op_failed(const char* file, int line, const char* condition, const A& a,
                                  const B& b, const std::string& detail) {
  check_failed(file, line, condition,
               fmt::format("{} vs {}{}{}", a, b, detail.empty() ? "" : "; ", detail));
}
inline std::string check_detail() { return {}; }
template <typename... Args>
std::string check_detail(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace internal

template <typename Range>
std::string nearest_name(std::string_view name, const Range& known) {
  std::string best;
  int64_t best_distance = static_cast<int64_t>(name.size()) / 3 + 2;
  for (const auto& candidate : known) {
    const int64_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = std::string(candidate);
    }
  }
  return best;
}

}  // namespace fathom

#define FATHOM_CHECK(condition, ...)                                                   \
  do {                                                                                 \
    if (!(condition)) [[unlikely]]                                                     \
      ::fathom::internal::check_failed(__FILE__, __LINE__, #condition,                 \
                                       ::fathom::internal::check_detail(__VA_ARGS__)); \
  } while (0)

#define FATHOM_CHECK_OP_(a, b, op, ...)                                                     \
  do {                                                                                      \
    const auto& fathom_a_ = (a);                                                            \
    const auto& fathom_b_ = (b);                                                            \
    if (!(fathom_a_ op fathom_b_)) [[unlikely]]                                             \
      ::fathom::internal::check_op_failed(__FILE__, __LINE__, #a " " #op " " #b, fathom_a_, \
                                          fathom_b_,                                        \
                                          ::fathom::internal::check_detail(__VA_ARGS__));   \
  } while (0)

#define FATHOM_CHECK_EQ(a, b, ...) FATHOM_CHECK_OP_(a, b, ==, __VA_ARGS__)
#define FATHOM_CHECK_NE(a, b, ...) FATHOM_CHECK_OP_(a, b, !=, __VA_ARGS__)
#define FATHOM_CHECK_LE(a, b, ...) FATHOM_CHECK_OP_(a, b, <=, __VA_ARGS__)
#define FATHOM_CHECK_LT(a, b, ...) FATHOM_CHECK_OP_(a, b, <, __VA_ARGS__)
#define FATHOM_CHECK_GE(a, b, ...) FATHOM_CHECK_OP_(a, b, >=, __VA_ARGS__)
#define FATHOM_CHECK_GT(a, b, ...) FATHOM_CHECK_OP_(a, b, >, __VA_ARGS__)
