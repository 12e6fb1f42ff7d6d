#include "data/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "data/tokenizer/byte_alphabet.h"
#include "data/tokenizer/tokenizer_json_sax.h"

namespace fathom {
namespace {

// GPT-2's pattern, which a ByteLevel pre-tokenizer with use_regex runs.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// One object of the file, with the path to it for messages.
class Field {
 public:
  Field(const Json& value, std::string path, const std::string& where)
      : value_(value), path_(std::move(path)), where_(where) {}

  const Json& json() const { return value_; }
  bool is_null() const { return value_.is_null(); }
  Field member(std::string_view key) const {
    static const Json null;
    expect(value_.is_object(), "an object");
    const auto found = value_.find(key);
    return {found == value_.end() ? null : *found,
            path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key), where_};
  }
  Field element(size_t i) const { return {value_[i], fmt::format("{}[{}]", path_, i), where_}; }
  size_t array_size() const {
    expect(value_.is_array(), "an array");
    return value_.size();
  }
  std::string string() const {
    expect(value_.is_string(), "a string");
    return value_.get<std::string>();
  }
  bool boolean(bool if_absent) const {
    if (is_null()) return if_absent;
    expect(value_.is_boolean(), "true or false");
    return value_.get<bool>();
  }
  int64_t integer() const {
    expect(value_.is_number_integer(), "an integer");
    return value_.get<int64_t>();
  }
  void only_keys(std::initializer_list<std::string_view> known) const {
    expect(value_.is_object(), "an object");
    for (const auto& [key, unused] : value_.items()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      const std::string near = nearest_name(key, known);
      throw_bad_input({where_, path_, "the unknown key \"" + key + "\"", "",
                       near.empty() ? "" : "did you mean " + near + "?"});
    }
  }
  void expect(bool holds, std::string_view expected) const {
    if (!holds)
      throw_bad_input({where_, path_.empty() ? "top level" : path_, describe_json(value_),
                       std::string(expected), ""});
  }
  [[noreturn]] void wrong(const std::string& found, const std::string& expected) const {
    throw_bad_input({where_, path_, found, expected, ""});
  }

 private:
  const Json& value_;
  std::string path_;
  const std::string& where_;
};

void check_outer_form(const Field& root) {
  root.only_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                  "post_processor", "decoder", "model"});
  root.member("truncation")
      .expect(root.member("truncation").is_null(), "null (Fathom never cuts silently)");
  root.member("padding").expect(root.member("padding").is_null(), "null");
  const std::string decoder = root.member("decoder").member("type").string();
  if (decoder != "ByteLevel")
    root.member("decoder").member("type").wrong("\"" + decoder + "\"", "ByteLevel");
  // A post-processor adds tokens around the text (bos), which here the caller does.
  const Field post = root.member("post_processor");
  if (!post.is_null()) {
    constexpr std::array<std::string_view, 3> kTolerated = {"ByteLevel", "TemplateProcessing",
                                                            "Sequence"};
    const std::string type = post.member("type").string();
    if (std::find(kTolerated.begin(), kTolerated.end(), type) == kTolerated.end()) {
      post.member("type").wrong("\"" + type + "\"", "ByteLevel or TemplateProcessing");
    }
  }
}

// Whether the normaliser is NFC; anything but that, nothing, and sequences of them is refused.
bool read_normalizer(const Field& normalizer) {
  if (normalizer.is_null()) return false;
  const std::string type = normalizer.member("type").string();
  if (type == "NFC") {
    normalizer.only_keys({"type"});
    return true;
  }
  if (type != "Sequence") normalizer.member("type").wrong("\"" + type + "\"", "NFC or Sequence");
  normalizer.only_keys({"type", "normalizers"});
  const Field stages = normalizer.member("normalizers");
  const size_t count = stages.array_size();
  bool nfc = false;
  for (size_t i = 0; i < count; ++i) nfc |= read_normalizer(stages.element(i));
  return nfc;
}

// Appends the patterns of one pre-tokenizer; returns whether it was the closing ByteLevel.
bool read_pre_tokenizer(const Field& stage, std::vector<std::string>& patterns) {
  const std::string type = stage.member("type").string();
  if (type == "Split") {
    stage.only_keys({"type", "pattern", "behavior", "invert"});
    const std::string behavior = stage.member("behavior").string();
    if (behavior != "Isolated") stage.member("behavior").wrong("\"" + behavior + "\"", "Isolated");
    stage.member("invert").expect(!stage.member("invert").boolean(false), "false");
    stage.member("pattern").only_keys({"Regex"});
    patterns.push_back(stage.member("pattern").member("Regex").string());
    return false;
  }
  if (type == "ByteLevel") {
    stage.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    stage.member("add_prefix_space")
        .expect(!stage.member("add_prefix_space").boolean(true), "false");
    if (stage.member("use_regex").boolean(true)) patterns.emplace_back(kByteLevelPattern);
    return true;
  }
  stage.member("type").wrong("\"" + type + "\"", "Split or ByteLevel");
}

