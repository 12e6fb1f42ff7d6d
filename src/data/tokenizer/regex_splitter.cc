#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tokenizer/regex_splitter.h"

#include <pcre2.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

// A character of category Cn, in no class that a pattern can name but \P{…}: it takes the place
// of each invalid byte while matching.
constexpr uint32_t kStandIn = 0x10FFFF;
// Steps of backtracking for one match: far more than any sane pattern needs, seconds at the most.
constexpr uint32_t kMatchLimit = 100'000'000;
constexpr uint32_t kHeapLimitKib = 4u << 20;
constexpr size_t kJitStackMin = 64 << 10;
constexpr size_t kJitStackMax = 64 << 20;
constexpr size_t kMaxPatternBytes = 20'000;

template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
using Code = std::unique_ptr<pcre2_code, FreeWith<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, FreeWith<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, FreeWith<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, FreeWith<pcre2_jit_stack_free>>;

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(error, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

// Text that PCRE2 may see, and where its offsets lie in the original.
class Subject {
 public:
  explicit Subject(std::string_view text) : text_(text) {
    if (is_valid_utf8(text)) return;
    const auto size = static_cast<int64_t>(text.size());
    for (int64_t at = 0; at < size;) {
      const Utf8Char c = decode_utf8(text, at);
      if (c.bytes > 0) {
        clean_.append(text.substr(static_cast<size_t>(at), static_cast<size_t>(c.bytes)));
      } else {
        append_utf8(kStandIn, clean_);
      }
      at += std::max(c.bytes, 1);
      origin_.resize(clean_.size(), at);  // wrong inside a character, where no match ends
      origin_.back() = at;
    }
    text_ = clean_;
  }
  std::string_view text() const { return text_; }
  int64_t original(size_t offset) const {
    if (origin_.empty() || offset == 0) return static_cast<int64_t>(offset);
    return origin_[offset - 1];
  }

 private:
  std::string_view text_;
  std::string clean_;
  std::vector<int64_t> origin_;  // of each byte of clean_: the original offset behind its character
};

}  // namespace

struct RegexSplitter::Impl {
  Code code;
  std::string where;
  std::string field;

  // Cuts one piece; `base` is its offset in the whole text.
  void split_piece(std::string_view piece, int64_t base, pcre2_match_data* data,
                   pcre2_match_context* context, std::vector<int64_t>& ends) const {
    const Subject subject(piece);
    const std::string_view text = subject.text();
    const auto emit = [&](size_t offset) {
      const int64_t end = base + subject.original(offset);
      if (end > base && (ends.empty() || ends.back() < end)) ends.push_back(end);
    };
    size_t at = 0;
    while (at < text.size()) {
      const int count = match(text, at, data, context);
      if (count == PCRE2_ERROR_NOMATCH) break;
      const size_t* span = pcre2_get_ovector_pointer(data);
      FATHOM_CHECK_LE(span[0], span[1], "\\K is refused by the translation");
      emit(span[0]);
      emit(span[1]);
      at = span[1];
      // An empty match is a cut and nothing more; look on behind the next character.
      if (span[0] == span[1] && at < text.size()) {
        at += static_cast<size_t>(decode_utf8(text, static_cast<int64_t>(at)).bytes);
      }
    }
    emit(text.size());
  }

  int match(std::string_view text, size_t at, pcre2_match_data* data,
            pcre2_match_context* context) const {
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int result =
        pcre2_match(code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data, context);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its state on the heap
      result = pcre2_match(code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           data, context);
    }
    if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
      throw_bad_input({where, field,
                       fmt::format("a pattern that fails on a text of {} bytes: {}", text.size(),
                                   message_of(result)),
                       "a pattern that matches in bounded time", ""});
    }
    return result;
  }
};

