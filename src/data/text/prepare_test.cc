#include "data/text/prepare.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/faulty_file.h"
#include "core/json.h"
#include "data/loader/loader.h"
#include "data/text/labels.h"
#include "data/text/shards.h"
#include "data/text/text_test_util.h"

namespace fathom {
namespace {

class PrepareTest : public ::testing::Test {
 protected:
  void SetUp() override {
    save_tokenizer(local_file_system(), text_tokenizer(), folder_ / "tokenizer");
    local_file_system().make_directories(folder_ / "in");
  }
  PrepareJob job(const std::string& out, std::vector<std::string> inputs = {}) {
    if (inputs.empty()) inputs = {folder_ / "in"};
    return {
        .inputs = std::move(inputs), .tokenizer_path = folder_ / "tokenizer", .out = folder_ / out};
  }
  PrepareResult run(const PrepareConfig& config, const PrepareJob& job, int threads = 2,
                    FileSystem& files = local_file_system()) {
    ThreadPool pool(threads);
    return prepare_shards(pool, files, config, job);
  }
  ShardSet open(const std::string& out) {
    return ShardSet::open(local_file_system(), folder_ / out, ShardSet::Verify::kChecksums);
  }
  std::vector<std::string> texts(const ShardSet& set) {
    std::vector<std::string> all;
    for (int64_t i = 0; i < set.num_documents(); ++i)
      all.push_back(text_tokenizer().decode(set.document(i).tokens));
    return all;
  }
  std::map<std::string, std::string> contents(const std::string& out) {
    std::map<std::string, std::string> all;
    for (const std::string& name : local_file_system().list(folder_ / out))
      all[name] = local_file_system().read_all(folder_ / out + "/" + name);
    return all;
  }
  // A corpus with everything in it.
  void write_corpus() {
    std::string lines, others;
    for (uint64_t i = 0; i < 60; ++i) {
      lines += json_text(invented_text(i, 40));
      others += json_text(
          i % 3 == 0 ? "All that the sea is for the people of the town, " + invented_text(i, 3)
          : i % 3 == 1 ? "人人生而自由，在尊严和权利上一律平等。" + std::to_string(i)
                       : invented_text(i, 40));  // exact copies
    }
    folder_.write("in/a.jsonl", lines);
    folder_.write("in/b.jsonl.zst", pack_zstd(others + "{\"broken\n"));
    folder_.write("in/c.txt", "int main() {\n  return f(x[0]);\n}\nvoid f() {\n  g();\n}\n");
    folder_.write("in/d.jsonl.gz", pack_gzip(lines.substr(0, 4000)));
  }
  PrepareConfig small_pieces() {
    PrepareConfig config;
    config.segment_bytes = 3000;
    config.shard_tokens = 700;
    return config;
  }

