// The account as a web page that needs nothing else: tables, and the mixture and length pictures as
// SVG. One hue for the bars, labels as text beside them: nothing is told by colour alone.
#include <algorithm>

#include "core/error.h"
#include "core/markup.h"
#include "data/text/account.h"

namespace fathom {
namespace {

constexpr const char* kStyle =
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;"
    "color:#222;background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}"
    "table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#222}"
    "rect{fill:#2a6f97}pre{white-space:pre-wrap;background:#f4f4f4;padding:.6rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#16191c}"
    "td,th{border-color:#444}svg text{fill:#ddd}rect{fill:#61a5c2}pre{background:#22272b}}";

// 1234567 -> "1 234 567", with thin spaces that do not break.
std::string grouped(int64_t number) {
  std::string digits = std::to_string(number < 0 ? -number : number), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += "\u202F";
    out += digits[i];
  }
  return (number < 0 ? "−" : "") + out;
}

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

struct Bar {
  std::string name;
  int64_t value;
};

// Horizontal bars, each with its name before and its number behind it.
std::string bars_svg(const std::vector<Bar>& bars, const std::string& title) {
  constexpr int kRow = 20, kName = 130, kWidth = 720, kLongest = 420;
  int64_t most = 1, sum = 0;
  for (const Bar& bar : bars) {
    most = std::max(most, bar.value);
    sum += bar.value;
  }
  const int height = kRow * static_cast<int>(bars.size()) + 4;
  std::string svg =
      fmt::format("<svg viewBox=\"0 0 {} {}\" width=\"{}\" role=\"img\" aria-label=\"{}\">", kWidth,
                  height, kWidth, escape_markup(title));
  for (size_t i = 0; i < bars.size(); ++i) {
    const int y = static_cast<int>(i) * kRow + 2;
    const double width = kLongest * share(bars[i].value, most);
    svg += fmt::format(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{}\" y=\"{}\" "
        "width=\"{:.1f}\" height=\"{}\"/><text x=\"{:.1f}\" y=\"{}\">{} ({:.1f} %)</text>",
        kName - 8, y + 13, escape_markup(bars[i].name), kName, y, width, kRow - 4,
        kName + width + 6, y + 13, grouped(bars[i].value), 100 * share(bars[i].value, sum));
  }
  return svg + "</svg>";
}

std::vector<Bar> token_bars(const std::map<std::string, Share>& shares) {
  std::vector<Bar> bars;
  for (const auto& [name, share] : shares) bars.push_back({name, share.tokens});
  std::stable_sort(bars.begin(), bars.end(),
                   [](const Bar& a, const Bar& b) { return a.value > b.value; });
  return bars;
}

std::vector<Bar> length_bars(const Account& account) {
  size_t first = 0, last = account.lengths.size();
  while (last > 0 && account.lengths[last - 1] == 0) --last;
  while (first < last && account.lengths[first] == 0) ++first;
  std::vector<Bar> bars;
  for (size_t i = first; i < last; ++i) {
    const int64_t low = i == 0 ? 0 : int64_t{1} << (i - 1);
    const int64_t high = i == 0 ? 0 : (int64_t{1} << i) - 1;
    bars.push_back(
        {low == high ? grouped(low) : grouped(low) + " – " + grouped(high), account.lengths[i]});
  }
  return bars;
}

void add_page_row(std::string& page, const std::string& name, const Tally& tally, const Tally& of) {
  page += fmt::format(
      "<tr><td>{}</td><td>{}</td><td>{:.1f} %</td><td>{}</td><td>{:.1f} %</td></tr>",
      escape_markup(name), grouped(tally.documents), 100 * share(tally.documents, of.documents),
      grouped(tally.bytes), 100 * share(tally.bytes, of.bytes));
}

}  // namespace

std::string account_page(const Account& account, const std::string& title) {
  account.check_balance();
  std::string page = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{1}</style></head>"
      "<body><h1>{0}</h1><p>{2} tokens in {3} documents, from {4} bytes of text.</p>"
      "<h2>What came in and what went out</h2><table><tr><th></th><th>documents</th><th></th>"
      "<th>bytes</th><th></th></tr>",
      escape_markup(title), kStyle, grouped(account.tokens), grouped(account.out.documents),
      grouped(account.out.bytes));
  add_page_row(page, "in", account.in, account.in);
  for (const auto& [reason, tally] : account.dropped)
    add_page_row(page, "− " + reason, tally, account.in);
  if (account.bytes_cleaned != 0)
    add_page_row(page, "− cleaning", {0, account.bytes_cleaned}, account.in);
  add_page_row(page, "out", account.out, account.in);
  page += "</table>";
  if (account.out.documents > 0) {
    page += "<h2>Languages, by tokens</h2>" +
            bars_svg(token_bars(account.languages), "Tokens by language") +
            "<h2>Kinds, by tokens</h2>" + bars_svg(token_bars(account.domains), "Tokens by kind") +
            "<h2>Documents by length in tokens</h2>" +
            bars_svg(length_bars(account), "Documents by length");
  }
  if (!account.problems.empty()) {
    page += "<h2>Wrong with the input</h2><table>";
    for (const auto& [reason, count] : account.problems)
      page += fmt::format("<tr><td>{}</td><td>{}</td></tr>", escape_markup(reason), grouped(count));
    page += "</table><pre>";
    for (const std::string& example : account.examples) page += escape_markup(example) + "\n";
    page += "</pre>";
  }
  return page + "</body></html>\n";
}

}  // namespace fathom
