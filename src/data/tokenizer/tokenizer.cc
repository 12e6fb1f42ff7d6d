#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "core/error.h"
#include "data/tokenizer/text_encoder.h"
#include "data/tokenizer/tokenizer_impl.h"
#include "data/tokenizer/tokenizer_json.h"
#include "data/tokenizer/unicode.h"

namespace fathom {
namespace {

// Above this a text pays for a cache of its own (0.9 MiB to clear).
constexpr size_t kCachedBytes = 256 << 10;

CheckedDefinition check_definition(const TokenizerDefinition& definition,
                                   const std::string& where) {
  const auto num_tokens = static_cast<int64_t>(definition.tokens.size());
  const auto bad = [&](const std::string& field, const std::string& found,
                       const std::string& expected) {
    throw_bad_input({where, field, found, expected, ""});
  };
  if (num_tokens > INT32_MAX / 2) bad("tokens", fmt::format("{}", num_tokens), "fewer than 2^30");
  const auto valid = [&](TokenId id) { return id >= 0 && id < num_tokens; };
  CheckedDefinition checked;
  checked.is_added.resize(definition.tokens.size());
  checked.is_special.resize(definition.tokens.size());
  for (const AddedToken& token : definition.added) {
    const std::string field = fmt::format("added token \"{}\"", token.content);
    if (!valid(token.id) || definition.tokens[static_cast<size_t>(token.id)] != token.content) {
      bad(field, fmt::format("id {}", token.id), "the id of a token with this text");
    }
    if (token.content.empty()) bad("added tokens", "an empty one", "at least one character");
    if (!is_valid_utf8(token.content)) bad(field, "bytes that are not UTF-8", "UTF-8");
    if (checked.is_added[static_cast<size_t>(token.id)]++)
      bad(field, fmt::format("id {} twice", token.id), "once");
    checked.is_special[static_cast<size_t>(token.id)] = token.special;
  }
  checked.byte_tokens.fill(kNoToken);
  std::unordered_map<std::string_view, TokenId> id_of;
  for (TokenId id = 0; valid(id); ++id) {
    if (checked.is_added[static_cast<size_t>(id)]) continue;
    const std::string& bytes = definition.tokens[static_cast<size_t>(id)];
    if (bytes.empty()) bad(fmt::format("token {}", id), "no bytes", "at least one byte");
    const auto [other, is_new] = id_of.emplace(bytes, id);
    if (!is_new)
      bad(fmt::format("token {}", id), fmt::format("the same bytes as token {}", other->second),
          "tokens that differ");
    if (bytes.size() == 1) checked.byte_tokens[static_cast<uint8_t>(bytes[0])] = id;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (checked.byte_tokens[static_cast<size_t>(byte)] == kNoToken) {
      bad("vocabulary", fmt::format("no token for the byte 0x{:02X}", byte), "all 256 bytes");
    }
  }
  PairMap<int32_t> seen(static_cast<int64_t>(definition.merges.size()));
  for (size_t rank = 0; rank < definition.merges.size(); ++rank) {
    const BpeMerge& merge = definition.merges[rank];
    const std::string field = "merge " + std::to_string(rank);
    for (const TokenId id : {merge.left, merge.right, merge.result}) {
      if (!valid(id)) bad(field, fmt::format("id {}", id), "a token");
      if (checked.is_added[static_cast<size_t>(id)]) {
        bad(field,
            fmt::format("the added token \"{}\"", definition.tokens[static_cast<size_t>(id)]),
            "tokens of plain text");
      }
    }
    const std::string& left = definition.tokens[static_cast<size_t>(merge.left)];
    const std::string& right = definition.tokens[static_cast<size_t>(merge.right)];
    const std::string& result = definition.tokens[static_cast<size_t>(merge.result)];
    if (result.size() != left.size() + right.size() || !result.starts_with(left) ||
        !result.ends_with(right)) {
      bad(field,
          fmt::format("result {} that is not its parts {} and {} joined", merge.result, merge.left,
                      merge.right),
          "");
    }
    if (seen[pair_key(merge.left, merge.right)]++)
      bad(field, "the same pair as an earlier merge", "each pair once");
  }
  return checked;
}

}  // namespace

Tokenizer::Impl::Impl(TokenizerDefinition d, const std::string& where)
    : definition(std::move(d)),
      checked(check_definition(definition, where)),
      pre_tokenizer(definition.split_patterns, where),
      merges(definition.merges, checked.byte_tokens),
      whole_pieces(definition.tokens),
      added(definition.added, definition.nfc) {
  // A piece may be looked up as a whole where merging would lead to that token anyway (not every
  // token is what its own bytes merge to), or where the vocabulary says to ignore the merges.
  BpeScratch scratch;
  std::vector<TokenId> ids;
  std::vector<uint8_t> is_own_merge(definition.tokens.size());
  for (size_t id = 0; id < definition.tokens.size(); ++id) {
    if (checked.is_added[id]) continue;
    ids.clear();
    merges.merge(definition.tokens[id], scratch, ids);
    is_own_merge[id] = ids.size() == 1 && ids[0] == static_cast<TokenId>(id);
    if (is_own_merge[id] || definition.ignore_merges) whole_pieces.insert(static_cast<TokenId>(id));
  }
  if (!definition.ignore_merges) {
    backtracking = BacktrackingBpe::make(definition.tokens, definition.merges, checked.byte_tokens,
                                         is_own_merge);
  }
  for (const SpecialTokenName& token : special_token_names()) {
    for (const AddedToken& a : definition.added) {
      if (a.content == token.name) special.*token.field = a.id;
    }
  }
}

Tokenizer::Tokenizer(TokenizerDefinition definition, const std::string& where)
    : impl_(std::make_shared<const Impl>(std::move(definition), where)) {}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& where) {
  return Tokenizer(parse_tokenizer_json(json, where), where);
}

