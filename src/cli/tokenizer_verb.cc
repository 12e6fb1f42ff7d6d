// `fathom tokenizer train|encode|decode|show`: byte-level BPE.
#include <fmt/ranges.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "cli/verbs.h"
#include "core/json.h"
#include "data/tokenizer/bpe_trainer.h"
#include "data/tokenizer/line_batches.h"
#include "data/tokenizer/tokenizer_lines.h"
#include "data/tokenizer/training_files.h"
#include "runtime/context.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string tokenizer, out;
  std::optional<std::string> text;
  std::vector<std::string> input;
  int64_t vocab_size = 4096, min_pair_count = 2, memory_mb = 4096, threads = 0;
  bool jsonl = false, special = false, skip_special = false, json = false;
};

Tokenizer load(const Options& options) {
  return Tokenizer::load(local_file_system(), options.tokenizer);
}

std::string text_or_standard_input(const Options& options) {
  if (options.text) return *options.text;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

// Standard input to standard output, line by line and in order, over the threads.
// answer(line, where, thread index).
template <typename Answer>
int answer_lines(ThreadPool& threads, Answer&& answer) {
  LineBatches input(STDIN_FILENO, "standard input");
  convert_lines(
      input, &threads,
      [&](std::string_view line, int64_t number, int thread_idx, std::string& out) {
        out += answer(line, fmt::format("standard input:{}", number), thread_idx);
      },
      [](std::string_view answers) {
        std::fwrite(answers.data(), 1, answers.size(), stdout);
        std::fflush(stdout);
      });
  return kExitDone;
}

int run_train(const Options& options) {
  Context ctx(static_cast<int>(options.threads));
  FileSystem& files = local_file_system();
  BpeTrainConfig config{.vocab_size = options.vocab_size, .min_pair_count = options.min_pair_count};
  config.counting = {options.memory_mb << 20, options.memory_mb << 20, &files,
                     join_path(options.out, "counting")};
  BpeTrainer trainer(config, &ctx.threads());
  const int64_t num_documents = add_files(files, options.input, trainer);
  const Tokenizer tokenizer = trainer.finish();
  const PieceCounter::Totals& totals = trainer.totals();
  save_tokenizer(files, tokenizer, options.out);
  if (options.json) {
    fmt::print("{}\n", Json{{"out", options.out},
                            {"bytes", totals.bytes},
                            {"documents", num_documents},
                            {"pieces", totals.pieces},
                            {"pieces_left_out", totals.pieces_left_out},
                            {"vocab_size", tokenizer.vocab_size()},
                            {"merges", tokenizer.definition().merges.size()}}
                           .dump());
  } else {
    fmt::print(
        "{}: {} tokens, {} merges, learnt from {} bytes ({} documents, {} distinct pieces)\n",
        options.out, tokenizer.vocab_size(), tokenizer.definition().merges.size(), totals.bytes,
        num_documents, totals.pieces);
  }
  if (totals.pieces_left_out > 0) {
    fmt::print(stderr,
               "{} distinct pieces that occur fewer than {} times were left out: they did not fit "
               "into {} MiB (--memory-mb)\n",
               totals.pieces_left_out, totals.min_count, options.memory_mb);
  }
  if (tokenizer.vocab_size() < options.vocab_size) {
    fmt::print(stderr, "the text has no more pairs that occur {} times: {} tokens instead of {}\n",
               options.min_pair_count, tokenizer.vocab_size(), options.vocab_size);
  }
  return kExitDone;
}

int run_encode(const Options& options) {
  const Tokenizer tokenizer = load(options);
  const EncodeOptions encoding{.allow_special = options.special};
  if (options.jsonl) {
    Context ctx(static_cast<int>(options.threads));
    std::vector<TextEncoder> encoders;  // by thread
    for (int i = 0; i < ctx.threads().num_threads(); ++i) encoders.emplace_back(tokenizer);
    return answer_lines(ctx.threads(), [&](std::string_view line, const std::string& where, int i) {
      return encode_json_line(encoders[static_cast<size_t>(i)], line, encoding, where);
    });
  }
  fmt::print("[{}]\n",
             fmt::join(tokenizer.encode(text_or_standard_input(options), encoding), ", "));
  return kExitDone;
}

int run_decode(const Options& options) {
  const Tokenizer tokenizer = load(options);
  const DecodeOptions decoding{.skip_special = options.skip_special};
  if (options.jsonl) {
    Context ctx(static_cast<int>(options.threads));
    return answer_lines(ctx.threads(), [&](std::string_view line, const std::string& where, int) {
      return decode_json_line(tokenizer, line, decoding, where);
    });
  }
  const std::string text = text_or_standard_input(options);
  const Json ids = parse_json(text, "ids");
  if (!ids.is_array())
    throw_bad_input({"ids", "", describe_json(ids), "a list, as [19923, 2058]", ""});
  for (const Json& id : ids) {
    if (!id.is_number_integer()) throw_bad_input({"ids", "", describe_json(id), "token ids", ""});
    if (id < 0 || id >= tokenizer.vocab_size()) {
      throw_bad_input(
          {"ids", "", describe_json(id), fmt::format("0 to {}", tokenizer.vocab_size() - 1), ""});
    }
  }
  const std::string decoded = tokenizer.decode(ids.get<std::vector<TokenId>>(), decoding);
  std::fwrite(decoded.data(), 1, decoded.size(), stdout);
  return kExitDone;
}

int show_text(const Tokenizer& tokenizer, const Options& options) {
  const std::vector<TokenId> ids =
      tokenizer.encode(*options.text, {.allow_special = options.special});
  Json tokens = Json::array();
  std::string boundaries;
  for (const TokenId id : ids) {
    const std::string visible = visible_token(tokenizer.token_bytes(id));
    tokens.push_back({{"id", id}, {"token", visible}});
    boundaries += (boundaries.empty() ? "" : "|") + visible;
  }
  if (options.json) {
    fmt::print("{}\n", Json{{"tokens", tokens}}.dump());
    return kExitDone;
  }
  fmt::print("{}\n", boundaries);
  for (const TokenId id : ids)
    fmt::print("{:>8}  {}\n", id, visible_token(tokenizer.token_bytes(id)));
  fmt::print("{} tokens, {} bytes\n", ids.size(), options.text->size());
  return kExitDone;
}

int run_show(const Options& options) {
  const Tokenizer tokenizer = load(options);
  if (options.text) return show_text(tokenizer, options);
  Json special = Json::object();
  for (const SpecialTokenName& token : special_token_names()) {
    const TokenId id = tokenizer.special().*token.field;
    if (id != kNoToken) special[std::string(token.name)] = id;
  }
  const TokenizerDefinition& definition = tokenizer.definition();
  if (options.json) {
    fmt::print("{}\n", Json{{"vocab_size", tokenizer.vocab_size()},
                            {"merges", definition.merges.size()},
                            {"added_tokens", definition.added.size()},
                            {"split_patterns", definition.split_patterns},
                            {"special", special}}
                           .dump());
    return kExitDone;
  }
  fmt::print("{} tokens: {} merges, {} added\n", tokenizer.vocab_size(), definition.merges.size(),
             definition.added.size());
  fmt::print("pieces: {}\n", definition.split_patterns == deepseek_split_patterns()
                                 ? "DeepSeek-V3's pattern"
                                 : "own pattern");
  for (const auto& [name, id] : special.items()) fmt::print("{:>8}  {}\n", id.get<TokenId>(), name);
  return kExitDone;
}

void add_tokenizer(CommandLine& line, Options& options) {
  line.add("--tokenizer", options.tokenizer, "tokenizer.json (also .gz), or a folder with one")
      .required();
}

template <typename Declare>
Verb make_verb(std::string name, std::string help, Declare declare, int (*run)(const Options&)) {
  auto options = std::make_shared<Options>();
  return {.name = std::move(name),
          .help = std::move(help),
          .declare = [options, declare](CommandLine& line) { declare(line, *options); },
          .run = [options, run] { return run(*options); }};
}

}  // namespace

