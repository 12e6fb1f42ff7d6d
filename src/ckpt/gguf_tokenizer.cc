#include "ckpt/gguf_tokenizer.h"

#include <array>
#include <unordered_map>

#include "ckpt/gguf_checkpoint.h"
#include "core/error.h"
#include "data/tokenizer/byte_alphabet.h"

namespace fathom {
namespace {

// llama.cpp's token types.
constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;
// Of DeepSeek's role and control tags; llama.cpp's converter marks what looks like one.
constexpr std::string_view kTagBegin = "<｜", kTagEnd = "｜>";

constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct PreTokenizerName {
  const char* name;
  std::vector<std::string> patterns;
  bool ignore_merges;  // on reading; llama.cpp settles it by the name
  bool nfc;            // on reading, as the models of that name have it; llama.cpp never normalises
};
// The first name of a list of patterns is the one written.
const std::vector<PreTokenizerName>& pre_tokenizer_names() {
  static const std::vector<PreTokenizerName> names = {
      {"deepseek-v3", deepseek_split_patterns(), false, false},
      {"qwen2", {kQwen2Pattern}, false, true},
      {"deepseek-r1-qwen", {kQwen2Pattern}, false, false},
      {"llama-bpe", {kLlama3Pattern}, true, false},
  };
  return names;
}

std::string known_names() {
  std::string text;
  for (const PreTokenizerName& known : pre_tokenizer_names())
    text += (text.empty() ? "" : ", ") + std::string(known.name);
  return text;
}

class Keys {
 public:
  Keys(const GgufMetadata& metadata, const std::string& where)
      : metadata_(metadata), where_(where) {}
  const GgufValue* find(const std::string& key) const {
    const auto found = metadata_.find("tokenizer.ggml." + key);
    return found == metadata_.end() ? nullptr : &found->second;
  }
  std::string text(const std::string& key) const {
    const GgufValue* value = find(key);
    if (value == nullptr || value->type != GgufValueType::kString)
      refuse(key, value == nullptr ? "nothing" : "another type", "a string");
    return value->text;
  }
  const std::vector<std::string>& texts(const std::string& key) const {
    const GgufValue* value = find(key);
    if (value == nullptr || value->type != GgufValueType::kArray ||
        value->element_type != GgufValueType::kString)
      refuse(key, value == nullptr ? "nothing" : "another type", "an array of strings");
    return value->texts;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& found,
                           const std::string& expected) const {
    throw_bad_input({where_, "tokenizer.ggml." + key, found, expected, ""});
  }

 private:
  const GgufMetadata& metadata_;
  const std::string& where_;
};

// DeepSeek's own tags are special or not as DeepSeek marks them, whatever the file's type says.
bool is_special(const std::string& content, int64_t type) {
  for (const SpecialTokenName& known : special_token_names()) {
    if (known.name == content) return known.special;
  }
  return type != kUserDefined;
}

void read_merges(const Keys& keys, TokenizerDefinition& definition) {
  std::unordered_map<std::string_view, TokenId> id_of;
  for (size_t id = 0; id < definition.tokens.size(); ++id)
    id_of.emplace(definition.tokens[id], static_cast<TokenId>(id));
  for (const AddedToken& token : definition.added) id_of.erase(token.content);
  const std::vector<std::string>& merges = keys.texts("merges");
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string field = fmt::format("merges[{}]", i);
    const size_t space = merges[i].find(' ', 1);
    const auto left = alphabet_to_bytes(std::string_view(merges[i]).substr(0, space));
    const auto right = space == std::string::npos
                           ? std::optional<std::string>()
                           : alphabet_to_bytes(std::string_view(merges[i]).substr(space + 1));
    if (!left || !right)
      keys.refuse(field, "\"" + merges[i] + "\"", "two tokens with one space between");
    const auto id = [&](const std::string& bytes) {
      const auto found = id_of.find(bytes);
      if (found == id_of.end()) keys.refuse(field, "\"" + merges[i] + "\"", "tokens of the list");
      return found->second;
    };
    definition.merges.push_back({id(*left), id(*right), id(*left + *right)});
  }
}

GgufMetadata token_ids(const ModelConfig& config) {
  GgufMetadata m;
  m["tokenizer.ggml.bos_token_id"] = GgufValue::u32(config.bos_token_id);
  m["tokenizer.ggml.eos_token_id"] = GgufValue::u32(config.eos_token_id);
  if (!config.more_eos_token_ids.empty())
    m["tokenizer.ggml.eot_token_id"] = GgufValue::u32(config.more_eos_token_ids.back());
  return m;
}

}  // namespace

GgufMetadata gguf_without_tokenizer(const ModelConfig& config) {
  GgufMetadata metadata = token_ids(config);
  metadata["tokenizer.ggml.model"] = GgufValue::string("no_vocab");
  return metadata;
}

bool gguf_has_tokenizer(const GgufMetadata& metadata) {
  return metadata.contains("tokenizer.ggml.tokens");
}

