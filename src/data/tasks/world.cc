#include "data/tasks/world.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "data/tasks/world_words.h"

namespace fathom {
namespace {

using world_words::Attribute;
using world_words::ValueKind;

// Streams of draws; the step of the counter is stream * 2^40 + index.
enum Stream : uint64_t {
  kPeopleStream = 1,
  kDocumentStream = 2,
  kDialogueStream = 3,
  kTestStream = 4
};
constexpr uint64_t kStreamStride = uint64_t{1} << 40;

// How often a statement is the one that also answers questions.
constexpr double kAnswerWordingShare = 0.4;

const Attribute& attribute_at(int64_t index) {
  return world_words::attributes()[static_cast<size_t>(index)];
}
size_t column(WorldLanguage language) { return static_cast<size_t>(language); }

std::string replace_all(std::string text, std::string_view what, std::string_view with) {
  for (size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
  return text;
}

[[noreturn]] void bad_world(const char* field, int64_t found, const std::string& expected) {
  throw_bad_input({.where = "world",
                   .field = field,
                   .found = std::to_string(found),
                   .expected = expected,
                   .hint = {}});
}

}  // namespace

// Draws of one document, dialogue or step of construction, one after the other.
class World::Draws {
 public:
  Draws(const WorldConfig& config, Stream stream, int64_t index)
      : random_(static_cast<uint64_t>(config.seed), RandomPurpose::kWorld,
                stream * kStreamStride + static_cast<uint64_t>(index)) {}
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(random_.below(next_++, static_cast<uint64_t>(bound)));
  }
  bool chance(double probability) { return random_.uniform(next_++) < probability; }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (int64_t i = static_cast<int64_t>(items.size()) - 1; i > 0; --i) {
      std::swap(items[static_cast<size_t>(i)], items[static_cast<size_t>(below(i + 1))]);
    }
  }
  std::vector<int64_t> permutation(int64_t count) {
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), int64_t{0});
    shuffle(order);
    return order;
  }
  std::string_view pick(std::span<const std::string_view> choices) {
    return choices[static_cast<size_t>(below(static_cast<int64_t>(choices.size())))];
  }

 private:
  Random random_;
  uint64_t next_ = 0;
};

void visit_fields(WorldConfig& c, ConfigFields& f) {
  f.field("seed", c.seed, at_least(0), "which world");
  f.field("num_people", c.num_people, between(4, 96), "people, each with a pet");
  f.field("num_attributes", c.num_attributes, between(1, 9),
          "what is known of each: the first so many");
  f.field("held_out_share", c.held_out_share, between(0, 0.9), "facts that no dialogue asks about");
  f.field("chinese_share", c.chinese_share, between(0, 1),
          "people, documents and dialogues in Chinese");
  f.field("max_addend", c.max_addend, between(20, 99), "largest number in a sum");
  f.field("max_sum", c.max_sum, between(40, 198), "largest sum");
  f.field("num_held_out_sums", c.num_held_out_sums, between(0, 1000),
          "pairs of numbers kept for the test");
  f.field("document_sum_share", c.document_sum_share, between(0, 1), "documents that are sums");
  f.field("dialogue_sum_share", c.dialogue_sum_share, between(0, 1), "questions that are sums");
  f.field("small_talk_share", c.small_talk_share, between(0, 0.5),
          "greetings, and people nobody knows");
  f.field("show_working", c.show_working, "sums are answered digit by digit");
}

const std::vector<std::string>& world_attribute_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Attribute& attribute : world_words::attributes()) all.emplace_back(attribute.name);
    return all;
  }();
  return names;
}

World::World(const WorldConfig& config) : config_(config) {
  if (config.num_people < 4 || config.num_people > 96)
    bad_world("num_people", config.num_people, "4 to 96");
  if (config.num_attributes < 1 || config.num_attributes > 9) {
    bad_world("num_attributes", config.num_attributes, "1 to 9");
  }
  if (config.max_addend < 20 || config.max_addend > 99)
    bad_world("max_addend", config.max_addend, "20 to 99");
  name_people();
  deal_values();
  hold_out_facts();
  hold_out_sums();
}

