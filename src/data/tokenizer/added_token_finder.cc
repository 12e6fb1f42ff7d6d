#include "data/tokenizer/added_token_finder.h"

#include "data/tokenizer/nfc.h"

namespace fathom {

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& added, bool nfc) {
  std::string memory;
  for (const AddedToken& token : added) {
    if (!token.normalized) {
      raw_.insert(token.content, token.id);
    } else {
      normalized_.insert(nfc ? to_nfc(token.content, memory) : token.content, token.id);
    }
  }
}

void AddedTokenFinder::Trie::insert(std::string_view content, TokenId id) {
  int32_t node = 0;
  for (const char c : content) {
    int32_t& child = child_[pair_key(node, static_cast<uint8_t>(c))];
    if (child == 0) {
      child = static_cast<int32_t>(ends_here_.size());
      ends_here_.push_back(kNoToken);
    }
    node = child;
  }
  ends_here_[static_cast<size_t>(node)] = id;
  starts_[static_cast<uint8_t>(content[0])] = true;
}

AddedTokenFinder::Found AddedTokenFinder::Trie::longest_at(std::string_view text, size_t at) const {
  Found longest;
  if (!starts_[static_cast<uint8_t>(text[at])]) return longest;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const int32_t* child = child_.find(pair_key(node, static_cast<uint8_t>(text[i])));
    if (child == nullptr) break;
    node = *child;
    const TokenId id = ends_here_[static_cast<size_t>(node)];
    if (id != kNoToken) longest = {at, i + 1, id};
  }
  return longest;
}

std::vector<AddedTokenFinder::Found> AddedTokenFinder::find(const Trie& trie,
                                                            std::string_view text) {
  std::vector<Found> found;
  for (size_t at = 0; at < text.size();) {
    const Found here = trie.longest_at(text, at);
    if (here.id == kNoToken) {
      ++at;
    } else {
      found.push_back(here);
      at = here.end;
    }
  }
  return found;
}

}  // namespace fathom