std::vector<std::string> read_pre_tokenizers(const Field& root) {
  const Field pre = root.member("pre_tokenizer");
  std::vector<std::string> patterns;
  if (pre.member("type").string() != "Sequence") {
    if (!read_pre_tokenizer(pre, patterns))
      pre.wrong("no ByteLevel", "a Sequence that ends with ByteLevel");
    return patterns;
  }
  pre.only_keys({"type", "pretokenizers"});
  const Field stages = pre.member("pretokenizers");
  const size_t count = stages.array_size();
  for (size_t i = 0; i < count; ++i) {
    const bool closing = read_pre_tokenizer(stages.element(i), patterns);
    if (closing != (i + 1 == count))
      stages.element(i).wrong("ByteLevel not in the last place", "Split stages, then ByteLevel");
  }
  if (count == 0) stages.wrong("no stage", "Split stages, then ByteLevel");
  return patterns;
}

std::vector<AddedToken> read_added(const Field& root) {
  std::vector<AddedToken> added;
  const Field list = root.member("added_tokens");
  if (list.is_null()) return added;
  for (size_t i = 0; i < list.array_size(); ++i) {
    const Field entry = list.element(i);
    entry.only_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const std::string_view flag : {"single_word", "lstrip", "rstrip"}) {
      entry.member(flag).expect(!entry.member(flag).boolean(false), "false");
    }
    const int64_t id = entry.member("id").integer();
    if (id < 0 || id > INT32_MAX) entry.member("id").wrong(fmt::format("{}", id), "an id");
    const bool special = entry.member("special").boolean(false);
    added.push_back({static_cast<TokenId>(id), entry.member("content").string(), special,
                     entry.member("normalized").boolean(!special)});
    if (added.back().content.empty())
      entry.member("content").wrong("nothing", "at least one character");
  }
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return added;
}

class ModelReader {
 public:
  ModelReader(const TokenizerJson& json, const Field& model, TokenizerDefinition& out,
              const std::string& where)
      : json_(json), model_(model), out_(out), where_(where) {}

  void read() {
    model_.only_keys({"type", "dropout", "unk_token", "continuing_subword_prefix",
                      "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                      "merges"});
    const std::string type =
        model_.member("type").is_null() ? "BPE" : model_.member("type").string();
    if (type != "BPE") model_.member("type").wrong("\"" + type + "\"", "BPE");
    for (const std::string_view key :
         {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const Field field = model_.member(key);
      field.expect(field.is_null() || field.json() == "", "null");
    }
    model_.member("byte_fallback").expect(!model_.member("byte_fallback").boolean(false), "false");
    out_.ignore_merges = model_.member("ignore_merges").boolean(false);
    if (!json_.has_vocab)
      throw_bad_input({where_, "model.vocab", "nothing", "an object from token to id", ""});
    read_vocab();
    read_merges();
  }

 private:
  // Every id from 0 on is taken exactly once, by the vocabulary, by an added token, or by both with
  // the same text.
  void read_vocab() {
    const size_t most = json_.vocab.size() + out_.added.size();
    std::vector<const std::string*> text_of(most);
    const auto claim = [&](int64_t id, const std::string& text, const std::string& field) {
      if (id < 0 || id >= static_cast<int64_t>(most)) {
        throw_bad_input({where_, field, fmt::format("id {}", id),
                         "ids 0 to number of tokens - 1, without gaps", ""});
      }
      const std::string*& slot = text_of[static_cast<size_t>(id)];
      if (slot != nullptr && *slot != text) {
        throw_bad_input({where_, field,
                         fmt::format("id {} twice, for \"{}\" and for \"{}\"", id, *slot, text),
                         "ids given once", ""});
      }
      slot = &text;
    };
    std::unordered_map<std::string_view, TokenId> added_id;
    for (const AddedToken& token : out_.added) {
      if (!added_id.emplace(token.content, token.id).second) {
        throw_bad_input(
            {where_, "added_tokens", "\"" + token.content + "\" twice", "each token once", ""});
      }
      claim(token.id, token.content, "added_tokens");
    }
    for (const auto& [text, id] : json_.vocab) {
      const std::string field = "model.vocab[\"" + text + "\"]";
      if (const auto added = added_id.find(text); added != added_id.end() && added->second != id) {
        throw_bad_input({where_, field, fmt::format("id {}", id),
                         fmt::format("{}, as in added_tokens", added->second), ""});
      }
      claim(id, text, field);
      if (!id_of_.emplace(text, static_cast<TokenId>(id)).second)
        throw_bad_input({where_, field, "the key twice", "once", ""});
    }
    const size_t count =
        static_cast<size_t>(std::find(text_of.begin(), text_of.end(), nullptr) - text_of.begin());
    if (std::any_of(text_of.begin() + static_cast<int64_t>(count), text_of.end(),
                    [](auto* p) { return p != nullptr; })) {
      throw_bad_input({where_, "model.vocab", fmt::format("no token with id {}", count),
                       "ids without gaps", ""});
    }
    out_.tokens.resize(count);
    for (size_t id = 0; id < count; ++id) {
      const std::string& text = *text_of[id];
      if (added_id.contains(text)) {
        out_.tokens[id] = text;
        continue;
      }
      auto bytes = alphabet_to_bytes(text);
      if (!bytes || bytes->empty()) {
        throw_bad_input({where_, "model.vocab[\"" + text + "\"]",
                         "a token that is not written in the byte alphabet",
                         "a byte-level token (or an added one)", ""});
      }
      out_.tokens[id] = *std::move(bytes);
    }
  }

  void read_merges() {
    const Field merges = model_.member("merges");
    const size_t count = merges.array_size();
    out_.merges.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      const Json& merge = merges.json()[i];
      std::string_view left;
      std::string_view right;
      if (merge.is_string()) {
        const auto& text = merge.get_ref<const std::string&>();
        const size_t space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
          merges.element(i).wrong(describe_json(merge), "two tokens with one space between");
        }
        left = std::string_view(text).substr(0, space);
        right = std::string_view(text).substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0].get_ref<const std::string&>();
        right = merge[1].get_ref<const std::string&>();
      } else {
        merges.element(i).wrong(describe_json(merge), "\"a b\" or [\"a\", \"b\"]");
      }
      const std::string both = std::string(left) + std::string(right);
      out_.merges.push_back({id_of(left, i), id_of(right, i), id_of(both, i)});
    }
  }
  TokenId id_of(std::string_view text, size_t merge_idx) const {
    const auto found = id_of_.find(text);
    if (found == id_of_.end()) {
      throw_bad_input({where_, fmt::format("model.merges[{}]", merge_idx),
                       fmt::format("\"{}\"", text), "a token of model.vocab", ""});
    }
    return found->second;
  }

