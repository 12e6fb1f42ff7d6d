// Tokenizers on disk: tokenizer.json (plain or gzipped) in, a folder for transformers'
// AutoTokenizer out.
#include "core/error.h"
#include "core/json.h"
#include "data/compress/gzip.h"
#include "data/tokenizer/tokenizer.h"

namespace fathom {
namespace {

constexpr int64_t kMaxJsonBytes = int64_t{1} << 30;

// The V3 chat template for conversations of text, as SPEC C.13 prints it; whatever it would render
// wrongly (tools, unknown roles) it refuses. render_chat_text is the same in C++.
constexpr std::string_view kChatTemplate =
    "{%- set ns = namespace(system='', first=true) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set ns.system = ns.system + ('' if ns.first else '\\n\\n') + message['content'] -%}"
    "{%- set ns.first = false -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{ bos_token + ns.system }}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{ '<｜User｜>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' and not message.get('tool_calls') -%}"
    "{{ '<｜Assistant｜>' + message['content'] + eos_token }}"
    "{%- elif message['role'] != 'system' -%}"
    "{{ raise_exception('this chat template has no tools and no role ' + message['role']) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<｜Assistant｜>' }}{%- endif -%}";

std::string tokenizer_config_json(const Tokenizer& tokenizer, const SaveTokenizerOptions& options) {
  const SpecialTokens& special = tokenizer.special();
  Json config = Json::object();
  config["add_bos_token"] = false;
  config["add_eos_token"] = false;
  const auto put = [&](const char* key, TokenId id) {
    if (id != kNoToken) config[key] = std::string(tokenizer.token_bytes(id));
  };
  put("bos_token", special.bos);
  put("eos_token", special.eos);
  put("pad_token", special.pad != kNoToken ? special.pad : special.eos);
  config["clean_up_tokenization_spaces"] = false;
  config["model_max_length"] = options.model_max_length;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  // A template that needs tags the vocabulary lacks would encode them as text, silently.
  if (special.bos != kNoToken && special.eos != kNoToken && special.user != kNoToken &&
      special.assistant != kNoToken) {
    config["chat_template"] = kChatTemplate;
  }
  return config.dump(2) + "\n";
}

}  // namespace

Tokenizer Tokenizer::load(FileSystem& files, const std::string& file_or_folder) {
  std::string path = file_or_folder;
  if (files.info(path).is_directory) {
    path = join_path(file_or_folder, "tokenizer.json");
    if (!files.info(path).exists && files.info(path + ".gz").exists) path += ".gz";
  }
  std::string text = files.read_all(path);
  if (is_gzip(text)) text = gunzip(text, path, kMaxJsonBytes);
  return from_json(text, path);
}

void save_tokenizer(FileSystem& files, const Tokenizer& tokenizer, const std::string& folder,
                    const SaveTokenizerOptions& options) {
  files.make_directories(folder);
  write_file_atomically(files, join_path(folder, "tokenizer.json"),
                        tokenizer_json(tokenizer.definition()));
  write_file_atomically(files, join_path(folder, "tokenizer_config.json"),
                        tokenizer_config_json(tokenizer, options));
}

}  // namespace fathom