void World::name_people() {
  const auto beginnings = world_words::person_beginnings();
  const auto endings = world_words::person_endings();
  Draws draws(config_, kPeopleStream, 0);
  // Every beginning is used before one is used twice, so that names differ early.
  std::vector<std::array<std::string, 2>> names;
  std::vector<std::vector<int64_t>> ending_orders;
  const std::vector<int64_t> order = draws.permutation(static_cast<int64_t>(beginnings.size()));
  for (size_t i = 0; i < order.size(); ++i)
    ending_orders.push_back(draws.permutation(static_cast<int64_t>(endings.size())));
  for (size_t round = 0; round < endings.size(); ++round) {
    for (size_t i = 0; i < order.size(); ++i) {
      const auto& first = beginnings[static_cast<size_t>(order[i])];
      const auto& last = endings[static_cast<size_t>(ending_orders[i][round])];
      names.push_back({std::string(first[0]) + std::string(last[0]),
                       std::string(first[1]) + std::string(last[1])});
    }
  }
  const auto pet_beginnings = world_words::pet_beginnings();
  const auto pet_endings = world_words::pet_endings();
  const std::vector<int64_t> pets =
      draws.permutation(static_cast<int64_t>(pet_beginnings.size() * pet_endings.size()));
  people_.resize(static_cast<size_t>(config_.num_people));
  for (size_t i = 0; i < people_.size(); ++i) {
    people_[i].name = names[i];
    const size_t pet = static_cast<size_t>(pets[i]);
    for (size_t language = 0; language < 2; ++language) {
      people_[i].pet_name[language] =
          std::string(pet_beginnings[pet % pet_beginnings.size()][language]) +
          std::string(pet_endings[pet / pet_beginnings.size()][language]);
    }
  }
  strangers_.assign(names.begin() + config_.num_people, names.end());
  const auto num_chinese =
      static_cast<int64_t>(config_.chinese_share * static_cast<double>(config_.num_people));
  const std::vector<int64_t> chosen = draws.permutation(config_.num_people);
  chinese_people_.assign(chosen.begin(), chosen.begin() + num_chinese);
  for (const int64_t person : chinese_people_)
    people_[static_cast<size_t>(person)].in_chinese = true;
}

// Values are dealt like cards: each is used equally often, so that guessing the most frequent gains
// nothing.
void World::deal_values() {
  for (int64_t a = 0; a < config_.num_attributes; ++a) {
    Draws draws(config_, kPeopleStream, 1 + a);
    const std::vector<int64_t> order = draws.permutation(config_.num_people);
    for (size_t i = 0; i < order.size(); ++i) {
      Person& person = people_[static_cast<size_t>(order[i])];
      int64_t value = order[i];  // a pet's name or a pet's owner: the person itself
      if (attribute_at(a).kind == ValueKind::kWord) {
        value = static_cast<int64_t>(i % attribute_at(a).values.size());
      } else if (a == world_words::kFriend) {
        value = order[(i + 1) %
                      order.size()];  // one circle: nobody is the best friend of the best friend
      }
      person.value.push_back(value);
    }
  }
}

void World::hold_out_facts() {
  Draws draws(config_, kTestStream, 0);
  const auto count =
      static_cast<size_t>(config_.held_out_share * static_cast<double>(config_.num_people));
  for (int64_t a = 0; a < config_.num_attributes; ++a) {
    const std::vector<int64_t> order = draws.permutation(config_.num_people);
    std::vector<bool> held(people_.size(), false);
    for (size_t i = 0; i < count; ++i) held[static_cast<size_t>(order[i])] = true;
    for (size_t i = 0; i < people_.size(); ++i) {
      // Asking for a pet's name and for its owner is the same fact from two sides.
      const bool same_as_pet_name = a == world_words::kOwner;
      people_[i].held_out.push_back(same_as_pet_name ? people_[i].held_out[world_words::kPetName]
                                                     : held[i]);
    }
  }
  for (int64_t person = 0; person < config_.num_people; ++person) {
    const Person& p = people_[static_cast<size_t>(person)];
    for (int64_t a = 0; a < config_.num_attributes; ++a) {
      for (const WorldLanguage language : {WorldLanguage::kEnglish, WorldLanguage::kChinese}) {
        if (language == WorldLanguage::kChinese && !p.in_chinese) continue;
        const Fact fact{person, a};
        if (p.held_out[static_cast<size_t>(a)]) {
          held_out_.push_back(fact_question(fact, language, draws));
        } else {
          taught_[column(language)].push_back(fact);
        }
      }
    }
  }
}

