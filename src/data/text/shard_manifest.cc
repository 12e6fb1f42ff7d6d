// manifest.json of a shard folder: reading (strictly) and writing.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/json.h"
#include "data/text/shards.h"

namespace fathom {
namespace {

constexpr const char* kFormat = "fathom-token-shards";
constexpr int64_t kVersion = 1;

[[noreturn]] void wrong(const std::string& where, const std::string& field, std::string found,
                        std::string expected) {
  throw_bad_input({where, field, std::move(found), std::move(expected), ""});
}

const Json& member(const Json& object, const char* name, const std::string& where) {
  if (!object.is_object()) wrong(where, name, describe_json(object), "an object with it");
  const auto found = object.find(name);
  if (found == object.end()) wrong(where, name, "no such key", "one");
  return *found;
}

int64_t count(const Json& object, const char* name, const std::string& where) {
  const Json& value = member(object, name, where);
  // Far below what overflows when sizes are multiplied.
  constexpr int64_t kLargest = int64_t{1} << 46;
  if (!value.is_number_integer() || value < 0 || value > kLargest)
    wrong(where, name, describe_json(value), "a count");
  return value.get<int64_t>();
}

std::string text(const Json& object, const char* name, const std::string& where) {
  const Json& value = member(object, name, where);
  if (!value.is_string()) wrong(where, name, describe_json(value), "a string");
  return value.get<std::string>();
}

std::string hash(const Json& object, const char* name, const std::string& where) {
  std::string value = text(object, name, where);
  if (value.size() != 32 || value.find_first_not_of("0123456789abcdef") != std::string::npos)
    wrong(where, name, "\"" + value + "\"", "32 hexadecimal digits");
  return value;
}

std::vector<std::string> names(const Json& object, const char* name, const std::string& where) {
  const Json& value = member(object, name, where);
  if (!value.is_array()) wrong(where, name, describe_json(value), "a list of strings");
  std::vector<std::string> all;
  for (const Json& one : value) {
    if (!one.is_string()) wrong(where, name, describe_json(one), "a list of strings");
    all.push_back(one.get<std::string>());
  }
  return all;
}

}  // namespace

Json shard_entry_to_json(const ShardEntry& entry) {
  return {{"name", entry.name},
          {"documents", entry.num_documents},
          {"tokens", entry.num_tokens},
          {"text_bytes", entry.text_bytes},
          {"tokens_xxh3_128", entry.tokens_hash},
          {"documents_xxh3_128", entry.documents_hash}};
}

ShardEntry shard_entry_from_json(const Json& json, const std::string& where) {
  ShardEntry entry{.name = text(json, "name", where),
                   .num_documents = count(json, "documents", where),
                   .num_tokens = count(json, "tokens", where),
                   .text_bytes = count(json, "text_bytes", where),
                   .tokens_hash = hash(json, "tokens_xxh3_128", where),
                   .documents_hash = hash(json, "documents_xxh3_128", where)};
  if (entry.name.empty() || entry.name.find('/') != std::string::npos || entry.name[0] == '.')
    wrong(where, "name", "\"" + entry.name + "\"", "a file name");
  return entry;
}

std::string manifest_text(const ShardManifest& manifest) {
  Json shards = Json::array(), weights = Json::object();
  for (const ShardEntry& shard : manifest.shards) shards.push_back(shard_entry_to_json(shard));
  for (const auto& [label, weight] : manifest.weights) weights[label] = weight;
  const Json json{{"format", kFormat},
                  {"format_version", kVersion},
                  {"vocab_size", manifest.vocab_size},
                  {"tokenizer_xxh3_128", manifest.tokenizer_hash},
                  {"documents", manifest.num_documents()},
                  {"tokens", manifest.num_tokens()},
                  {"languages", manifest.languages},
                  {"domains", manifest.domains},
                  {"inputs", manifest.inputs},
                  {"weights", std::move(weights)},
                  {"shards", std::move(shards)}};
  return json.dump(1) + "\n";
}

ShardManifest parse_manifest(std::string_view contents, const std::string& where) {
  const Json json = parse_json(contents, where);
  if (text(json, "format", where) != kFormat)
    wrong(where, "format", describe_json(json["format"]), fmt::format("\"{}\"", kFormat));
  if (count(json, "format_version", where) != kVersion)
    wrong(where, "format_version", describe_json(json["format_version"]), std::to_string(kVersion));
  ShardManifest manifest{.vocab_size = count(json, "vocab_size", where),
                         .tokenizer_hash = hash(json, "tokenizer_xxh3_128", where),
                         .languages = names(json, "languages", where),
                         .domains = names(json, "domains", where),
                         .inputs = names(json, "inputs", where)};
  if (manifest.vocab_size > std::numeric_limits<TokenId>::max())
    wrong(where, "vocab_size", std::to_string(manifest.vocab_size), "what fits 32 bits");
  const Json& weights = member(json, "weights", where);
  if (!weights.is_object()) wrong(where, "weights", describe_json(weights), "an object");
  for (const auto& [label, weight] : weights.items()) {
    if (!weight.is_number() || !(weight.get<double>() >= 0) || weight.get<double>() > 4095)
      wrong(where, "weights." + label, describe_json(weight), "a number from 0 to 4095");
    manifest.weights[label] = weight.get<double>();
  }
  const Json& shards = member(json, "shards", where);
  if (!shards.is_array()) wrong(where, "shards", describe_json(shards), "a list");
  for (const Json& shard : shards) manifest.shards.push_back(shard_entry_from_json(shard, where));
  if (count(json, "documents", where) != manifest.num_documents())
    wrong(where, "documents", describe_json(json["documents"]),
          fmt::format("{}, the sum over the shards", manifest.num_documents()));
  if (count(json, "tokens", where) != manifest.num_tokens())
    wrong(where, "tokens", describe_json(json["tokens"]),
          fmt::format("{}, the sum over the shards", manifest.num_tokens()));
  return manifest;
}

}  // namespace fathom