  TextFolder folder_{"prepare"};
};

TEST_F(PrepareTest, TextBecomesShardsAndTheAccountSaysSo) {
  write_corpus();
  const PrepareResult result = run(small_pieces(), job("out"));
  const Account& account = result.account;
  account.check_balance();
  EXPECT_EQ(account.in.documents, 60 + 60 + 1 + 1 +
                                      account.dropped.at("exact_duplicate").documents - 20 +
                                      (account.dropped.at("bad_json").documents - 1));
  EXPECT_EQ(account.dropped.at("bad_json").documents, 2);  // one line each of b and d
  EXPECT_EQ(account.dropped.at("bad_json").bytes >= 8, true);
  EXPECT_EQ(account.problems.at("bad_json"), 2);
  EXPECT_NE(account.examples[0].find("b.jsonl.zst:61"), std::string::npos);
  EXPECT_GT(result.num_shards, 3);

  // What is in the shards: counted again, and equal to the tokenizer's own view of the texts.
  const ShardSet set = open("out");
  EXPECT_EQ(set.num_documents(), account.out.documents);
  EXPECT_EQ(set.num_tokens(), account.tokens);
  std::map<std::string, Share> languages, domains;
  std::set<std::string> seen;
  int64_t bytes = 0;
  for (int64_t i = 0; i < set.num_documents(); ++i) {
    const ShardDocument document = set.document(i);
    const std::string text = text_tokenizer().decode(document.tokens);
    EXPECT_EQ(text_tokenizer().encode(text),
              std::vector<TokenId>(document.tokens.begin(), document.tokens.end()));
    EXPECT_EQ(static_cast<int64_t>(text.size()), document.record.text_bytes);
    EXPECT_TRUE(seen.insert(text).second) << "twice: " << text;
    TextFacts facts;
    find_facts(text, facts);
    const Label label = label_text(text, facts);
    EXPECT_EQ(label, document.record.label);
    for (auto [shares, name] : {std::pair{&languages, language_names()[label.language]},
                                std::pair{&domains, domain_names()[label.domain]}}) {
      (*shares)[std::string(name)].text.add(document.record.text_bytes);
      (*shares)[std::string(name)].tokens += static_cast<int64_t>(document.tokens.size());
    }
    bytes += document.record.text_bytes;
  }
  EXPECT_EQ(languages, account.languages);
  EXPECT_EQ(domains, account.domains);
  EXPECT_EQ(bytes, account.out.bytes);
  EXPECT_EQ(languages.count("zh") + languages.count("en") + domains.count("code"), 3u);

  EXPECT_FALSE(local_file_system().info(folder_ / "out/work").exists);
  const Json json = parse_json(local_file_system().read_all(folder_ / "out/account.json"), "a");
  EXPECT_EQ(account_from_json(json, "a"), account);
  const std::string page = local_file_system().read_all(folder_ / "out/account.html");
  EXPECT_NE(page.find("<svg"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);  // nothing from outside
  EXPECT_NE(account_table(account).find("exact_duplicate"), std::string::npos);
  // Asked again, it says the same and reads nothing.
  const PrepareResult again = run(small_pieces(), job("out"));
  EXPECT_TRUE(again.was_done);
  EXPECT_EQ(again.account, account);
}

TEST_F(PrepareTest, AnAccountThatDoesNotBalanceIsABug) {
  write_corpus();
  const Account good = run(small_pieces(), job("out")).account;
  for (int i = 0; i < 6; ++i) {
    Account bad = good;
    if (i == 0) ++bad.in.documents;
    if (i == 1) ++bad.out.bytes;
    if (i == 2) --bad.dropped["bad_json"].documents;
    if (i == 3) ++bad.bytes_cleaned;
    if (i == 4) ++bad.languages["en"].tokens;
    if (i == 5) ++bad.lengths[3];
    EXPECT_THROW(bad.check_balance(), CheckFailure) << i;
  }
}

TEST_F(PrepareTest, ThreadsAndMemoryDoNotChangeABit) {
  write_corpus();
  run(small_pieces(), job("one"), 1);
  const auto expected = contents("one");
  EXPECT_GT(expected.size(), 10u);
  for (const int threads : {2, 5}) {
    PrepareJob other = job(fmt::format("threads_{}", threads));
    other.memory_bytes = 1000;
    run(small_pieces(), other, threads);
    EXPECT_EQ(contents(fmt::format("threads_{}", threads)), expected);
  }
  // Segments and shards are how the work is cut, not what comes of it.
  PrepareConfig whole = small_pieces();
  whole.segment_bytes = 1 << 20;
  run(whole, job("whole"));
  EXPECT_EQ(contents("whole")["shard-00002.tokens"], expected.at("shard-00002.tokens"));
  EXPECT_EQ(contents("whole")["account.json"], expected.at("account.json"));
}

TEST_F(PrepareTest, ProcessesDoNotChangeABit) {
  write_corpus();
  PrepareConfig config = small_pieces();
  config.segment_bytes = 600;  // the largest file is cut into some parts
  run(config, job("one"), 1);
  const auto expected = contents("one");
  for (const int size : {2, 3, 5}) {
    const std::string out = fmt::format("of_{}", size);
    std::vector<PrepareResult> results(static_cast<size_t>(size));
    TestTeam::run(size, [&](const Team& team) {
      PrepareJob mine = job(out);
      mine.team = team;
      mine.memory_bytes = 1000 * (1 + team.rank);  // machines may differ
      results[static_cast<size_t>(team.rank)] = run(config, mine, 1 + team.rank % 2);
    });
    EXPECT_EQ(contents(out), expected) << size;
    results[0].account.check_balance();
    EXPECT_EQ(results[0].num_shards, std::ssize(open(out).manifest().shards));
  }
}

TEST_F(PrepareTest, AProcessThatEndsLeavesWorkForAnyNumberOfOthers) {
  write_corpus();
  PrepareConfig config = small_pieces();
  config.segment_bytes = 600;
  run(config, job("one"), 1);
  const auto expected = contents("one");
  const auto run_team = [&](int size, int faulty, FileSystem& faulty_files) {
    TestTeam::run(size, [&](const Team& team) {
      PrepareJob mine = job("out");
      mine.team = team;
      run(config, mine, 1, team.rank == faulty ? faulty_files : local_file_system());
    });
  };
  FaultyFileSystem files(local_file_system());
  for (const int faulty : {0, 1, 2}) {
    files.fail_at(1 << 30, FaultyFileSystem::Fault::kPowerLoss);
    run_team(3, faulty, files);
    const int64_t changes = files.num_changes();
    EXPECT_GT(changes, 20);
    local_file_system().remove_all(folder_ / "out");
    for (int64_t at = 0; at < changes; at += 5) {
      files.fail_at(at, FaultyFileSystem::Fault::kPowerLoss);
      EXPECT_THROW(run_team(3, faulty, files), Error) << at;
      files.fail_at(1 << 30, FaultyFileSystem::Fault::kPowerLoss);
      run_team(1 + static_cast<int>(at % 4), 0, files);
      ASSERT_EQ(contents("out"), expected) << "process " << faulty << " lost at change " << at;
      local_file_system().remove_all(folder_ / "out");
    }
  }
}

TEST_F(PrepareTest, ProcessesMustSeeTheSameFiles) {
  write_corpus();
  const std::string error = error_of([&] {
    TestTeam::run(2, [&](const Team& team) {
      PrepareJob mine = job(team.is_first() ? "out" : "another", {folder_ / "in"});
      mine.team = team;
      run(small_pieces(), mine, 1);
    });
  });
  EXPECT_NE(error.find("process 1 does not see it"), std::string::npos) << error;
}

TEST_F(PrepareTest, LosingPowerAtAnyWriteAndGoingOnGivesTheSameBytes) {
  write_corpus();
  PrepareConfig config = small_pieces();
  config.segment_bytes = 6000;
  config.shard_tokens = 2500;
  run(config, job("whole"));
  const auto expected = contents("whole");
  FaultyFileSystem files(local_file_system());
  files.fail_at(1 << 30, FaultyFileSystem::Fault::kPowerLoss);
  run(config, job("counted"), 1, files);
  const int64_t changes = files.num_changes();
  EXPECT_GT(changes, 60);
  // All over the run; script/kill_prepare tries many more moments.
  for (int64_t at = 0; at < changes; at += 2) {
    files.fail_at(
        at, at % 2 == 0 ? FaultyFileSystem::Fault::kPowerLoss : FaultyFileSystem::Fault::kError);
    EXPECT_THROW(run(config, job("lost"), 1, files), Error) << at;
    files.fail_at(1 << 30, FaultyFileSystem::Fault::kPowerLoss);
    run(config, job("lost"), 2, files);
    ASSERT_EQ(contents("lost"), expected) << "power lost at change " << at;
    local_file_system().remove_all(folder_ / "lost");
  }
}

TEST_F(PrepareTest, HostileInputIsCountedAndNeverFatalUnlessStrict) {
  struct Case {
    const char* name;
    std::string contents;
    std::map<std::string, int64_t> problems;  // by reason
    std::map<std::string, int64_t> dropped;   // documents by reason
    int64_t out;
  };
  const std::string good = json_text("a good line of text") + json_text("and another one");
  std::string long_line(5000, 'x');
  const std::string deep = repeated(3000, '[') + repeated(3000, ']');
  const std::vector<Case> cases = {
      {"json.jsonl",
       good + "{\"text\": \"cut\n{]\nnull\n[1]\n",
       {{"bad_json", 2}, {"no_text", 2}},
       {{"bad_json", 2}, {"no_text", 2}},
       2},
      {"field.jsonl",
       good + "{\"txt\": \"b\"}\n{\"text\": 3}\n{\"text\": null}\n",
       {{"no_text", 3}},
       {{"no_text", 3}},
       2},
      {"nul.jsonl",
       good + std::string("{\"text\": \"a\0b c\"}\n{\"text\": \"d\\u0000e\"}\n", 39),
       {{"nul_bytes", 2}},
       {},
       4},
      {"nul.txt", std::string("one\0two", 7), {{"nul_bytes", 1}}, {}, 1},
      {"bom.jsonl", "\xEF\xBB\xBF" + good, {{"bom", 1}}, {}, 2},
      {"bom.txt", "\xEF\xBB\xBFtext", {{"bom", 1}}, {}, 1},
      {"ends.txt", "one\r\ntwo\nthree\rfour", {{"mixed_line_ends", 1}}, {}, 1},
      {"crlf.jsonl", "{\"text\": \"one\"}\r\n{\"text\": \"two\"}\r\n", {}, {}, 2},
      {"utf8.txt", "fine\nand \xC3( not", {{"invalid_utf8", 1}}, {}, 1},
      {"utf8.jsonl", good + "{\"text\": \"\xFF broken\"}\n", {{"invalid_utf8", 1}}, {}, 3},
      {"surrogate.jsonl",
       good + "{\"text\": \"\\ud800\"}\n",
       {{"bad_json", 1}},
       {{"bad_json", 1}},
       2},
      {"utf16.txt",
       std::string("\xFF\xFE"
                   "a\0b\0",
                   6),
       {{"utf16", 1}},
       {{"utf16", 1}},
       0},
      {"long.jsonl",
       good + long_line + "\n" + json_text("behind it"),
       {{"line_too_long", 1}},
       {{"line_too_long", 1}},
       3},
      {"long.txt", long_line, {{"line_too_long", 1}}, {{"line_too_long", 1}}, 0},
      {"deep.jsonl",
       "{\"text\": \"deep\", \"x\": " + deep.substr(0, 1900) + "}\n",
       {{"bad_json", 1}},
       {{"bad_json", 1}},
       0},
      {"cut.jsonl.zst", pack_zstd(good).substr(0, 30), {{"unreadable", 1}}, {}, 0},
      {"cut.jsonl.gz", pack_gzip(good).substr(0, 20), {{"unreadable", 1}}, {}, -1},
      {"blank.jsonl", "\n\n  \n", {}, {}, 0},
      {"empty.jsonl", "{\"text\": \"\"}\n{\"text\": \" \\n\"}\n", {}, {{"empty", 2}}, 0},
      {"empty.txt", "", {}, {}, 0},
  };
  PrepareConfig config = small_pieces();
  config.max_document_bytes = 2000;
  for (const Case& c : cases) {
    const std::string path = folder_.write(c.name, c.contents);
    const std::string out = std::string("out_") + c.name;
    const Account account = run(config, job(out, {path})).account;
    account.check_balance();
    if (c.out >= 0) {
      EXPECT_EQ(account.problems, c.problems) << c.name;
      EXPECT_EQ(account.out.documents, c.out) << c.name;
      std::map<std::string, int64_t> dropped;
      for (const auto& [reason, tally] : account.dropped) dropped[reason] = tally.documents;
      EXPECT_EQ(dropped, c.dropped) << c.name;
    }
    EXPECT_EQ(open(out).num_documents(), account.out.documents);
    PrepareJob strict = job("strict_" + std::string(c.name), {path});
    strict.strict = true;
    const std::string error = error_of([&] { run(config, strict); });
    if (c.problems.empty()) {
      EXPECT_EQ(error, "no error") << c.name;
    } else {
      EXPECT_NE(error.find(c.name), std::string::npos) << error;
      EXPECT_NE(error.find("strict"), std::string::npos) << error;
    }
  }
  // Where the problem is, to the line.
  config.bad_text = "reject";
  const Account rejected =
      run(config,
          job("rejected", {folder_ / "utf8.txt", folder_ / "utf8.jsonl", folder_ / "nul.txt"}))
          .account;
  EXPECT_EQ(rejected.dropped.at("invalid_utf8").documents, 2);
  EXPECT_EQ(rejected.dropped.at("nul_bytes").documents, 1);
  EXPECT_NE(rejected.examples[0].find("utf8.txt:2:"), std::string::npos) << rejected.examples[0];
  EXPECT_NE(rejected.examples[1].find("utf8.jsonl:3"), std::string::npos) << rejected.examples[1];
}

TEST_F(PrepareTest, EvaluationTextsAreKeptOutAndFiltersHaveReasons) {
  const std::string item = invented_text(500, 30);
  folder_.write("in/a.jsonl", json_text(invented_text(1, 30)) +
                                  json_text("Before. " + item + " Behind.") + json_text("tiny"));
  PrepareJob with = job("out");
  with.evaluations = {folder_.write("eval.txt", item)};
  PrepareConfig config;
  config.filters.min_characters = 10;
  const Account account = run(config, with).account;
  EXPECT_EQ(account.dropped.at("contaminated").documents, 1);
  EXPECT_EQ(account.dropped.at("too_short").documents, 1);
  EXPECT_EQ(account.out.documents, 1);
}

TEST_F(PrepareTest, AFolderServesOnePlan) {
  write_corpus();
  run(small_pieces(), job("out"));
  PrepareConfig other = small_pieces();
  other.duplicates.threshold = 0.9;
  EXPECT_NE(error_of([&] { run(other, job("out")); }).find("plan.json"), std::string::npos);
  folder_.write("in/a.jsonl", json_text("changed since"));
  EXPECT_NE(error_of([&] { run(small_pieces(), job("out")); }).find("plan.json"),
            std::string::npos);
  EXPECT_NE(error_of([&] { run(small_pieces(), job("in")); }).find("new or empty folder"),
            std::string::npos);
  other.weights = "{\"cod\": 2}";
  EXPECT_NE(error_of([&] { run(other, job("new")); }).find("did you mean code?"),
            std::string::npos);
}

// ---- Shards in the loader

std::vector<int32_t> rows_of(Loader& loader, int64_t count) {
  Batch batch;
  loader.next(count, batch);
  std::vector<int32_t> all = batch.tokens;
  all.insert(all.end(), batch.is_label.begin(), batch.is_label.end());
  return all;
}

TEST_F(PrepareTest, ShardsServeTheRowsOfTheirTexts) {
  write_corpus();
  run(small_pieces(), job("out"));
  const auto shards = std::make_shared<ShardSet>(open("out"));
  Source from_text{.name = "text"};
  for (const std::string& text : texts(*shards)) from_text.documents.push_back({.text = text});
  // Fill-in-the-middle, splitting, repeats and held-out documents: the same bits from both.
  const LoaderConfig config{
      .fim_rate = 0.4, .split_rate = 0.4, .shuffle_window = 17, .held_out = 0.02};
  Source from_shards{.name = "shards", .repeats = 1.5, .shards = shards};
  from_text.repeats = 1.5;
  // Long documents give their end by tokens in shards, by bytes in texts; these have none.
  Loader a(text_tokenizer(), {from_text}, config, 3, 64, 1),
      b(text_tokenizer(), {from_shards}, config, 3, 64, 1);
  EXPECT_EQ(a.reports()[0].num_tokens, b.reports()[0].num_tokens);
  EXPECT_EQ(a.reports()[0].num_held_out, b.reports()[0].num_held_out);
  EXPECT_EQ(a.held_out_rows(10).tokens, b.held_out_rows(10).tokens);
  for (int i = 0; i < 40; ++i) ASSERT_EQ(rows_of(a, 7), rows_of(b, 7)) << i;
  EXPECT_GE(b.cursor().epoch, 1);
  LoaderCursor cursor = b.cursor();
  const auto next = rows_of(b, 30);
  Loader resumed(text_tokenizer(), {from_shards}, config, 3, 64, 1);
  resumed.seek(cursor);
  EXPECT_EQ(rows_of(resumed, 30), next);
  cursor.window.reset();
  resumed.seek(cursor);
  EXPECT_EQ(rows_of(resumed, 30), next);
}

TEST_F(PrepareTest, WeightsSayHowOftenALabelIsSeen) {
  write_corpus();
  PrepareConfig config = small_pieces();
  config.weights = "{\"zh\": 3, \"code\": 0}";
  run(config, job("out"));
  const auto shards = std::make_shared<ShardSet>(open("out"));
  const LoaderConfig plain{.fim_rate = 0, .split_rate = 0};
  Source source{.name = "shards", .shards = shards, .weights = {{"zh", 0.5}, {"en", 2}}};
  Loader loader(text_tokenizer(), {source}, plain, 3, 64, 0);
  int64_t expected = 0, chinese = 0;
  for (int64_t i = 0; i < shards->num_documents(); ++i) {
    const ShardDocument document = shards->document(i);
    const auto tokens = static_cast<int64_t>(document.tokens.size()) + 1;
    const std::string language = shards->manifest().languages[document.record.label.language];
    const std::string domain = shards->manifest().domains[document.record.label.domain];
    if (domain == "code") continue;
    if (language == "zh") chinese += tokens;
    if (language != "zh") expected += tokens * (language == "en" ? 2 : 1);
  }
  int64_t served = 0;
  Batch batch;
  for (int64_t i = 0, n = loader.rows_in_epoch(); i < n; ++i) {
    loader.next(1, batch);
    served += std::count(batch.is_label.begin(), batch.is_label.end(), 1);
  }
  // Chinese 3 * 0.5 times: once or twice each, by chance.
  EXPECT_GE(served, expected + chinese);
  EXPECT_LE(served, expected + 2 * chinese);
  EXPECT_NEAR(static_cast<double>(served),
              static_cast<double>(expected) + 1.5 * static_cast<double>(chinese),
              0.5 * static_cast<double>(chinese));
  Source other{.name = "shards", .shards = shards};
  EXPECT_NE(Loader(text_tokenizer(), {other}, plain, 3, 64, 0).fingerprint(), loader.fingerprint());
  const std::vector<std::string> texts = {"another tokenizer's text, another tokenizer's text"};
  const Tokenizer foreign =
      train_bpe(std::vector<std::string_view>(texts.begin(), texts.end()), {.vocab_size = 290});
  const std::string error = error_of([&] { Loader(foreign, {other}, plain, 3, 64, 0); });
  EXPECT_NE(error.find("another tokenizer"), std::string::npos) << error;
}

}  // namespace
}  // namespace fathom
