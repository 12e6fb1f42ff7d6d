// `fathom data prepare|peek`: text to token shards, in one process or several under mpirun, and a
// look inside.
#include <cstdlib>
#include <memory>

#include "cli/live_panel.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "core/file.h"
#include "core/json.h"
#include "data/text/peek.h"
#include "data/text/prepare.h"
#include "runtime/context.h"

namespace fathom::cli {
namespace {

struct PrepareOptions {
  std::vector<std::string> input, evaluation, set;
  std::string tokenizer, out, config;
  int64_t threads = 0, memory_mb = 1024;
  bool strict = false, json = false, quiet = false, print_config = false;
};

ConfigOrigins read_config(const PrepareOptions& options, PrepareConfig& config) {
  ConfigFields fields = fields_of(config);
  ConfigOrigins origins;
  if (!options.config.empty())
    read_toml(local_file_system().read_all(options.config), options.config, fields, origins);
  read_environment(std::getenv, fields, origins);
  for (const std::string& assignment : options.set) {
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos)
      fail(ErrorKind::kUsage, "--set: found '{}', expected path=value", assignment);
    apply_override(assignment.substr(0, equals), assignment.substr(equals + 1), fields, origins);
  }
  return origins;
}

Json result_json(const PrepareOptions& options, const PrepareResult& result) {
  Json json = account_to_json(result.account);
  Json times = Json::object();
  for (const WorkTime& time : result.times)
    times[time.name] = {{"bytes", time.bytes}, {"seconds", time.seconds}};
  json["out"] = options.out;
  json["shards"] = result.num_shards;
  json["seconds"] = result.seconds;
  json["work"] = std::move(times);
  json["duplicate_search"] = {{"passes", result.duplicates.num_passes},
                              {"peak_bytes", result.duplicates.peak_bytes}};
  return json;
}

void print_times(const PrepareResult& result) {
  if (result.times.empty()) return;
  fmt::print(stderr, "\n{:<26} {:>10} {:>14}\n", "work (over all threads)", "seconds",
             "MB/s a thread");
  for (const WorkTime& time : result.times) {
    fmt::print(stderr, "  {:<24} {:>10.2f} {:>14.1f}\n", time.name, time.seconds,
               time.seconds > 0 ? static_cast<double>(time.bytes) / 1e6 / time.seconds : 0.0);
  }
  fmt::print(stderr, "  {:<24} {:>10.1f} MB at most, {} passes\n", "memory for duplicates",
             static_cast<double>(result.duplicates.peak_bytes) / 1e6, result.duplicates.num_passes);
}

int prepare(const PrepareOptions& options, const PrepareConfig& config, const Communicator* world) {
  Team team;
  if (world != nullptr) {
    team = {world->rank(), world->size(),
            [world](const std::string& mine) { return world->gather_text(mine); }};
  }
  Context ctx(threads_of_rank(world, options.threads));
  LivePanel panel(stderr);
  const bool is_quiet = options.quiet || !team.is_first();
  const PrepareResult result =
      prepare_shards(ctx.threads(), local_file_system(), config,
                     {.inputs = options.input,
                      .evaluations = options.evaluation,
                      .tokenizer_path = options.tokenizer,
                      .out = options.out,
                      .strict = options.strict,
                      .memory_bytes = options.memory_mb << 20,
                      .progress =
                          [&](const std::string& line) {
                            if (!is_quiet)
                              panel.update([&] { return std::vector<std::string>{line}; }, line);
                          },
                      .team = std::move(team)});
  if (!is_quiet) {
    panel.print(result.was_done ? options.out + " was done already" : options.out + " is done");
    print_times(result);
  }
  if (world != nullptr && world->rank() != 0) return kExitDone;
  if (options.json) {
    fmt::print("{}\n", result_json(options, result).dump());
  } else {
    fmt::print("{}", account_table(result.account));
  }
  return kExitDone;
}

int run_prepare(const PrepareOptions& options) {
  PrepareConfig config;
  const ConfigOrigins origins = read_config(options, config);
  if (options.print_config) {
    fmt::print("{}", print_config(fields_of(config), origins));
    return kExitDone;
  }
  for (const auto& [name, missing] : {std::pair{"--input", options.input.empty()},
                                      std::pair{"--tokenizer", options.tokenizer.empty()},
                                      std::pair{"--out", options.out.empty()}}) {
    if (missing) fail(ErrorKind::kUsage, "data prepare: {} is required", name);
  }
  // Who is done with his share waits for the others however long they take; one that dies or is
  // stopped is noticed all the same.
  ParallelConfig parallel;
  parallel.timeout_seconds = 30 * 24 * 3600;
  const std::string fingerprint =
      fmt::format("{} {} {} {} {}", FATHOM_VERSION, config_to_json(fields_of(config)),
                  fmt::join(options.input, "\n"), fmt::join(options.evaluation, "\n"), options.out);
  return run_on_ranks(parallel, fingerprint,
                      [&](const Communicator* world) { return prepare(options, config, world); });
}

struct PeekVerbOptions {
  std::string folder;
  PeekOptions peek;
  bool json = false, verify = false;
};

int run_peek(const PeekVerbOptions& options) {
  FileSystem& files = local_file_system();
  const ShardSet shards =
      ShardSet::open(files, options.folder,
                     options.verify ? ShardSet::Verify::kChecksums : ShardSet::Verify::kSizes);
  const Tokenizer tokenizer = Tokenizer::load(files, options.folder);
  if (options.json) {
    fmt::print("{}\n", peek_json(shards, tokenizer, options.peek).dump());
  } else {
    fmt::print("{}", peek_text(shards, tokenizer, options.peek, terminal_info(stdout).color));
  }
  return kExitDone;
}

}  // namespace

