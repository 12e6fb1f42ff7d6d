#include "data/text/clean_text.h"

#include <simdjson.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string_view>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

int64_t count_lines(std::string_view text) { return std::count(text.begin(), text.end(), '\n'); }

void find_broken(const std::string& text, CleanReport& report) {
  for (int64_t at = 0, size = static_cast<int64_t>(text.size()); at < size;) {
    const Utf8Char character = decode_utf8(text, at);
    if (character.bytes > 0) {
      at += character.bytes;
      continue;
    }
    if (report.num_broken++ == 0)
      report.first_broken_line =
          count_lines(std::string_view(text).substr(0, static_cast<size_t>(at)));
    at += broken_utf8(text, at).bytes;
  }
}

// CR LF and lone CR to LF, in place.
void unify_line_ends(std::string& text, CleanReport& report) {
  int64_t crlf = 0, cr = 0, lf = 0;
  size_t to = 0;
  for (size_t from = 0; from < text.size(); ++from) {
    char c = text[from];
    if (c == '\r') {
      if (from + 1 < text.size() && text[from + 1] == '\n') {
        ++crlf;
        ++from;
      } else {
        ++cr;
      }
      c = '\n';
    } else if (c == '\n') {
      ++lf;
    }
    text[to++] = c;
  }
  text.resize(to);
  report.mixed_line_ends = (crlf > 0) + (cr > 0) + (lf > 0) > 1;
}

void normalise(std::string& text, Normalisation form) {
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_STABLE | UTF8PROC_COMPOSE | (form == Normalisation::kNfkc ? UTF8PROC_COMPAT : 0));
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
  FATHOM_CHECK_GE(bytes, 0, "utf8proc: {}", utf8proc_errmsg(bytes));
  text.assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
}

}  // namespace

CleanReport clean_document(std::string& text, const CleanOptions& options) {
  CleanReport report;
  if (text.starts_with("\xEF\xBB\xBF")) {
    report.had_bom = true;
    text.erase(0, 3);
  }
  if (text.find('\0') != std::string::npos) {
    report.num_nul = std::count(text.begin(), text.end(), '\0');
    if (options.reject_broken) {
      report.rejected = "nul_bytes";
      return report;
    }
    std::erase(text, '\0');
  }
  if (!simdjson::validate_utf8(text.data(), text.size())) {
    find_broken(text, report);
    if (options.reject_broken) {
      report.rejected = "invalid_utf8";
      return report;
    }
    text = utf8_with_replacement(text);
  }
  if (options.unify_line_ends && text.find('\r') != std::string::npos)
    unify_line_ends(text, report);
  if (options.normalisation != Normalisation::kNone) normalise(text, options.normalisation);
  return report;
}

}  // namespace fathom