GgufMetadata gguf_from_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config,
                                 const std::string& where) {
  const TokenizerDefinition& definition = tokenizer.definition();
  const char* pre = nullptr;
  for (const PreTokenizerName& known : pre_tokenizer_names()) {
    if (pre == nullptr && known.patterns == definition.split_patterns &&
        known.nfc == definition.nfc)
      pre = known.name;
  }
  if (pre == nullptr) {
    throw_bad_input({where, "pre_tokenizer",
                     "split patterns (or a normaliser with them) that llama.cpp has no name for",
                     "those of " + known_names(),
                     "a file with other patterns would cut text in silence otherwise than here"});
  }
  if (tokenizer.vocab_size() > config.vocab_size) {
    throw_bad_input({where, "vocab_size", fmt::format("{} tokens", tokenizer.vocab_size()),
                     fmt::format("at most {}, the rows of the embedding", config.vocab_size), ""});
  }
  std::vector<std::string> tokens, merges;
  std::vector<int64_t> types;
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes(tokenizer.token_bytes(id));
    if (!tokenizer.is_added(id)) {
      tokens.push_back(bytes_to_alphabet(bytes));
      types.push_back(kNormal);
      continue;
    }
    const bool tag = bytes.starts_with(kTagBegin) && bytes.ends_with(kTagEnd);
    tokens.push_back(bytes);
    types.push_back(tokenizer.is_special(id) || tag ? kControl : kUserDefined);
  }
  for (int64_t id = tokenizer.vocab_size(); id < config.vocab_size; ++id) {
    tokens.push_back(fmt::format("[PAD{}]", id));
    types.push_back(kUnused);
  }
  for (const BpeMerge& merge : definition.merges) {
    const auto text = [&](TokenId id) {
      return bytes_to_alphabet(definition.tokens[static_cast<size_t>(id)]);
    };
    merges.push_back(text(merge.left) + " " + text(merge.right));
  }
  GgufMetadata m = token_ids(config);
  const std::string prefix = "tokenizer.ggml.";
  m[prefix + "model"] = GgufValue::string("gpt2");
  m[prefix + "pre"] = GgufValue::string(pre);
  m[prefix + "tokens"] = GgufValue::strings(std::move(tokens));
  m[prefix + "token_type"] = GgufValue::i32s(std::move(types));
  m[prefix + "merges"] = GgufValue::strings(std::move(merges));
  if (tokenizer.special().pad != kNoToken)
    m[prefix + "padding_token_id"] = GgufValue::u32(tokenizer.special().pad);
  m[prefix + "add_bos_token"] = GgufValue::boolean(tokenizer.special().bos != kNoToken);
  m[prefix + "add_eos_token"] = GgufValue::boolean(false);
  return m;
}

Tokenizer gguf_to_tokenizer(const GgufMetadata& metadata, const std::string& where) {
  const Keys keys(metadata, where);
  if (!gguf_has_tokenizer(metadata))
    keys.refuse("tokens", "nothing", "a vocabulary: this file has none (give token ids instead)");
  if (keys.text("model") != "gpt2")
    keys.refuse("model", "\"" + keys.text("model") + "\"", "gpt2 (byte-level BPE)");
  TokenizerDefinition definition;
  const std::string pre = keys.text("pre");
  const PreTokenizerName* known = nullptr;
  for (const PreTokenizerName& name : pre_tokenizer_names()) {
    if (pre == name.name) known = &name;
  }
  if (known == nullptr) keys.refuse("pre", "\"" + pre + "\"", known_names());
  definition.split_patterns = known->patterns;
  definition.ignore_merges = known->ignore_merges;
  definition.nfc = known->nfc;

  const std::vector<std::string>& tokens = keys.texts("tokens");
  const GgufValue* types = keys.find("token_type");
  if (types == nullptr || types->integers.size() != tokens.size())
    keys.refuse("token_type", types == nullptr ? "nothing" : "another number",
                fmt::format("one for each of {} tokens", tokens.size()));
  size_t count = tokens.size();
  while (count > 0 && types->integers[count - 1] == kUnused) --count;
  for (size_t id = 0; id < count; ++id) {
    const int64_t type = types->integers[id];
    if (type != kNormal) {
      definition.tokens.push_back(tokens[id]);
      definition.added.push_back({.id = static_cast<TokenId>(id),
                                  .content = tokens[id],
                                  .special = is_special(tokens[id], type),
                                  .normalized = false});
      continue;
    }
    auto bytes = alphabet_to_bytes(tokens[id]);
    if (!bytes || bytes->empty()) {
      keys.refuse(fmt::format("tokens[{}]", id), "\"" + tokens[id] + "\"",
                  "a token in the byte alphabet");
    }
    definition.tokens.push_back(*std::move(bytes));
  }
  read_merges(keys, definition);
  return Tokenizer(std::move(definition), where);
}

Tokenizer load_tokenizer(FileSystem& files, const std::string& model) {
  if (!is_gguf_file(files, model)) return Tokenizer::load(files, model);
  const auto file = files.map(model);
  return gguf_to_tokenizer(parse_gguf(file->bytes(), model).metadata, model);
}

}  // namespace fathom
