#include "data/loader/corpus.h"

#include <algorithm>

#include "core/json.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

[[noreturn]] void bad_bytes(const std::string& where, std::string_view text, size_t position,
                            int64_t first_line, const std::string& found) {
  const int64_t line =
      first_line +
      std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(position), '\n');
  throw_bad_input({.where = fmt::format("{}:{}", where, line),
                   .found = found,
                   .expected = "UTF-8 text",
                   .hint = "bad_text = \"repair\" replaces broken UTF-8 and drops NUL bytes"});
}

bool has_suffix(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

void add_document(std::string text, BadText bad_text, const std::string& where, int64_t first_line,
                  CorpusReport& report, std::vector<std::string>& documents) {
  clean_text(text, bad_text, where, first_line, report);
  if (text.empty()) return;
  ++report.num_documents;
  report.num_bytes += static_cast<int64_t>(text.size());
  documents.push_back(std::move(text));
}

void read_jsonl(const std::string& contents, const std::string& path, BadText bad_text,
                CorpusReport& report, std::vector<std::string>& documents) {
  int64_t line_number = 0;
  for (size_t begin = 0; begin < contents.size();) {
    const size_t end = std::min(contents.find('\n', begin), contents.size());
    std::string line = contents.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    clean_text(line, bad_text, path, line_number, report);
    const std::string where = fmt::format("{}:{}", path, line_number);
    const Json object = parse_json(line, where);
    if (!object.is_object())
      throw_bad_input(
          {.where = where, .found = describe_json(object), .expected = "an object with a text"});
    const auto text = object.find("text");
    if (text == object.end()) {
      throw_bad_input(
          {.where = where, .field = "text", .found = "no such key", .expected = "a string"});
    }
    if (!text->is_string())
      throw_bad_input(
          {.where = where, .field = "text", .found = describe_json(*text), .expected = "a string"});
    // Escapes can make NUL characters too.
    add_document(text->get<std::string>(), bad_text, where, 1, report, documents);
  }
}

void read_file(FileSystem& files, const std::string& path, BadText bad_text, CorpusReport& report,
               std::vector<std::string>& documents) {
  ++report.num_files;
  std::string contents = files.read_all(path);
  if (has_suffix(path, ".jsonl")) {
    read_jsonl(contents, path, bad_text, report, documents);
  } else {
    add_document(std::move(contents), bad_text, path, 1, report, documents);
  }
}

}  // namespace

void clean_text(std::string& text, BadText bad_text, const std::string& where, int64_t first_line,
                CorpusReport& report) {
  const size_t nul = text.find('\0');
  if (nul != std::string::npos) {
    if (bad_text == BadText::kError) bad_bytes(where, text, nul, first_line, "a NUL byte");
    report.num_nul_removed += std::count(text.begin(), text.end(), '\0');
    std::erase(text, '\0');
  }
  if (is_valid_utf8(text)) return;
  for (int64_t at = 0; at < static_cast<int64_t>(text.size());) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.bytes > 0) {
      at += c.bytes;
      continue;
    }
    if (bad_text == BadText::kError) {
      bad_bytes(where, text, static_cast<size_t>(at), first_line,
                fmt::format("byte 0x{:02X}, which is not UTF-8 here",
                            static_cast<unsigned char>(text[static_cast<size_t>(at)])));
    }
    ++report.num_utf8_repaired;
    at += broken_utf8(text, at).bytes;
  }
  text = utf8_with_replacement(text);
}

std::vector<std::string> read_corpus(FileSystem& files, const std::string& path, BadText bad_text,
                                     CorpusReport& report) {
  std::vector<std::string> documents;
  const FileInfo info = files.info(path);
  if (!info.exists) fail(ErrorKind::kIo, "{}: no such file or folder", path);
  if (!info.is_directory) {
    read_file(files, path, bad_text, report, documents);
  } else {
    for (const std::string& name : files.list(path)) {
      if (has_suffix(name, ".txt") || has_suffix(name, ".jsonl"))
        read_file(files, join_path(path, name), bad_text, report, documents);
    }
  }
  if (documents.empty()) {
    throw_bad_input({.where = path,
                     .found = "no text",
                     .expected = "a .txt or .jsonl file, or a folder of them"});
  }
  return documents;
}

}  // namespace fathom
