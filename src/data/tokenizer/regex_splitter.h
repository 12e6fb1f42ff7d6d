// One `Split(Regex, Isolated)` stage for any pattern, with PCRE2. Patterns are written for
// Oniguruma (what `tokenizers` uses); the syntax that means the same in both is translated,
// whatever means something else is refused by name. Letters newer than PCRE2's Unicode tables may
// be cut otherwise than there.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

class RegexSplitter {
 public:
  // Errors name `where` and `field`.
  RegexSplitter(const std::string& pattern, const std::string& where, const std::string& field);
  ~RegexSplitter();
  RegexSplitter(RegexSplitter&&) noexcept;

  // Cuts each piece of `text` (given by their ends) into matches and what lies between, and appends
  // the new ends. Thread-safe. Bytes that are not UTF-8 match as unassigned characters. A pattern
  // that backtracks without bound is an Error.
  void split(std::string_view text, const std::vector<int64_t>& pieces,
             std::vector<int64_t>& ends) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// `pattern` from Oniguruma's syntax to PCRE2's.
std::string translate_oniguruma(std::string_view pattern, const std::string& where,
                                const std::string& field);

}  // namespace fathom
