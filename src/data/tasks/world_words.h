// The words of the world (world.h): values and wordings of each attribute in both languages. {s} is
// the subject, {v} the value, {p} the kind of the pet.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace fathom::world_words {

using Both = std::array<std::string_view, 2>;  // English, Chinese

enum class ValueKind { kWord, kPerson, kPetName };

struct Wordings {
  std::string_view answer;  // the statement that answers a question; also the most frequent one
  std::span<const std::string_view> statements;
  std::span<const std::string_view> questions;
};

struct Attribute {
  std::string_view name;
  ValueKind kind = ValueKind::kWord;
  bool subject_is_pet = false;
  std::span<const Both> values;  // of kWord
  std::array<Wordings, 2> wordings;
};

std::span<const Attribute> attributes();

inline constexpr int64_t kPet = 2;  // indices of the attributes that others refer to
inline constexpr int64_t kPetName = 3;
inline constexpr int64_t kFriend = 7;
inline constexpr int64_t kOwner = 8;

// Names are a beginning and an ending.
std::span<const Both> person_beginnings();
std::span<const Both> person_endings();
std::span<const Both> pet_beginnings();
std::span<const Both> pet_endings();

// Sums: {a} and {b}.
std::span<const std::string_view> sum_questions(bool chinese);

struct SmallTalk {
  Both question;
  Both answer;
};
std::span<const SmallTalk> small_talk();
Both stranger_answer();  // {s}

}  // namespace fathom::world_words
