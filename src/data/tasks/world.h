// A small invented world whose every fact can be checked: people of a valley with a home, a job, a
// pet and its name, a favourite colour and food, an instrument, a best friend; and sums of numbers
// of up to two digits. In English, and for some of the people in Chinese too. What a model answers
// about it is right or wrong, on questions that it has never been asked: that is what the demo
// measures.
//
//   documents   pre-training text: every fact as statements, in many wordings, both directions;
//   sums dialogues   fine-tuning: questions and answers about the taught part of the facts and
//   pairs held out    questions for the test. Such a fact stands in documents as statements only;
//   no dialogue asks
//               it in any wording or language or from the other side. A held-out pair of numbers
//               appears nowhere.
//
// Everything is a function of the configuration (and its seed); documents and dialogues are
// numbered and can be made in any order. Numbers should reach the model digit by digit: train the
// tokenizer with the split pattern \p{N} in place of \p{N}{1,3}, or on text in which no two digits
// touch.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config.h"
#include "data/chat/chat.h"

namespace fathom {

enum class WorldLanguage { kEnglish, kChinese };

struct WorldConfig {
  int64_t seed = 0;
  int64_t num_people = 40;       // 4 to 96
  int64_t num_attributes = 8;    // the first so many of world_attribute_names()
  double held_out_share = 0.25;  // of the facts of each attribute
  double chinese_share = 0.25;   // of the people, of the documents and of the dialogues
  int64_t max_addend = 99;       // 20 to 99
  int64_t max_sum = 198;         // pairs with a larger sum are not used
  int64_t num_held_out_sums = 60;
  double document_sum_share = 0.25;  // of the documents
  double dialogue_sum_share = 0.4;   // of the questions in dialogues
  double small_talk_share = 0.08;    // of the questions: greetings, and people nobody knows
  bool show_working = true;  // "47 + 25: 7 + 5 = 12, 4 + 2 + 1 = 7, so 72." or "47 + 25 = 72."
};
void visit_fields(WorldConfig& c, ConfigFields& f);

// "home", "job", "pet", "pet_name", "colour", "food", "instrument", "friend", "owner".
const std::vector<std::string>& world_attribute_names();

struct WorldQuestion {
  std::string text;
  std::string answer;  // the sentence that a perfect pupil writes
  std::string value;   // what decides: "Oakford", "72"
  std::string kind;    // an attribute's name, or "sum"
  WorldLanguage language = WorldLanguage::kEnglish;
  int64_t person_idx = -1;               // of a fact
  int64_t addend_a = -1, addend_b = -1;  // of a sum
};

class World {
 public:
  // Error(kBadInput) for a configuration that leaves nothing to ask or to teach.
  explicit World(const WorldConfig& config);

  const WorldConfig& config() const { return config_; }

  // Pre-training document `index`; every index is another one.
  std::string document(int64_t index) const;
  // Documents 0, 1, … until they hold `num_bytes` of text.
  std::vector<std::string> documents(int64_t num_bytes) const;

  // Fine-tuning dialogue `index`: one to three questions, each with its answer.
  std::vector<Message> dialogue(int64_t index) const;

  // The test, in a fixed order: each held-out fact once (for people known in Chinese once more in
  // Chinese), then the held-out sums.
  const std::vector<WorldQuestion>& held_out() const { return held_out_; }
  // Every wording in which a fact or sum of the test could be asked: for tests of leaks, and for
  // variety.
  std::vector<std::string> wordings(const WorldQuestion& question) const;

  // Whether `reply` gives the answer. A fact: the right value stands there, no other value of that
  // attribute does, and no other person is named; where the value is a person, the reply is about
  // the subject or is the bare name. A sum: the last number is the right one.
  bool is_right(const WorldQuestion& question, std::string_view reply) const;

  // Names for people to try: "Torvik", ….
  std::string person_name(int64_t person_idx, WorldLanguage language) const;
  int64_t num_people() const { return config_.num_people; }

 private:
  class Draws;
  struct Person {
    std::array<std::string, 2> name;  // by language
    std::array<std::string, 2> pet_name;
    std::vector<int64_t> value;  // by attribute: index into the words, or of a person
    std::vector<bool> held_out;  // by attribute
    bool in_chinese = false;
  };
  struct Fact {
    int64_t person = 0;
    int64_t attribute = 0;
  };

  void name_people();
  void deal_values();
  void hold_out_facts();
  void hold_out_sums();
  std::string subject(Fact fact, WorldLanguage language) const;
  std::string value(Fact fact, WorldLanguage language) const;
  std::string fill(std::string_view sentence, Fact fact, WorldLanguage language) const;
  std::string statement(Fact fact, WorldLanguage language, Draws& draws) const;
  WorldQuestion fact_question(Fact fact, WorldLanguage language, Draws& draws) const;
  WorldQuestion sum_question(int64_t a, int64_t b, WorldLanguage language, Draws& draws) const;
  std::string sum_answer(int64_t a, int64_t b, WorldLanguage language) const;
  std::pair<int64_t, int64_t> taught_pair(Draws& draws) const;
  bool pair_held_out(int64_t a, int64_t b) const;
  int64_t any_person(WorldLanguage language, Draws& draws) const;
  std::string unknown_name(WorldLanguage language, Draws& draws) const;
  std::vector<std::string> candidates(const WorldQuestion& question) const;

  WorldConfig config_;
  std::vector<Person> people_;
  std::vector<int64_t> chinese_people_;
  std::vector<std::array<std::string, 2>> strangers_;  // names that nobody has
  std::array<std::vector<Fact>, 2> taught_;            // by language
  std::vector<bool> held_out_pairs_;                   // [a * (max_addend + 1) + b], both orders
  std::vector<WorldQuestion> held_out_;
};

}  // namespace fathom
