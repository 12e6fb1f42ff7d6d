// What a text is: its language, by script and by the words that every sentence needs, and its kind:
// prose, code or maths. Rules, not a model: they tell the mixture of a corpus, and who needs more
// brings labels of his own (one source each). How often they are right on texts of known language
// stands in docs/measurements.md.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "data/text/text_facts.h"

namespace fathom {

struct Label {
  uint16_t language = 0;  // index into language_names()
  uint16_t domain = 0;    // index into domain_names()
  bool operator==(const Label&) const = default;
};

std::span<const std::string_view> language_names();  // ISO 639-1 codes; "other" first
std::span<const std::string_view> domain_names();    // "prose", "code", "maths"

Label label_text(std::string_view text, const TextFacts& facts);

}  // namespace fathom
