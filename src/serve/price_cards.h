// DeepSeek's published prices, so that a service that copies its API can copy its bills.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/meter.h"

namespace fathom::serve {

// "v3" (from 8 February 2025), "r1", "v3.1" (from 5 September 2025), in "USD" or "CNY". Off-peak
// hours are a matter of their own: DeepSeek's took 50 % of V3's price and 25 % of R1's. Unknown
// names are an Error(kUsage).
PriceCard price_card(std::string_view name, std::string_view currency);
std::vector<std::string> price_card_names();

// Of the models of one service: "CARD" for all, or "NAME=CARD" for one; the last that fits counts,
// "v3" if none.
std::string card_of(const std::vector<std::string>& choices, std::string_view model);

}  // namespace fathom::serve
