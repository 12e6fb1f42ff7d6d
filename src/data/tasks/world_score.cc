// The scorer of the world: from a free reply to right or wrong.
#include <algorithm>
#include <optional>

#include "core/error.h"
#include "data/tasks/world.h"
#include "data/tasks/world_words.h"

namespace fathom {
namespace {

bool is_ascii_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

// Whether `word` stands in `text`: English between word boundaries, Chinese anywhere (it has none).
bool stands_in(std::string_view word, std::string_view text) {
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const bool cut_before = at > 0 && is_ascii_word(text[at - 1]) && is_ascii_word(word.front());
    const size_t end = at + word.size();
    const bool cut_after =
        end < text.size() && is_ascii_word(text[end]) && is_ascii_word(word.back());
    if (!cut_before && !cut_after) return true;
  }
  return false;
}

// The last run of digits; runs longer than any sum here are wrong whatever they say.
std::optional<int64_t> last_number(std::string_view text) {
  const size_t last = text.find_last_of("0123456789");
  if (last == std::string_view::npos) return std::nullopt;
  size_t first = last;
  while (first > 0 && text[first - 1] >= '0' && text[first - 1] <= '9') --first;
  if (last - first >= 9) return -1;
  int64_t number = 0;
  for (size_t i = first; i <= last; ++i) number = number * 10 + (text[i] - '0');
  return number;
}

}  // namespace

// All values that the question could have had, in its language.
std::vector<std::string> World::candidates(const WorldQuestion& question) const {
  const size_t language = static_cast<size_t>(question.language);
  std::vector<std::string> all;
  for (const world_words::Attribute& attribute : world_words::attributes()) {
    if (attribute.name != question.kind) continue;
    for (const auto& value : attribute.values) all.emplace_back(value[language]);
    if (attribute.kind == world_words::ValueKind::kPetName) {
      for (const Person& person : people_) all.push_back(person.pet_name[language]);
    }
    return all;  // values that are people: is_right looks at every name
  }
  FATHOM_CHECK(false, "unknown kind of question '{}'", question.kind);
}

bool World::is_right(const WorldQuestion& question, std::string_view reply) const {
  if (question.kind == "sum") return last_number(reply) == question.addend_a + question.addend_b;
  const std::string text = lower(reply);
  if (!stands_in(lower(question.value), text)) return false;
  for (const std::string& other : candidates(question)) {
    if (other != question.value && stands_in(lower(other), text)) return false;
  }
  const size_t language = static_cast<size_t>(question.language);
  for (int64_t i = 0; i < config_.num_people; ++i) {
    const std::string& name = people_[static_cast<size_t>(i)].name[language];
    if (i != question.person_idx && name != question.value && stands_in(lower(name), text))
      return false;
  }
  if (question.kind != "friend" && question.kind != "owner") return true;
  // Where the value is a person, any sentence about that person would do: the reply has to be about
  // the subject of the question, or be the bare name.
  const int64_t attribute = question.kind == "friend" ? world_words::kFriend : world_words::kOwner;
  if (stands_in(lower(subject({question.person_idx, attribute}, question.language)), text))
    return true;
  const size_t first = text.find_first_not_of(" \n\t");
  const size_t last = text.find_last_not_of(" \n\t.!");
  return text.substr(first, last - first + 1) == lower(question.value);
}

}  // namespace fathom
