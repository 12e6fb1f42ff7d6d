#include "data/text/prepare.h"

#include <algorithm>
#include <chrono>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/json.h"
#include "data/text/prepare_stages.h"

namespace fathom {
namespace {

constexpr const char* kPlanName = "plan.json";

// What tells a file from another of the same name, without reading all of it.
Json describe_file(FileSystem& files, const std::string& path) {
  constexpr int64_t kEdge = 1 << 16;
  const int64_t bytes = files.info(path).bytes;
  const std::string head = files.read_range(path, 0, std::min(bytes, kEdge));
  const std::string tail = files.read_range(path, std::max<int64_t>(bytes - kEdge, 0), kEdge);
  const uint64_t hash =
      XXH3_64bits_withSeed(tail.data(), tail.size(), XXH3_64bits(head.data(), head.size()));
  return {{"path", path}, {"bytes", bytes}, {"edges_xxh3_64", fmt::format("{:016x}", hash)}};
}

// Everything that the output depends on. A folder serves one plan.
std::string plan_text(const PrepareState& state) {
  Json inputs = Json::array(), evaluations = Json::array();
  for (const InputFile& input : state.inputs)
    inputs.push_back(describe_file(state.files, input.path));
  for (const std::string& path : state.job.evaluations)
    evaluations.push_back(describe_file(state.files, path));
  PrepareConfig config = state.config;
  const Json json{{"format_version", 1},
                  {"config", parse_json(config_to_json(fields_of(config)), "configuration")},
                  {"tokenizer_xxh3_128", tokenizer_hash(state.tokenizer)},
                  {"inputs", std::move(inputs)},
                  {"evaluations", std::move(evaluations)}};
  return json.dump(1) + "\n";
}

// Takes the folder for this plan, or goes on with it.
void take_folder(const PrepareState& state, const std::string& plan) {
  FileSystem& files = state.files;
  const std::string& out = state.job.out;
  const std::string path = join_path(out, kPlanName);
  files.make_directories(out);
  if (files.info(path).exists) {
    if (files.read_all(path) == plan) return;
    throw_bad_input({.where = out,
                     .found = "work on other inputs, or with another configuration or tokenizer "
                              "(plan.json)",
                     .expected = "the same, or a new or empty folder"});
  }
  for (const std::string& name : files.list(out)) {
    if (name == std::string(kPlanName) + ".tmp") continue;
    throw_bad_input({.where = out, .found = name, .expected = "a new or empty folder"});
  }
  write_file_atomically(files, path, plan);
}

// The first process takes the folder; the others must see it, and the same inputs.
void take_folder_together(const PrepareState& state) {
  const Team& team = state.job.team;
  const std::string plan = plan_text(state);
  if (team.is_first()) take_folder(state, plan);
  team.gather("taken");
  if (team.is_first()) return;
  const std::string path = join_path(state.job.out, kPlanName);
  const FileInfo info = state.files.info(path);
  if (info.exists && state.files.read_all(path) == plan) return;
  throw_bad_input({.where = path,
                   .found = info.exists ? fmt::format("process {} sees other inputs, or another "
                                                      "tokenizer, than process 0",
                                                      team.rank)
                                        : fmt::format("process {} does not see it", team.rank),
                   .expected = "one file system for all processes"});
}

Json times_to_json(const std::vector<WorkTime>& times) {
  Json rows = Json::array();
  for (const WorkTime& time : times) rows.push_back({time.name, time.bytes, time.seconds});
  return rows;
}

// Of all processes, by name, in the order of the work.
std::vector<WorkTime> add_up_times(const Team& team, const std::vector<WorkTime>& mine) {
  std::vector<WorkTime> times;
  for (const std::string& text : team.gather(times_to_json(mine).dump())) {
    for (const Json& row : parse_json(text, "another process")) {
      const auto name = row.at(0).get<std::string>();
      auto time = std::find_if(times.begin(), times.end(),
                               [&](const WorkTime& some) { return some.name == name; });
      if (time == times.end()) time = times.insert(times.end(), {.name = name});
      time->bytes += row.at(1).get<int64_t>();
      time->seconds += row.at(2).get<double>();
    }
  }
  return times;
}

std::map<std::string, double> read_weights(const std::string& text) {
  std::vector<std::string> known;
  for (const auto names : {language_names(), domain_names()}) {
    for (const std::string_view name : names) known.emplace_back(name);
  }
  std::map<std::string, double> weights;
  const Json json = parse_json(text.empty() ? "{}" : text, "weights");
  for (const auto& [label, weight] : json.items()) {
    if (std::find(known.begin(), known.end(), label) == known.end()) {
      const std::string near = nearest_name(label, known);
      throw_bad_input({.where = "weights",
                       .found = label,
                       .expected = "a label: a language (en, zh, …) or prose, code, maths",
                       .hint = near.empty() ? "" : "did you mean " + near + "?"});
    }
    if (!weight.is_number() || !(weight.get<double>() >= 0) || weight.get<double>() > 4095) {
      throw_bad_input({"weights", label, describe_json(weight), "a number from 0 to 4095", ""});
    }
    weights[label] = weight.get<double>();
  }
  return weights;
}

void finish(PrepareState& state, std::vector<ShardEntry> shards) {
  FileSystem& files = state.files;
  const std::string& out = state.job.out;
  state.result.account.check_balance();
  ShardManifest manifest{.vocab_size = state.tokenizer.vocab_size(),
                         .tokenizer_hash = tokenizer_hash(state.tokenizer),
                         .weights = read_weights(state.config.weights),
                         .shards = std::move(shards)};
  for (const std::string_view name : language_names()) manifest.languages.emplace_back(name);
  for (const std::string_view name : domain_names()) manifest.domains.emplace_back(name);
  for (const InputFile& input : state.inputs) manifest.inputs.push_back(input.path);
  state.result.num_shards = static_cast<int64_t>(manifest.shards.size());
  save_tokenizer(files, state.tokenizer, out);
  write_file_atomically(files, join_path(out, "account.json"),
                        account_to_json(state.result.account).dump(1) + "\n");
  write_file_atomically(files, join_path(out, "account.html"),
                        account_page(state.result.account, "Token shards"));
  // The marker: with it the folder is whole.
  write_file_atomically(files, join_path(out, kShardManifest), manifest_text(manifest));
}

}  // namespace

void visit_fields(PrepareConfig& c, ConfigFields& f) {
  f.field("text_field", c.text_field, "the field of a JSON line that holds the text");
  f.choice("bad_text", c.bad_text, {"repair", "reject"},
           "broken UTF-8 becomes U+FFFD and NUL bytes go, or the document does");
  f.choice("normalisation", c.normalisation, {"none", "nfc", "nfkc"},
           "Unicode normal form; DeepSeek's tokenizer has none");
  f.field("unify_line_ends", c.unify_line_ends, "CR LF and CR become LF");
  f.field("max_document_bytes", c.max_document_bytes, between(1, 1 << 30),
          "longer text files are cut behind a line, longer lines dropped");
  f.table("filters", c.filters, "what is hardly text");
  f.table("duplicates", c.duplicates, "what stands in the corpus before");
  f.field("contamination_units", c.contamination_units, between(2, 1000),
          "words in an n-gram that must not be shared with an evaluation set");
  f.json("weights", c.weights, "how often a label is to be seen an epoch: {code = 2, zh = 0.5}");
  f.field("shard_tokens", c.shard_tokens, at_least(1),
          "a shard ends with the document that fills it");
  f.field("segment_bytes", c.segment_bytes, between(1, 1 << 30),
          "of input that is worked on and resumed as one");
}

PrepareResult prepare_shards(ThreadPool& threads, FileSystem& files, const PrepareConfig& config,
                             const PrepareJob& job) {
  const auto begin = std::chrono::steady_clock::now();
  read_weights(config.weights);
  const Tokenizer tokenizer = Tokenizer::load(files, job.tokenizer_path);
  PrepareResult result;
  PrepareState state{.threads = threads,
                     .files = files,
                     .config = config,
                     .job = job,
                     .tokenizer = tokenizer,
                     .inputs = find_inputs(files, job.inputs),
                     .result = result};
  const Team& team = job.team;
  take_folder_together(state);
  const std::string work = join_path(job.out, "work");
  result.was_done =
      team.share(team.is_first() && is_shard_folder(files, job.out) ? "yes" : "no") == "yes";
  if (!result.was_done) {
    if (team.is_first()) files.make_directories(work);
    team.gather("made");
    const AllSegments segments = read_stage(state);
    const std::vector<Duplicate> duplicates = duplicate_stage(state, segments);
    std::vector<ShardEntry> shards = shard_stage(state, segments, duplicates);
    result.times = add_up_times(team, result.times);
    if (team.is_first()) finish(state, std::move(shards));
  } else if (team.is_first()) {
    const std::string path = join_path(job.out, "account.json");
    result.account = account_from_json(parse_json(files.read_all(path), path), path);
    const std::string manifest = join_path(job.out, kShardManifest);
    result.num_shards =
        static_cast<int64_t>(parse_manifest(files.read_all(manifest), manifest).shards.size());
  }
  if (team.is_first()) {
    result.account.check_balance();
    files.remove_all(work);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace fathom
