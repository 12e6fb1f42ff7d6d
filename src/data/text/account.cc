#include "data/text/account.h"

#include <algorithm>

#include "core/json.h"

namespace fathom {
namespace {

// Stands beside the reasons in dropped_bytes: what cleaning took from documents that went out.
constexpr const char* kCleaning = "cleaning";

Json share_to_json(const std::map<std::string, Share>& shares) {
  Json json = Json::object();
  for (const auto& [name, share] : shares) {
    json[name] = {
        {"documents", share.text.documents}, {"bytes", share.text.bytes}, {"tokens", share.tokens}};
  }
  return json;
}

class AccountReader {
 public:
  AccountReader(const Json& json, const std::string& where) : json_(json), where_(where) {
    if (!json.is_object())
      throw_bad_input({.where = where, .found = describe_json(json), .expected = "an object"});
  }
  int64_t number(const char* name) const { return number_in(json_, name); }
  int64_t number_in(const Json& object, const std::string& name) const {
    const auto found = object.find(name);
    if (found == object.end() || !found->is_number_integer())
      throw_bad_input({where_, name, "no whole number", "one", ""});
    return found->get<int64_t>();
  }
  const Json& member(const char* name, Json::value_t type) const {
    const auto found = json_.find(name);
    if (found == json_.end() || found->type() != type)
      throw_bad_input({where_, name, "not there, or of another type", "", ""});
    return *found;
  }
  void shares(const char* name, std::map<std::string, Share>& shares) const {
    for (const auto& [label, value] : member(name, Json::value_t::object).items()) {
      if (!value.is_object())
        throw_bad_input({where_, label, describe_json(value), "an object", ""});
      shares[label] = {{number_in(value, "documents"), number_in(value, "bytes")},
                       number_in(value, "tokens")};
    }
  }