Verb tokenizer_train_verb() {
  return make_verb(
      "tokenizer train", "learn a byte-level BPE vocabulary from text",
      [](CommandLine& line, Options& o) {
        line.add("--input", o.input,
                 "text files, or .jsonl with \"text\", also .gz and .zst; or folders of them")
            .required();
        line.add("--vocab-size", o.vocab_size, "tokens, special ones included").at_least(276);
        line.add("--out", o.out, "folder to write").required();
        line.add("--min-count", o.min_pair_count, "merge only pairs that occur as often")
            .at_least(1);
        line.add("--memory-mb", o.memory_mb,
                 "memory for counting, then for the distinct pieces; more is written out")
            .at_least(64);
        line.add_threads(o.threads);
        line.add_json(o.json);
      },
      run_train);
}

Verb tokenizer_encode_verb() {
  return make_verb(
      "tokenizer encode", "text to token ids",
      [](CommandLine& line, Options& o) {
        add_tokenizer(line, o);
        line.add("--text", o.text, "the text; without it standard input");
        line.add("--jsonl", o.jsonl,
                 "standard input holds lines {\"text\": …}; print lines {\"ids\": […]}");
        line.add("--special", o.special, "special tokens in the text become their ids");
        line.add_threads(o.threads);
      },
      run_encode);
}

Verb tokenizer_decode_verb() {
  return make_verb(
      "tokenizer decode", "token ids to text",
      [](CommandLine& line, Options& o) {
        add_tokenizer(line, o);
        line.add("--ids", o.text, "the ids as [1, 2]; without it standard input");
        line.add("--jsonl", o.jsonl,
                 "standard input holds lines {\"ids\": […]}; print lines {\"text\": …}");
        line.add("--skip-special", o.skip_special, "leave special tokens out");
        line.add_threads(o.threads);
      },
      run_decode);
}

Verb tokenizer_show_verb() {
  return make_verb(
      "tokenizer show", "what a vocabulary is, or where it cuts a text",
      [](CommandLine& line, Options& o) {
        add_tokenizer(line, o);
        line.add("--text", o.text, "show the tokens of this text");
        line.add("--special", o.special, "special tokens in the text become their ids");
        line.add_json(o.json);
      },
      run_show);
}

}  // namespace fathom::cli
