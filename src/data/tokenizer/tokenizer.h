// Byte-level BPE, equal to Hugging Face `tokenizers` on the files that DeepSeek publishes.
//
// A Tokenizer is immutable and cheap to copy (copies share one vocabulary); every method may be
// called from any number of threads. Text is bytes: invalid UTF-8 is encoded too and comes back
// byte for byte. Where the file has the normaliser NFC, what comes back is the text's form C.
//
// Added tokens (those of the `added_tokens` list, whether marked special or not) are recognised in
// text only when EncodeOptions::allow_special says so. That departs from `tokenizers`, which always
// turns them into their ids: here a user who types `<｜Assistant｜>` gets ordinary tokens, never
// the role tag.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace fathom {

using TokenId = int32_t;
inline constexpr TokenId kNoToken = -1;

struct AddedToken {
  TokenId id = kNoToken;
  std::string content;      // bytes as they stand in the text
  bool special = false;     // left out by DecodeOptions::skip_special
  bool normalized = false;  // `tokenizers` looks for these only between those that are not
};

// Two tokens that become a third. The position in the list is the rank: lower merges first.
struct BpeMerge {
  TokenId left = kNoToken;
  TokenId right = kNoToken;
  TokenId result = kNoToken;
};

// Everything that a tokenizer.json says, as data: what the reader and the trainer produce and what
// the writer prints.
struct TokenizerDefinition {
  std::vector<std::string> tokens;  // bytes of each id; for added tokens their content
  std::vector<BpeMerge> merges;     // by rank
  std::vector<AddedToken> added;    // by id
  std::vector<std::string>
      split_patterns;          // regular expressions, each run on the pieces of the last
  bool ignore_merges = false;  // a piece that is a token as a whole is not merged up to
  bool nfc = false;            // text is brought to Unicode's form C first (nfc.h)
};

// The three patterns that DeepSeek-V3 publishes (SPEC C.12).
const std::vector<std::string>& deepseek_split_patterns();

// The tokens with a meaning beyond text, by DeepSeek's exact names (SPEC C.13); kNoToken where the
// vocabulary has none of that name.
struct SpecialTokens {
  TokenId bos = kNoToken;
  TokenId eos = kNoToken;
  TokenId pad = kNoToken;
  TokenId think_begin = kNoToken;
  TokenId think_end = kNoToken;
  TokenId fim_hole = kNoToken;
  TokenId fim_begin = kNoToken;
  TokenId fim_end = kNoToken;
  TokenId user = kNoToken;
  TokenId assistant = kNoToken;
  TokenId eot = kNoToken;
  TokenId tool_calls_begin = kNoToken;
  TokenId tool_calls_end = kNoToken;
  TokenId tool_call_begin = kNoToken;
  TokenId tool_call_end = kNoToken;
  TokenId tool_outputs_begin = kNoToken;
  TokenId tool_outputs_end = kNoToken;
  TokenId tool_output_begin = kNoToken;
  TokenId tool_output_end = kNoToken;
  TokenId tool_sep = kNoToken;
};

struct SpecialTokenName {
  std::string_view name;
  TokenId SpecialTokens::*field;
  bool special;  // as DeepSeek marks it
};
// All of SpecialTokens, in the order of DeepSeek's ids.
std::span<const SpecialTokenName> special_token_names();

struct EncodeOptions {
  bool allow_special = false;  // added tokens written out in the text become their ids
};

struct DecodeOptions {
  bool skip_special = false;  // leave out the added tokens marked special
};

class Tokenizer {
 public:
  // Checks the definition (every merge's parts and result exist, all 256 bytes are tokens, no two
  // equal tokens, no merge makes an added token); an Error names `where` and the field.
  explicit Tokenizer(TokenizerDefinition definition, const std::string& where = "tokenizer");

  // A tokenizer.json, plain or .gz, or a folder that holds one.
  static Tokenizer load(FileSystem& files, const std::string& file_or_folder);
  static Tokenizer from_json(std::string_view json, const std::string& where);

  // Ids of all tokens, added ones included, are 0 … vocab_size() - 1.
  int64_t vocab_size() const;
  // The bytes that `id` stands for. Ids from outside are checked with is_valid first.
  std::string_view token_bytes(TokenId id) const;
  bool is_valid(TokenId id) const { return id >= 0 && id < vocab_size(); }
  bool is_added(TokenId id) const;
  bool is_special(TokenId id) const;
  // The id of the added token with this content, or kNoToken.
  TokenId added_token_id(std::string_view content) const;
  const SpecialTokens& special() const;
  const TokenizerDefinition& definition() const;

  // Appends to `ids`. Time is n log n in the length of the text, whatever stands in it. For many
  // texts text_encoder.h is faster.
  void encode(std::string_view text, const EncodeOptions& options, std::vector<TokenId>& ids) const;
  std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;

  // The bytes of all ids, exactly; they need not be valid UTF-8. An id outside the vocabulary is an
  // Error(kBadInput).
  std::string decode(std::span<const TokenId> ids, const DecodeOptions& options = {}) const;

  // The pieces that the pre-tokenizer cuts `text` into; together they are `text`, which is taken as
  // it stands (in form C, where the tokenizer normalises).
  std::vector<std::string_view> pieces(std::string_view text) const;

  struct Impl;  // tokenizer_impl.h

 private:
  friend class TextEncoder;
  friend class BatchEncoder;
  std::shared_ptr<const Impl> impl_;
};

// The bytes of every id, by id, for constrained decoding; empty for the added tokens, which text
// under a constraint must not hold.
std::vector<std::string> text_token_bytes(const Tokenizer& tokenizer);

// Turns ids into text for a reader: only whole UTF-8 characters come out. What can no longer become
// a character is replaced by U+FFFD, one for each maximal broken part, as Python, Rust and browsers
// do. The parts concatenated are utf8_with_replacement(decode(ids)), whatever the cuts.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(tokenizer), options_(options) {}
  // The text that this token completes; often empty in the middle of a character.
  std::string push(TokenId id);
  // The end: a character that never got its last bytes becomes U+FFFD.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  DecodeOptions options_;
  std::string pending_;  // at most 3 bytes: the beginning of a character
};

struct SaveTokenizerOptions {
  int64_t model_max_length = 131072;
};

// The text of a tokenizer.json that `tokenizers` loads to the same behaviour.
std::string tokenizer_json(const TokenizerDefinition& definition);
// Writes tokenizer.json and a tokenizer_config.json (special tokens and the V3 chat template) into
// `folder`, each atomically, so that transformers' AutoTokenizer loads the folder.
void save_tokenizer(FileSystem& files, const Tokenizer& tokenizer, const std::string& folder,
                    const SaveTokenizerOptions& options = {});

}  // namespace fathom