 private:
  const Json& json_;
  const std::string& where_;
};

std::string percent(int64_t part, int64_t whole) {
  return whole == 0 ? "-"
                    : fmt::format("{:.1f} %",
                                  100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

void add_row(std::string& table, const std::string& name, const Tally& tally, const Tally& of) {
  table += fmt::format("  {:<24} {:>12} {:>8}  {:>16} {:>8}\n", name, tally.documents,
                       percent(tally.documents, of.documents), tally.bytes,
                       percent(tally.bytes, of.bytes));
}

void add_shares(std::string& table, const std::string& title,
                const std::map<std::string, Share>& shares, int64_t tokens) {
  std::vector<std::pair<std::string, Share>> rows(shares.begin(), shares.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second.tokens > b.second.tokens; });
  table += fmt::format("\n{:<26} {:>12} {:>26} {:>16} {:>8}\n", title, "documents", "bytes",
                       "tokens", "share");
  for (const auto& [name, share] : rows) {
    table += fmt::format("  {:<24} {:>12} {:>26} {:>16} {:>8}\n", name, share.text.documents,
                         share.text.bytes, share.tokens, percent(share.tokens, tokens));
  }
}

}  // namespace

void Account::add_problem(const std::string& reason, int64_t count, std::string message) {
  problems[reason] += count;
  if (examples.size() < kMaxExamples) examples.push_back(std::move(message));
}

void Account::add(const Account& other) {
  in.add(other.in);
  out.add(other.out);
  for (const auto& [reason, tally] : other.dropped) dropped[reason].add(tally);
  bytes_cleaned += other.bytes_cleaned;
  tokens += other.tokens;
  const auto add_all = [](std::map<std::string, Share>& to,
                          const std::map<std::string, Share>& from) {
    for (const auto& [name, share] : from) {
      to[name].text.add(share.text);
      to[name].tokens += share.tokens;
    }
  };
  add_all(languages, other.languages);
  add_all(domains, other.domains);
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] += other.lengths[i];
  for (const auto& [reason, count] : other.problems) problems[reason] += count;
  for (const std::string& example : other.examples) {
    if (examples.size() < kMaxExamples) examples.push_back(example);
  }
}

void Account::check_balance() const {
  Tally all = out;
  for (const auto& [reason, tally] : dropped) all.add(tally);
  FATHOM_CHECK_EQ(in.documents, all.documents, "documents in, and out with those dropped");
  FATHOM_CHECK_EQ(in.bytes, all.bytes + bytes_cleaned, "bytes in, and out with those dropped");
  for (const auto* shares : {&languages, &domains}) {
    Share sum;
    for (const auto& [name, share] : *shares) {
      sum.text.add(share.text);
      sum.tokens += share.tokens;
    }
    FATHOM_CHECK_EQ(sum.text.documents, out.documents, "documents out by label");
    FATHOM_CHECK_EQ(sum.text.bytes, out.bytes, "bytes out by label");
    FATHOM_CHECK_EQ(sum.tokens, tokens, "tokens by label");
  }
  int64_t by_length = 0;
  for (const int64_t count : lengths) by_length += count;
  FATHOM_CHECK_EQ(by_length, out.documents, "documents out by length");
}

Json account_to_json(const Account& account) {
  Json dropped = Json::object(), dropped_bytes = Json::object(), problems = Json::object();
  for (const auto& [reason, tally] : account.dropped) {
    dropped[reason] = tally.documents;
    dropped_bytes[reason] = tally.bytes;
  }
  dropped_bytes[kCleaning] = account.bytes_cleaned;
  for (const auto& [reason, count] : account.problems) problems[reason] = count;
  size_t lengths = account.lengths.size();
  while (lengths > 0 && account.lengths[lengths - 1] == 0) --lengths;
  return {{"documents_in", account.in.documents},
          {"documents_out", account.out.documents},
          {"bytes_in", account.in.bytes},
          {"bytes_out", account.out.bytes},
          {"dropped", std::move(dropped)},
          {"dropped_bytes", std::move(dropped_bytes)},
          {"tokens", account.tokens},
          {"languages", share_to_json(account.languages)},
          {"domains", share_to_json(account.domains)},
          {"lengths",
           std::vector<int64_t>(account.lengths.begin(),
                                account.lengths.begin() + static_cast<std::ptrdiff_t>(lengths))},
          {"problems", std::move(problems)},
          {"examples", account.examples}};
}

Account account_from_json(const Json& json, const std::string& where) {
  const AccountReader read(json, where);
  Account account;
  account.in = {read.number("documents_in"), read.number("bytes_in")};
  account.out = {read.number("documents_out"), read.number("bytes_out")};
  account.tokens = read.number("tokens");
  const Json& bytes = read.member("dropped_bytes", Json::value_t::object);
  for (const auto& [reason, count] : read.member("dropped", Json::value_t::object).items()) {
    account.dropped[reason] = {read.number_in(json["dropped"], reason),
                               read.number_in(bytes, reason)};
  }
  account.bytes_cleaned = read.number_in(bytes, kCleaning);
  read.shares("languages", account.languages);
  read.shares("domains", account.domains);
  const Json& lengths = read.member("lengths", Json::value_t::array);
  for (size_t i = 0; i < std::min(lengths.size(), account.lengths.size()); ++i)
    account.lengths[i] = lengths[i].is_number_integer() ? lengths[i].get<int64_t>() : 0;
  for (const auto& [reason, count] : read.member("problems", Json::value_t::object).items())
    account.problems[reason] = read.number_in(json["problems"], reason);
  for (const Json& example : read.member("examples", Json::value_t::array)) {
    if (example.is_string()) account.examples.push_back(example.get<std::string>());
  }
  return account;
}

std::string account_table(const Account& account) {
  account.check_balance();
  std::string table =
      fmt::format("{:<26} {:>12} {:>8}  {:>16} {:>8}\n", "", "documents", "", "bytes", "");
  add_row(table, "in", account.in, account.in);
  for (const auto& [reason, tally] : account.dropped)
    add_row(table, "- " + reason, tally, account.in);
  if (account.bytes_cleaned != 0)
    add_row(table, "- cleaning", {0, account.bytes_cleaned}, account.in);
  add_row(table, "out", account.out, account.in);
  table += fmt::format("  {:<24} {:>12}\n", "tokens", account.tokens);
  if (account.out.documents > 0) {
    add_shares(table, "language", account.languages, account.tokens);
    add_shares(table, "kind", account.domains, account.tokens);
  }
  if (!account.problems.empty()) {
    table += "\nwrong with the input\n";
    for (const auto& [reason, count] : account.problems)
      table += fmt::format("  {:<24} {:>12}\n", reason, count);
    const size_t shown = std::min<size_t>(account.examples.size(), 10);
    for (size_t i = 0; i < shown; ++i) table += fmt::format("  {}\n", account.examples[i]);
    if (account.examples.size() > shown) table += "  … more in account.json\n";
  }
  return table;
}

}  // namespace fathom
