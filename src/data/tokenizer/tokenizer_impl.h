// What a Tokenizer is inside; for tokenizer.cc and text_encoder.cc alone.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "data/tokenizer/added_token_finder.h"
#include "data/tokenizer/backtracking_bpe.h"
#include "data/tokenizer/bpe.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/whole_pieces.h"

namespace fathom {

// Found while a definition is checked.
struct CheckedDefinition {
  std::array<TokenId, 256> byte_tokens;
  std::vector<uint8_t> is_added;
  std::vector<uint8_t> is_special;
};

struct Tokenizer::Impl {
  Impl(TokenizerDefinition d, const std::string& where);

  struct Scratch {
    BpeScratch merging;
    BacktrackScratch backtracking;
  };
  // Appends the tokens of one piece.
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<TokenId>& ids) const {
    if (backtracking) {
      backtracking->encode(piece, scratch.backtracking, ids);
      return;
    }
    const TokenId whole = whole_pieces.find(piece);
    if (whole != kNoToken) {
      ids.push_back(whole);
    } else {
      merges.merge(piece, scratch.merging, ids);
    }
  }

  // on_text(part) for the ordinary text, normalised, and on_token(id) for the added tokens in it
  // that are wanted, in order.
  template <typename OnText, typename OnToken>
  void for_each_part(std::string_view text, const EncodeOptions& options, OnText&& on_text,
                     OnToken&& on_token) const {
    std::string memory;
    const auto normalised = [&](std::string_view part) {
      return definition.nfc ? to_nfc(part, memory) : part;
    };
    if (!options.allow_special) {
      on_text(normalised(text));
      return;
    }
    const auto walk = [&](std::string_view whole, const auto& found, auto&& on_gap) {
      size_t at = 0;
      for (const AddedTokenFinder::Found& token : found) {
        on_gap(whole.substr(at, token.begin - at));
        on_token(token.id);
        at = token.end;
      }
      on_gap(whole.substr(at));
    };
    walk(text, added.find_raw(text), [&](std::string_view gap) {
      const std::string_view part = normalised(gap);
      walk(part, added.find_normalized(part), on_text);
    });
  }

  TokenizerDefinition definition;
  CheckedDefinition checked;
  PreTokenizer pre_tokenizer;
  BpeMerges merges;
  WholePieces whole_pieces;
  std::optional<BacktrackingBpe> backtracking;  // where the vocabulary allows it
  AddedTokenFinder added;
  SpecialTokens special;
};

}  // namespace fathom
