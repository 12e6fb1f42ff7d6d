// The account of a corpus: every document and every byte that came in went out or was dropped for a
// named reason. It is added up from the account of each piece of work, and checked to balance
// wherever it is shown.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/json_fwd.h"

namespace fathom {

struct Tally {
  int64_t documents = 0;
  int64_t bytes = 0;
  void add(int64_t num_bytes) {
    ++documents;
    bytes += num_bytes;
  }
  void add(const Tally& other) {
    documents += other.documents;
    bytes += other.bytes;
  }
  bool operator==(const Tally&) const = default;
};

// What went out under one label.
struct Share {
  Tally text;
  int64_t tokens = 0;
  bool operator==(const Share&) const = default;
};

struct Account {
  // Bytes of text: of the document's text, or of the line where no text could be read from it.
  Tally in;
  Tally out;
  std::map<std::string, Tally> dropped;  // by reason
  int64_t bytes_cleaned = 0;  // bytes that cleaning took from the documents that went on; below 0
                              // where normalisation or U+FFFD made them longer
  int64_t tokens = 0;
  std::map<std::string, Share> languages, domains;
  // Documents that went out by length: [i] has those of 2^(i-1) to 2^i - 1 tokens, [0] empty ones.
  std::array<int64_t, 48> lengths{};
  // What was wrong with the input, whether it cost a document or not: how often, and the first few
  // with file and line.
  std::map<std::string, int64_t> problems;
  std::vector<std::string> examples;
  static constexpr size_t kMaxExamples = 100;

  void add_problem(const std::string& reason, int64_t count, std::string message);
  void add(const Account& other);
  // in = out + dropped, in documents and in bytes; the shares add up to what went out.
  void check_balance() const;
  bool operator==(const Account&) const = default;
};

// documents_in, documents_out, bytes_in, bytes_out, dropped and dropped_bytes by reason, tokens,
// languages, domains, …
Json account_to_json(const Account& account);
Account account_from_json(const Json& json, const std::string& where);

// For a terminal.
std::string account_table(const Account& account);
// One HTML page with its pictures in it; needs nothing else.
std::string account_page(const Account& account, const std::string& title);

}  // namespace fathom
