#include "serve/price_cards.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace fathom::serve {
namespace {

struct Published {
  std::string_view name, currency;
  int64_t hit_micro, miss_micro, output_micro;  // of a million tokens
};

constexpr Published kPublished[] = {
    {"v3", "USD", 70'000, 270'000, 1'100'000},   {"v3", "CNY", 500'000, 2'000'000, 8'000'000},
    {"r1", "USD", 140'000, 550'000, 2'190'000},  {"r1", "CNY", 1'000'000, 4'000'000, 16'000'000},
    {"v3.1", "USD", 70'000, 560'000, 1'680'000}, {"v3.1", "CNY", 500'000, 4'000'000, 12'000'000},
};

}  // namespace

std::vector<std::string> price_card_names() {
  std::vector<std::string> names;
  for (const Published& card : kPublished) {
    if (std::find(names.begin(), names.end(), card.name) == names.end())
      names.emplace_back(card.name);
  }
  return names;
}

PriceCard price_card(std::string_view name, std::string_view currency) {
  for (const Published& card : kPublished) {
    if (card.name == name && card.currency == currency)
      return {.hit_micro = card.hit_micro,
              .miss_micro = card.miss_micro,
              .output_micro = card.output_micro};
  }
  fail(ErrorKind::kUsage, "--price-card: found {} in {}, expected {} in USD or CNY", name, currency,
       fmt::join(price_card_names(), ", "));
}

std::string card_of(const std::vector<std::string>& choices, std::string_view model) {
  std::string card = "v3";
  for (const std::string& choice : choices) {
    const size_t equals = choice.find('=');
    if (equals == std::string::npos) {
      card = choice;
    } else if (std::string_view(choice).substr(0, equals) == model) {
      card = choice.substr(equals + 1);
    }
  }
  return card;
}

}  // namespace fathom::serve
