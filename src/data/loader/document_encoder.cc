#include "data/loader/document_encoder.h"

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace fathom {
namespace {

TokenId required(TokenId id, std::string_view name, std::string_view why) {
  if (id == kNoToken) {
    throw_bad_input({.where = "tokenizer",
                     .found = fmt::format("no token {}", name),
                     .expected = std::string(why)});
  }
  return id;
}

// The byte offset of character `index` of valid or broken UTF-8, by counting bytes that begin one.
size_t character_offset(std::string_view text, uint64_t index) {
  uint64_t seen = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    if (begins && seen++ == index) return i;
  }
  return text.size();
}

// A stream of draws for each document; in it 2^32 draws for each of 2^12 copies in 2^20 epochs.
Random random_of(uint64_t seed, RandomPurpose purpose, const DocumentEncoder::Key& key) {
  return Random(seed, purpose, static_cast<uint64_t>(key.document));
}
uint64_t first_index(const DocumentEncoder::Key& key) {
  return key.epoch << 44 | static_cast<uint64_t>(key.copy) << 32;
}

}  // namespace

DocumentEncoder::DocumentEncoder(Tokenizer tokenizer, double fim_rate, double split_rate,
                                 bool add_bos, uint64_t seed)
    : tokenizer_(std::move(tokenizer)),
      fim_rate_(fim_rate),
      split_rate_(split_rate),
      add_bos_(add_bos),
      seed_(seed) {
  const SpecialTokens& special = tokenizer_.special();
  required(special.eos, "<｜end▁of▁sentence｜>", "the end of every document");
  if (add_bos)
    required(special.bos, "<｜begin▁of▁sentence｜>", "the begin of every document (add_bos)");
  if (fim_rate > 0) {
    const std::string why = "the three fill-in-the-middle tokens, or fim_rate = 0";
    required(special.fim_begin, "<｜fim▁begin｜>", why);
    required(special.fim_hole, "<｜fim▁hole｜>", why);
    required(special.fim_end, "<｜fim▁end｜>", why);
  }
  // The pre-tokenizer joins line breaks to letters never and to spaces without punctuation, so a
  // token with something else than white space before its trailing line breaks is punctuation.
  parts_.resize(static_cast<size_t>(tokenizer_.vocab_size()));
  for (TokenId id = 0; split_rate > 0 && id < tokenizer_.vocab_size(); ++id) {
    if (tokenizer_.is_added(id)) continue;
    const std::string_view bytes = tokenizer_.token_bytes(id);
    const size_t last = bytes.find_last_not_of("\r\n");
    if (last == std::string_view::npos || last + 1 == bytes.size()) continue;
    const std::string_view punctuation = bytes.substr(0, last + 1);
    if (punctuation.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos) continue;
    std::vector<TokenId>& parts = parts_[static_cast<size_t>(id)];
    tokenizer_.encode(punctuation, {}, parts);
    tokenizer_.encode(bytes.substr(last + 1), {}, parts);
  }
}

bool DocumentEncoder::fills_in_middle(const Key& key) const {
  return random_of(seed_, RandomPurpose::kFillInMiddle, key).uniform(first_index(key)) < fim_rate_;
}

void DocumentEncoder::encode(std::string_view text, std::span<const TokenId> plain,
                             bool may_fill_in_middle, const Key& key,
                             std::vector<TokenId>& out) const {
  const SpecialTokens& special = tokenizer_.special();
  const size_t begin = out.size();
  if (add_bos_) out.push_back(special.bos);
  if (may_fill_in_middle && fills_in_middle(key)) {
    const auto characters =
        static_cast<uint64_t>(std::count_if(text.begin(), text.end(), [](char c) {
          return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
        }));
    const Random random = random_of(seed_, RandomPurpose::kFillInMiddle, key);
    const uint64_t index = first_index(key);
    uint64_t first = random.below(index + 1, characters + 1),
             second = random.below(index + 2, characters + 1);
    if (first > second) std::swap(first, second);
    const size_t a = character_offset(text, first), b = character_offset(text, second);
    out.push_back(special.fim_begin);
    tokenizer_.encode(text.substr(0, a), {}, out);
    out.push_back(special.fim_hole);
    tokenizer_.encode(text.substr(b), {}, out);
    out.push_back(special.fim_end);
    tokenizer_.encode(text.substr(a, b - a), {}, out);
  } else {
    out.insert(out.end(), plain.begin(), plain.end());
  }
  out.push_back(special.eos);
  if (split_rate_ <= 0) return;

  const Random random = random_of(seed_, RandomPurpose::kSplitTokens, key);
  const uint64_t base = first_index(key);
  const size_t end = out.size();
  const auto chosen = [&](size_t i) {
    return splits(out[i]) && random.uniform(base + (i - begin)) < split_rate_;
  };
  size_t grown = 0;
  for (size_t i = begin; i < end; ++i)
    grown += chosen(i) ? parts_[static_cast<size_t>(out[i])].size() - 1 : 0;
  if (grown == 0) return;
  // From the back into the grown vector, in place: the write position never passes the read
  // position.
  out.resize(end + grown);
  size_t to = out.size();
  for (size_t i = end; i-- > begin;) {
    if (chosen(i)) {
      const std::vector<TokenId>& parts = parts_[static_cast<size_t>(out[i])];
      to -= parts.size();
      std::copy(parts.begin(), parts.end(), out.begin() + static_cast<std::ptrdiff_t>(to));
    } else {
      out[--to] = out[i];
    }
  }
}

}  // namespace fathom
