#include "data/tokenizer/text_encoder.h"

#include <algorithm>

#include "data/tokenizer/deepseek_scanner.h"
#include "data/tokenizer/huge_page_allocator.h"
#include "data/tokenizer/piece_cache.h"
#include "data/tokenizer/tokenizer_impl.h"

namespace fathom {
namespace {

// Parts that long texts are shared out in: large beside what handing out costs, small beside what
// a thread should wait for at the end.
constexpr int64_t kPartBytes = 64 << 10;
constexpr size_t kLongText = 64 << 10;
constexpr size_t kKnownPairs = 8 << 10;

// The ids of `piece` from `cache`, merged and put there if they are not in it.
template <typename Cache>
void encode_cached(const Tokenizer::Impl& impl, std::string_view piece, size_t readable,
                   Cache& cache, Tokenizer::Impl::Scratch& scratch, std::vector<TokenId>& ids) {
  const typename Cache::Key key(piece, readable);
  auto& slot = cache.slot_of(key);
  if (slot.key == key) {
    if (slot.num_ids == 1) {
      ids.push_back(slot.ids[0]);
    } else {
      ids.insert(ids.end(), slot.ids, slot.ids + slot.num_ids);
    }
    return;
  }
  const size_t before = ids.size();
  impl.encode_piece(piece, scratch, ids);
  Cache::fill(slot, key, ids.data() + before, ids.size() - before);
}

}  // namespace

struct TextEncoder::Memory {
  Memory() { scratch.backtracking.known_pairs.resize(kKnownPairs); }

  Tokenizer::Impl::Scratch scratch;
  std::vector<int64_t> ends;
  ShortPieceCache short_pieces;
  LongPieceCache long_pieces;

  void encode_text(const Tokenizer::Impl& impl, std::string_view text, std::vector<TokenId>& ids) {
    const char* text_end = text.data() + text.size();
    impl.pre_tokenizer.for_each_piece(text, ends, [&](std::string_view piece) {
      const auto readable = static_cast<size_t>(text_end - piece.data());
      if (piece.size() <= ShortPieceCache::Key::kMaxBytes) {
        encode_cached(impl, piece, readable, short_pieces, scratch, ids);
      } else if (piece.size() <= LongPieceCache::Key::kMaxBytes) {
        encode_cached(impl, piece, readable, long_pieces, scratch, ids);
      } else {
        impl.encode_piece(piece, scratch, ids);
      }
    });
  }
};

TextEncoder::TextEncoder(Tokenizer tokenizer)
    : tokenizer_(std::move(tokenizer)), memory_(std::make_unique<Memory>()) {}
TextEncoder::~TextEncoder() = default;
TextEncoder::TextEncoder(TextEncoder&&) noexcept = default;

void TextEncoder::encode(std::string_view text, const EncodeOptions& options,
                         std::vector<TokenId>& ids) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  // Growing a list of megabytes costs more than the room, of which only what is used becomes pages:
  // large ones, for a long text spends a tenth of its time on the faults of small ones.
  if (text.size() >= kLongText && ids.capacity() < ids.size() + text.size()) {
    ids.reserve(ids.size() + text.size());
    wish_huge_pages(ids.data() + ids.size(), text.size() * sizeof(TokenId));
  }
  impl.for_each_part(
      text, options, [&](std::string_view part) { memory_->encode_text(impl, part, ids); },
      [&](TokenId id) { ids.push_back(id); });
}

BatchEncoder::BatchEncoder(Tokenizer tokenizer, ThreadPool* threads)
    : tokenizer_(std::move(tokenizer)), threads_(threads) {
  const int count = threads == nullptr ? 1 : threads->num_threads();
  for (int i = 0; i < count; ++i) encoders_.emplace_back(tokenizer_);
  buffers_.resize(encoders_.size());
}

std::vector<std::vector<TokenId>> BatchEncoder::encode(std::span<const std::string_view> texts,
                                                       const EncodeOptions& options) {
  std::vector<std::vector<TokenId>> ids(texts.size());
  // By way of memory that each thread keeps, so that a result is allocated once and in its size.
  const auto encode_into = [&](std::string_view text, size_t thread_idx,
                               std::vector<TokenId>& result) {
    std::vector<TokenId>& buffer = buffers_[thread_idx];
    buffer.clear();
    encoders_[thread_idx].encode(text, options, buffer);
    result.assign(buffer.begin(), buffer.end());
  };
  if (threads_ == nullptr || threads_->num_threads() == 1) {
    for (size_t i = 0; i < texts.size(); ++i) encode_into(texts[i], 0, ids[i]);
    return ids;
  }
  struct Part {
    size_t text;
    std::string_view bytes;
    bool is_whole;
    std::vector<TokenId> ids;
  };
  // A cut may not fall into an added token written out in the text, nor between letters that
  // normalisation composes.
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  const bool may_cut =
      impl.pre_tokenizer.uses_scanner() && !options.allow_special && !impl.definition.nfc;
  std::vector<Part> parts;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string_view rest = texts[i];
    bool is_whole = true;
    while (may_cut && static_cast<int64_t>(rest.size()) > 2 * kPartBytes) {
      const int64_t cut = next_safe_cut(rest, kPartBytes);
      if (cut < 0) break;
      parts.push_back({i, rest.substr(0, static_cast<size_t>(cut)), false, {}});
      rest.remove_prefix(static_cast<size_t>(cut));
      is_whole = false;
    }
    parts.push_back({i, rest, is_whole, {}});
  }
  // Small texts are handed out several at a time.
  std::vector<size_t> groups = {0};
  int64_t bytes = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    bytes += static_cast<int64_t>(parts[p].bytes.size()) + 64;
    if (bytes >= kPartBytes / 4 || p + 1 == parts.size()) {
      groups.push_back(p + 1);
      bytes = 0;
    }
  }
  threads_->parallel_for(static_cast<int64_t>(groups.size()) - 1, [&](int64_t g, int thread_idx) {
    const auto group = static_cast<size_t>(g);
    for (size_t p = groups[group]; p < groups[group + 1]; ++p) {
      Part& part = parts[p];
      encode_into(part.bytes, static_cast<size_t>(thread_idx),
                  part.is_whole ? ids[part.text] : part.ids);
    }
  });
  for (Part& part : parts) {
    if (!part.is_whole)
      ids[part.text].insert(ids[part.text].end(), part.ids.begin(), part.ids.end());
  }
  return ids;
}

std::vector<std::vector<TokenId>> encode_batch(const Tokenizer& tokenizer,
                                               std::span<const std::string_view> texts,
                                               const EncodeOptions& options, ThreadPool* threads) {
  return BatchEncoder(tokenizer, threads).encode(texts, options);
}

}  // namespace fathom