RegexSplitter::RegexSplitter(const std::string& pattern, const std::string& where,
                             const std::string& field) {
  if (pattern.empty() || pattern.size() > kMaxPatternBytes) {
    throw_bad_input({where, field, fmt::format("a pattern of {} bytes", pattern.size()),
                     fmt::format("1 to {} bytes", kMaxPatternBytes), ""});
  }
  const std::string translated = translate_oniguruma(pattern, where, field);
  int error = 0;
  size_t offset = 0;
  // MULTILINE: ^ and $ are anchors of lines in Oniguruma.
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                          &offset, nullptr));
  if (code == nullptr) {
    throw_bad_input({where, field,
                     fmt::format("\"{}\": {} at byte {}", pattern, message_of(error), offset),
                     "a regular expression", ""});
  }
  // Without JIT (not built in, or no executable memory) the interpreter gives the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  auto impl = std::make_unique<Impl>();
  impl->code = std::move(code);
  impl->where = where;
  impl->field = field;
  impl_ = std::move(impl);
}

RegexSplitter::~RegexSplitter() = default;
RegexSplitter::RegexSplitter(RegexSplitter&&) noexcept = default;

void RegexSplitter::split(std::string_view text, const std::vector<int64_t>& pieces,
                          std::vector<int64_t>& ends) const {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  const JitStack stack(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
  FATHOM_CHECK(data != nullptr && context != nullptr && stack != nullptr, "out of memory");
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  int64_t begin = 0;
  for (const int64_t end : pieces) {
    const std::string_view piece =
        text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    impl_->split_piece(piece, begin, data.get(), context.get(), ends);
    begin = end;
  }
}

std::string translate_oniguruma(std::string_view pattern, const std::string& where,
                                const std::string& field) {
  const auto refuse = [&](size_t at, const std::string& what) {
    throw_bad_input({where, field, fmt::format("{} at byte {} of \"{}\"", what, at, pattern),
                     "regular-expression syntax with one meaning in Oniguruma and PCRE2", ""});
  };
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const std::string_view rest = pattern.substr(i);
    if (c == '\\') {
      if (i + 1 == pattern.size()) refuse(i, "a lone backslash");
      const char e = pattern[++i];
      if (e == 's') {
        result += R"(\p{White_Space})";  // PCRE2's \s has U+180E too
      } else if (e == 'S') {
        result += R"(\P{White_Space})";
      } else if (e == 'p' || e == 'P') {
        const size_t close = pattern.find('}', i);
        if (i + 1 >= pattern.size() || pattern[i + 1] != '{' || close == std::string_view::npos) {
          refuse(i - 1, "a property that is not written \\p{…}");
        }
        result.append(pattern.substr(i - 1, close - i + 2));
        i = close;
      } else if (std::string_view("dDrnt").find(e) != std::string_view::npos ||
                 (static_cast<uint8_t>(e) < 0x80 && !std::isalnum(static_cast<unsigned char>(e)))) {
        result += {'\\', e};
      } else {
        refuse(i - 1, fmt::format("the escape \\{}", e));
      }
      continue;
    }
    if (in_class) {
      if (c == '[') refuse(i, "a class inside a class");
      if (rest.starts_with("&&")) refuse(i, "an intersection of classes");
      if (c == ']') in_class = false;
    } else if (c == '[') {
      in_class = true;
      if (rest.starts_with("[]") || rest.starts_with("[^]"))
        refuse(i, "an unescaped ] first in a class");
    } else if (rest.starts_with("}+")) {
      refuse(i, "a possessive interval");
    } else if (rest.starts_with("(?")) {
      bool known = false;
      for (const std::string_view group : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
        known = known || rest.starts_with(group);
      }
      if (!known) refuse(i, "this kind of group");
    } else if (rest.starts_with("(*")) {
      refuse(i, "a verb");
    } else if (c == '#') {
      result += '\\';  // a plain letter either way; escaped to be sure of it
    }
    result += c;
  }
  return result;
}

}  // namespace fathom
