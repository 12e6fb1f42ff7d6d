#include "core/error.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fathom {

void throw_bad_input(const BadInput& bad) {
  std::string message = bad.where;
  const auto add = [&message](std::string_view label, const std::string& text) {
    if (text.empty()) return;
    if (!message.empty()) message += ": ";
    message += label;
    message += text;
  };
  add("", bad.field);
  if (!bad.found.empty() || !bad.expected.empty()) {
    std::string what;
    if (!bad.found.empty()) what = "found " + bad.found;
    if (!bad.expected.empty()) what += (what.empty() ? "expected " : ", expected ") + bad.expected;
    add("", what);
  }
  if (!bad.hint.empty()) message += " (" + bad.hint + ")";
  throw Error(ErrorKind::kBadInput, message);
}

int64_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

namespace internal {
void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  throw CheckFailure(fmt::format("{}:{}: check failed: {}{}{}", file, line, condition,
                                 detail.empty() ? "" : ": ", detail));
}
}  // namespace internal

}  // namespace fathom