Verb data_prepare_verb() {
  auto options = std::make_shared<PrepareOptions>();
  return {.name = "data prepare",
          .help = "clean, deduplicate and tokenise text into shards",
          .declare =
              [options](CommandLine& line) {
                PrepareOptions& o = *options;
                line.add("--input", o.input,
                         "text or .jsonl files, plain, .gz or .zst, or folders of them");
                line.add("--tokenizer", o.tokenizer, "tokenizer.json (also .gz), or its folder");
                line.add("--out", o.out,
                         "folder to write; what a killed run left there is gone on with");
                line.add("--evaluation", o.evaluation,
                         "files whose content must not get into the shards; repeatable");
                line.add("--strict", o.strict, "end at the first thing wrong with the input");
                line.add("--memory-mb", o.memory_mb, "for the tables of the duplicate search")
                    .at_least(1);
                line.add("--config", o.config, "TOML file with the fields of --print-config");
                line.add("--set", o.set, "any field of --print-config, as path=value; repeatable");
                line.add("--print-config", o.print_config, "print all settings, and end");
                line.add_threads(o.threads);
                line.add_quiet(o.quiet);
                line.add_json(o.json);
                line.epilog(
                    "fathom data prepare --input corpus/ --tokenizer deepseek/ --out shards "
                    "--set duplicates.threshold=0.7\n"
                    "mpirun -n 8 fathom data prepare …  (on one file system: the same shards)");
              },
          .run = [options] { return run_prepare(*options); }};
}

Verb data_peek_verb() {
  auto options = std::make_shared<PeekVerbOptions>();
  return {.name = "data peek",
          .help = "what is in a folder of token shards",
          .declare =
              [options](CommandLine& line) {
                PeekVerbOptions& o = *options;
                line.add("shards", o.folder, "folder that `data prepare` wrote").required();
                line.add("--first", o.peek.first, "number of the first document shown").at_least(0);
                line.add("--documents", o.peek.num_documents, "documents shown").at_least(0);
                line.add("--tokens", o.peek.max_tokens, "tokens shown of each; 0: all").at_least(0);
                line.add("--label", o.peek.label,
                         "only documents of this language or kind: zh, code");
                line.add("--verify", o.verify, "read every byte and compare the checksums");
                line.add_json(o.json);
              },
          .run = [options] { return run_peek(*options); }};
}

}  // namespace fathom::cli