  const TokenizerJson& json_;
  const Field& model_;
  TokenizerDefinition& out_;
  const std::string& where_;
  std::unordered_map<std::string_view, TokenId> id_of_;
};

}  // namespace

TokenizerDefinition parse_tokenizer_json(std::string_view text, const std::string& where) {
  const TokenizerJson json = read_tokenizer_json(text, where);
  const Field root(json.root, "", where);
  check_outer_form(root);
  TokenizerDefinition definition;
  definition.nfc = read_normalizer(root.member("normalizer"));
  definition.split_patterns = read_pre_tokenizers(root);
  definition.added = read_added(root);
  const Field model = root.member("model");
  ModelReader(json, model, definition, where).read();
  return definition;
}

std::string tokenizer_json(const TokenizerDefinition& definition) {
  const auto num_tokens = static_cast<int64_t>(definition.tokens.size());
  std::vector<bool> is_added(definition.tokens.size(), false);
  for (const AddedToken& token : definition.added) is_added[static_cast<size_t>(token.id)] = true;
  // `tokenizers` numbers the added tokens that its vocabulary lacks behind the vocabulary; those
  // with lower ids stand in both.
  int64_t num_vocab = num_tokens;
  while (num_vocab > 0 && is_added[static_cast<size_t>(num_vocab - 1)]) --num_vocab;

  Json added = Json::array();
  for (const AddedToken& token : definition.added) {
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  }
  Json stages = Json::array();
  for (const std::string& pattern : definition.split_patterns) {
    stages.push_back({{"type", "Split"},
                      {"pattern", {{"Regex", pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}});
  }
  stages.push_back({{"type", "ByteLevel"},
                    {"add_prefix_space", false},
                    {"trim_offsets", true},
                    {"use_regex", false}});
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", true},
                           {"trim_offsets", false},
                           {"use_regex", true}};

  // Written by hand around the two long lists: an ordered JSON object of 10^5 keys fills in
  // quadratic time.
  const auto quoted = [](std::string_view s) { return Json(s).dump(); };
  std::string out =
      "{\n\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n\"added_tokens\": ";
  out += added.dump() + ",\n\"normalizer\": ";
  out += definition.nfc ? R"({"type": "NFC"})" : "null";
  out += ",\n\"pre_tokenizer\": ";
  out += Json({{"type", "Sequence"}, {"pretokenizers", stages}}).dump();
  out += ",\n\"post_processor\": " + byte_level.dump() + ",\n\"decoder\": " + byte_level.dump();
  out += fmt::format(
      ",\n\"model\": {{\n\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
      "\"continuing_subword_prefix\": null, "
      "\"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, "
      "\"ignore_merges\": {},\n\"vocab\": {{",
      definition.ignore_merges);
  const auto written = [&](TokenId id) {
    const std::string& bytes = definition.tokens[static_cast<size_t>(id)];
    return quoted(is_added[static_cast<size_t>(id)] ? bytes : bytes_to_alphabet(bytes));
  };
  for (TokenId id = 0; id < num_vocab; ++id)
    out += fmt::format("{}{}: {}", id == 0 ? "\n" : ",\n", written(id), id);
  out += "\n},\n\"merges\": [";
  for (size_t i = 0; i < definition.merges.size(); ++i) {
    const BpeMerge& merge = definition.merges[i];
    out +=
        fmt::format("{}[{}, {}]", i == 0 ? "\n" : ",\n", written(merge.left), written(merge.right));
  }
  out += "\n]\n}\n}\n";
  return out;
}

}  // namespace fathom