// Held-out numbers have two digits each; those of one digit are the table that everything is built
// on.
void World::hold_out_sums() {
  const int64_t side = config_.max_addend + 1;
  held_out_pairs_.assign(static_cast<size_t>(side * side), false);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (int64_t a = 10; a < side; ++a) {
    for (int64_t b = a; b < side && a + b <= config_.max_sum; ++b) pairs.emplace_back(a, b);
  }
  if (config_.num_held_out_sums * 2 > static_cast<int64_t>(pairs.size())) {
    bad_world("num_held_out_sums", config_.num_held_out_sums,
              fmt::format("at most half of the {} pairs of two-digit numbers", pairs.size()));
  }
  Draws draws(config_, kTestStream, 1);
  draws.shuffle(pairs);
  const auto num_chinese =
      static_cast<int64_t>(config_.chinese_share * static_cast<double>(config_.num_held_out_sums));
  for (int64_t i = 0; i < config_.num_held_out_sums; ++i) {
    auto [a, b] = pairs[static_cast<size_t>(i)];
    held_out_pairs_[static_cast<size_t>(a * side + b)] = true;
    held_out_pairs_[static_cast<size_t>(b * side + a)] = true;
    if (draws.chance(0.5)) std::swap(a, b);
    held_out_.push_back(sum_question(
        a, b, i < num_chinese ? WorldLanguage::kChinese : WorldLanguage::kEnglish, draws));
  }
}

bool World::pair_held_out(int64_t a, int64_t b) const {
  return held_out_pairs_[static_cast<size_t>(a * (config_.max_addend + 1) + b)];
}

std::string World::person_name(int64_t person_idx, WorldLanguage language) const {
  FATHOM_CHECK(person_idx >= 0 && person_idx < config_.num_people, "person {}", person_idx);
  return people_[static_cast<size_t>(person_idx)].name[column(language)];
}

std::string World::subject(Fact fact, WorldLanguage language) const {
  const Person& person = people_[static_cast<size_t>(fact.person)];
  return attribute_at(fact.attribute).subject_is_pet ? person.pet_name[column(language)]
                                                     : person.name[column(language)];
}

std::string World::value(Fact fact, WorldLanguage language) const {
  const Attribute& attribute = attribute_at(fact.attribute);
  const int64_t index =
      people_[static_cast<size_t>(fact.person)].value[static_cast<size_t>(fact.attribute)];
  switch (attribute.kind) {
    case ValueKind::kWord:
      return std::string(attribute.values[static_cast<size_t>(index)][column(language)]);
    case ValueKind::kPerson:
      return people_[static_cast<size_t>(index)].name[column(language)];
    case ValueKind::kPetName:
      return people_[static_cast<size_t>(index)].pet_name[column(language)];
  }
  FATHOM_CHECK(false, "value kind");
}