int64_t Tokenizer::vocab_size() const {
  return static_cast<int64_t>(impl_->definition.tokens.size());
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  FATHOM_CHECK(is_valid(id), "token id {} of a vocabulary of {}", id, vocab_size());
  return impl_->definition.tokens[static_cast<size_t>(id)];
}

bool Tokenizer::is_added(TokenId id) const {
  FATHOM_CHECK(is_valid(id), "token id {} of a vocabulary of {}", id, vocab_size());
  return impl_->checked.is_added[static_cast<size_t>(id)] != 0;
}

bool Tokenizer::is_special(TokenId id) const {
  FATHOM_CHECK(is_valid(id), "token id {} of a vocabulary of {}", id, vocab_size());
  return impl_->checked.is_special[static_cast<size_t>(id)] != 0;
}

TokenId Tokenizer::added_token_id(std::string_view content) const {
  for (const AddedToken& token : impl_->definition.added) {
    if (token.content == content) return token.id;
  }
  return kNoToken;
}

const SpecialTokens& Tokenizer::special() const { return impl_->special; }
const TokenizerDefinition& Tokenizer::definition() const { return impl_->definition; }

void Tokenizer::encode(std::string_view text, const EncodeOptions& options,
                       std::vector<TokenId>& ids) const {
  if (text.size() > kCachedBytes) {
    TextEncoder(*this).encode(text, options, ids);
    return;
  }
  Impl::Scratch scratch;
  std::vector<int64_t> ends;
  const auto encode_text = [&](std::string_view part) {
    impl_->pre_tokenizer.for_each_piece(
        part, ends, [&](std::string_view piece) { impl_->encode_piece(piece, scratch, ids); });
  };
  impl_->for_each_part(text, options, encode_text, [&](TokenId id) { ids.push_back(id); });
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<TokenId> ids;
  encode(text, options, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, const DecodeOptions& options) const {
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const TokenId id = ids[i];
    if (!is_valid(id)) {
      throw_bad_input({"token ids", fmt::format("position {}", i), fmt::format("{}", id),
                       fmt::format("0 to {}", vocab_size() - 1), ""});
    }
    if (options.skip_special && impl_->checked.is_special[static_cast<size_t>(id)]) continue;
    text += impl_->definition.tokens[static_cast<size_t>(id)];
  }
  return text;
}

std::vector<std::string_view> Tokenizer::pieces(std::string_view text) const {
  std::vector<int64_t> ends;
  std::vector<std::string_view> pieces;
  impl_->pre_tokenizer.for_each_piece(text, ends,
                                      [&](std::string_view piece) { pieces.push_back(piece); });
  return pieces;
}

std::vector<std::string> text_token_bytes(const Tokenizer& tokenizer) {
  std::vector<std::string> result(static_cast<size_t>(tokenizer.vocab_size()));
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_added(id)) result[static_cast<size_t>(id)] = tokenizer.token_bytes(id);
  }
  return result;
}

}  // namespace fathom