std::string World::fill(std::string_view sentence, Fact fact, WorldLanguage language) const {
  std::string text = replace_all(std::string(sentence), "{s}", subject(fact, language));
  text = replace_all(std::move(text), "{v}", value(fact, language));
  if (text.find("{p}") != std::string::npos) {
    text = replace_all(std::move(text), "{p}", value({fact.person, world_words::kPet}, language));
  }
  if (text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::string World::statement(Fact fact, WorldLanguage language, Draws& draws) const {
  const auto& wordings = attribute_at(fact.attribute).wordings[column(language)];
  if (draws.chance(kAnswerWordingShare)) return fill(wordings.answer, fact, language);
  return fill(draws.pick(wordings.statements), fact, language);
}

WorldQuestion World::fact_question(Fact fact, WorldLanguage language, Draws& draws) const {
  const auto& wordings = attribute_at(fact.attribute).wordings[column(language)];
  return {.text = fill(draws.pick(wordings.questions), fact, language),
          .answer = fill(wordings.answer, fact, language),
          .value = value(fact, language),
          .kind = std::string(attribute_at(fact.attribute).name),
          .language = language,
          .person_idx = fact.person};
}

std::string World::sum_answer(int64_t a, int64_t b, WorldLanguage language) const {
  const bool chinese = language == WorldLanguage::kChinese;
  if (!config_.show_working || (a < 10 && b < 10)) {
    return fmt::format("{} + {} = {}{}", a, b, a + b, chinese ? "。" : ".");
  }
  // Digit by digit, as on paper: every step is a sum of digits, so a pair of larger numbers occurs
  // nowhere but in its own line.
  const int64_t ones = a % 10 + b % 10;
  const int64_t carry = ones / 10;
  std::vector<int64_t> tens;
  if (a >= 10) tens.push_back(a / 10);
  if (b >= 10) tens.push_back(b / 10);
  if (carry > 0) tens.push_back(carry);
  std::string steps = fmt::format("{} + {} = {}", a % 10, b % 10, ones);
  if (tens.size() > 1) {
    steps += fmt::format("{}{} = {}", chinese ? "，" : ", ", fmt::join(tens, " + "),
                         std::accumulate(tens.begin(), tens.end(), int64_t{0}));
  }
  return chinese ? fmt::format("{} + {}：{}，所以是 {}。", a, b, steps, a + b)
                 : fmt::format("{} + {}: {}, so {}.", a, b, steps, a + b);
}

WorldQuestion World::sum_question(int64_t a, int64_t b, WorldLanguage language,
                                  Draws& draws) const {
  std::string text(draws.pick(world_words::sum_questions(language == WorldLanguage::kChinese)));
  text =
      replace_all(replace_all(std::move(text), "{a}", std::to_string(a)), "{b}", std::to_string(b));
  return {.text = std::move(text),
          .answer = sum_answer(a, b, language),
          .value = std::to_string(a + b),
          .kind = "sum",
          .language = language,
          .addend_a = a,
          .addend_b = b};
}

std::vector<std::string> World::wordings(const WorldQuestion& question) const {
  std::vector<std::string> all;
  if (question.kind == "sum") {
    for (const auto& [a, b] : {std::pair{question.addend_a, question.addend_b},
                               std::pair{question.addend_b, question.addend_a}}) {
      for (const bool chinese : {false, true}) {
        for (const std::string_view text : world_words::sum_questions(chinese)) {
          all.push_back(replace_all(replace_all(std::string(text), "{a}", std::to_string(a)), "{b}",
                                    std::to_string(b)));
        }
      }
    }
    return all;
  }
  const auto& names = world_attribute_names();
  const auto a = std::find(names.begin(), names.end(), question.kind) - names.begin();
  const Fact fact{question.person_idx, a};
  for (const WorldLanguage language : {WorldLanguage::kEnglish, WorldLanguage::kChinese}) {
    for (const std::string_view text : attribute_at(a).wordings[column(language)].questions) {
      all.push_back(fill(text, fact, language));
    }
  }
  return all;
}

int64_t World::any_person(WorldLanguage language, Draws& draws) const {
  if (language == WorldLanguage::kEnglish) return draws.below(config_.num_people);
  return chinese_people_[static_cast<size_t>(
      draws.below(static_cast<int64_t>(chinese_people_.size())))];
}

std::pair<int64_t, int64_t> World::taught_pair(Draws& draws) const {
  // A fifth of the pairs have one digit each: the table that the others are built on. The loop ends
  // soon: at most half of the pairs are held out, and those of one digit never are.
  while (true) {
    const int64_t bound = draws.chance(0.2) ? 10 : config_.max_addend + 1;
    const int64_t a = draws.below(bound);
    const int64_t b = draws.below(bound);
    if (a + b <= config_.max_sum && !pair_held_out(a, b)) return {a, b};
  }
}

std::string World::document(int64_t index) const {
  Draws draws(config_, kDocumentStream, index);
  const auto language = draws.chance(config_.chinese_share) && !chinese_people_.empty()
                            ? WorldLanguage::kChinese
                            : WorldLanguage::kEnglish;
  const std::string_view between = language == WorldLanguage::kEnglish ? " " : "";
  std::vector<std::string> sentences;
  if (draws.chance(config_.document_sum_share)) {
    const int64_t count = 6 + draws.below(7);
    for (int64_t i = 0; i < count; ++i) {
      const auto [a, b] = taught_pair(draws);
      sentences.push_back(sum_answer(a, b, language));
    }
    return fmt::format("{}", fmt::join(sentences, "\n"));
  }
  if (draws.chance(0.6)) {  // one person
    const int64_t person = any_person(language, draws);
    std::vector<int64_t> attributes = draws.permutation(config_.num_attributes);
    const int64_t least = std::min<int64_t>(3, config_.num_attributes);
    attributes.resize(static_cast<size_t>(least + draws.below(config_.num_attributes - least + 1)));
    for (const int64_t a : attributes) sentences.push_back(statement({person, a}, language, draws));
  } else {  // one question about several people
    const int64_t attribute = draws.below(config_.num_attributes);
    const int64_t count = 4 + draws.below(5);
    for (int64_t i = 0; i < count; ++i) {
      sentences.push_back(statement({any_person(language, draws), attribute}, language, draws));
    }
  }
  return fmt::format("{}", fmt::join(sentences, between));
}

std::vector<std::string> World::documents(int64_t num_bytes) const {
  std::vector<std::string> all;
  for (int64_t bytes = 0, index = 0; bytes < num_bytes; ++index) {
    all.push_back(document(index));
    bytes += static_cast<int64_t>(all.back().size());
  }
  return all;
}

std::vector<Message> World::dialogue(int64_t index) const {
  Draws draws(config_, kDialogueStream, index);
  const auto language = draws.chance(config_.chinese_share) && !taught_[1].empty()
                            ? WorldLanguage::kChinese
                            : WorldLanguage::kEnglish;
  const std::vector<Fact>& taught = taught_[column(language)];
  std::vector<Message> messages;
  const int64_t num_turns = 1 + draws.below(3);
  for (int64_t turn = 0; turn < num_turns; ++turn) {
    std::string question, answer;
    if (draws.chance(config_.small_talk_share)) {
      if (draws.chance(0.5)) {
        const auto talk = world_words::small_talk();
        const auto& chosen =
            talk[static_cast<size_t>(draws.below(static_cast<int64_t>(talk.size())))];
        question = chosen.question[column(language)];
        answer = chosen.answer[column(language)];
      } else {
        // A question about someone who is not in the world: the answer is to say so.
        const auto& stranger =
            strangers_[static_cast<size_t>(draws.below(static_cast<int64_t>(strangers_.size())))];
        int64_t attribute = draws.below(config_.num_attributes);
        if (attribute_at(attribute).subject_is_pet) attribute = 0;
        question = replace_all(
            std::string(draws.pick(attribute_at(attribute).wordings[column(language)].questions)),
            "{s}", stranger[column(language)]);
        answer = replace_all(std::string(world_words::stranger_answer()[column(language)]), "{s}",
                             stranger[column(language)]);
      }
    } else {
      const bool is_sum = draws.chance(config_.dialogue_sum_share);
      WorldQuestion asked;
      if (is_sum) {
        const auto [a, b] = taught_pair(draws);
        asked = sum_question(a, b, language, draws);
      } else {
        asked = fact_question(
            taught[static_cast<size_t>(draws.below(static_cast<int64_t>(taught.size())))], language,
            draws);
      }
      question = std::move(asked.text);
      answer = std::move(asked.answer);
    }
    messages.push_back({Role::kUser, std::move(question)});
    messages.push_back({Role::kAssistant, std::move(answer)});
  }
  return messages;
}

}  // namespace fathom
