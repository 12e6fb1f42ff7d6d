#include "serve/accounts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/random.h"
#include "serve/api_error.h"
#include "serve/price_cards.h"

namespace fathom::serve {
namespace {

class AccountsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fmt::format("{}/accounts_test/{}", FATHOM_BINARY_DIR,
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    local_file_system().remove_all(folder_);
    local_file_system().make_directories(folder_);
    file_ = join_path(folder_, "keys.db");
  }
  void TearDown() override { local_file_system().remove_all(folder_); }
  std::string folder_, file_;
};

int status_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const ApiError& error) {
    return error.status();
  }
  return 200;
}

// By 128-bit integers, independently of the code: tokens times micro-prices, in pico.
__int128 charge_by_hand(const TokenUse& use, const PriceCard& p) {
  return static_cast<__int128>(use.hit) * p.hit_micro + static_cast<__int128>(use.miss) * p.miss_micro +
         static_cast<__int128>(use.output) * p.output_micro;
}

TEST_F(AccountsTest, KeysAreShownOnceAndStoredHashed) {
  Accounts accounts(file_, true);
  std::string id;
  const std::string key = accounts.create_key({.name = "ann"}, &id);
  ASSERT_TRUE(accounts.authenticate(key));
  EXPECT_EQ(accounts.authenticate(key)->key_id, id);
  std::string wrong = key;
  wrong.back() = wrong.back() == 'a' ? 'b' : 'a';
  EXPECT_FALSE(accounts.authenticate(wrong));
  EXPECT_FALSE(accounts.authenticate(key.substr(0, key.size() - 1)));
  EXPECT_FALSE(accounts.authenticate(key + "a"));
  EXPECT_FALSE(accounts.authenticate(""));
  EXPECT_FALSE(accounts.authenticate(std::string(1 << 20, 'x')));
  accounts.revoke(id);
  EXPECT_FALSE(accounts.authenticate(key));
  // The secret part stands in none of the files.
  for (const std::string& name : local_file_system().list(folder_)) {
    const std::string bytes = local_file_system().read_all(join_path(folder_, name));
    EXPECT_EQ(bytes.find(key.substr(15)), std::string::npos) << name;
  }
}

// Welch's t of the times that two kinds of wrong keys take, in random turns, the slowest tenth left
// out as interruptions.
double time_difference(const std::function<bool(std::string_view)>& accepts,
                       const std::array<std::string, 2>& keys, int64_t count) {
  const Random random(5, RandomPurpose::kTest);
  std::array<std::vector<double>, 2> times;
  int64_t accepted = 0;
  for (int64_t i = 0; i < 2 * count; ++i) {
    const auto kind = static_cast<size_t>(random.below(static_cast<uint64_t>(i), 2));
    const auto begin = std::chrono::steady_clock::now();
    accepted += accepts(keys[kind]);
    times[kind].push_back(
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count());
  }
  EXPECT_EQ(accepted, 0);
  std::array<double, 2> mean{}, variance{};
  for (size_t kind = 0; kind < 2; ++kind) {
    auto& list = times[kind];
    std::sort(list.begin(), list.end());
    list.resize(list.size() * 9 / 10);
    for (const double time : list) mean[kind] += time / static_cast<double>(list.size());
    for (const double time : list)
      variance[kind] += (time - mean[kind]) * (time - mean[kind]) / static_cast<double>(list.size());
    variance[kind] /= static_cast<double>(list.size());
  }
  return (mean[0] - mean[1]) / std::sqrt(variance[0] + variance[1]);
}

// Timings are for script/soak: a key that is right but for its last letter, and one that is wrong
// from the first secret letter on.
TEST_F(AccountsTest, TimeTellsNothingOfAKey) {
  if (getenv("FATHOM_SOAK") == nullptr) GTEST_SKIP() << "script/soak timing";
  Accounts accounts(file_, true);
  const std::string key = accounts.create_key({.name = "ann"});
  std::array<std::string, 2> wrong = {key, key};
  wrong[0].back() = key.back() == 'a' ? 'b' : 'a';
  for (size_t i = 15; i < key.size(); ++i) wrong[1][i] = key[i] == 'a' ? 'b' : 'a';
  constexpr double kSignal = 4.5;  // the limit that is usual for such tests
  double least = 1e9;
  for (int round = 0; round < 3; ++round) {
    const double t = time_difference(
        [&](std::string_view text) { return accounts.authenticate(text).has_value(); }, wrong, 50'000);
    fmt::print("t = {:.2f}\n", t);
    least = std::min(least, std::abs(t));
  }
  EXPECT_LT(least, kSignal);
  // The control: a comparison that ends at the first difference is seen.
  const double leaky = time_difference(
      [&](std::string_view text) {
        volatile size_t same = 0;
        while (same < text.size() && text[same] == key[same]) same = same + 1;
        return same == text.size();
      },
      wrong, 50'000);
  fmt::print("t = {:.2f} of a comparison that leaks\n", leaky);
  EXPECT_GT(std::abs(leaky), kSignal);
}

TEST_F(AccountsTest, ExactlyTenOfFiveHundred) {
  Accounts accounts(file_, true);
  const PriceCard price{.off_peak_percent = 100};
  const TokenUse use{.miss = 100, .output = 50};
  const int64_t cost = charge_pico(use, price);
  ASSERT_EQ(cost % kPicoPerMicro, 0);
  std::string id;
  accounts.create_key({.name = "ten", .balance_micro = 10 * cost / kPicoPerMicro}, &id);
  const Caller caller{.key_id = id};
  std::vector<Meter> running;
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    try {
      running.push_back(accounts.reserve(caller, "m", use, price));
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status(), 402);
      ++refused;
    }
  }
  EXPECT_EQ(running.size(), 10u);
  EXPECT_EQ(refused, 490);
  for (const Meter& meter : running) {
    meter.slot->add_prompt(0, 100);
    meter.slot->add_output(50);
    accounts.settle(meter, "stop");
  }
  EXPECT_EQ(accounts.key(id).balance_pico, 0);
  EXPECT_EQ(accounts.key(id).spent_pico, 10 * cost);
  EXPECT_EQ(accounts.num_in_flight(), 0);
}

TEST_F(AccountsTest, TheLedgerIsExact) {
  Accounts accounts(file_, true);
  const PriceCard price{.hit_micro = 14'000, .miss_micro = 140'000, .output_micro = 280'000};
  std::string id;
  accounts.create_key({.name = "x", .balance_micro = 5'000'000}, &id);
  __int128 sum = 0;
  for (int64_t i = 1; i <= 100; ++i) {
    const TokenUse use{.hit = i * 64, .miss = i * 7 % 13, .output = i * i % 101};
    const Meter meter = accounts.reserve({.key_id = id}, "m", {.miss = i * 64 + 13, .output = 101},
                                         price);
    meter.slot->add_prompt(use.hit, use.miss);
    for (int64_t t = 0; t < use.output; ++t) meter.slot->add_output(1);
    accounts.settle(meter, "stop");
    sum += charge_by_hand(use, price);
  }
  EXPECT_EQ(*accounts.key(id).balance_pico, static_cast<int64_t>(5'000'000 * kPicoPerMicro - sum));
  const auto buckets = accounts.usage(id, 0, int64_t{1} << 40, 86400);
  int64_t total = 0, requests = 0;
  for (const auto& bucket : buckets) total += bucket.charge_pico, requests += bucket.num_requests;
  EXPECT_EQ(total, static_cast<int64_t>(sum));
  EXPECT_EQ(requests, 100);
  EXPECT_TRUE(accounts.usage("k_other", 0, int64_t{1} << 40, 3600).empty());
}

// What a killed process had counted is charged once, by the next one, at the price of then.
TEST_F(AccountsTest, AKilledProcessIsSettledOnce) {
  std::string id;
  const PriceCard price;
  {
    Accounts accounts(file_, true);
    accounts.create_key({.name = "x", .balance_micro = 1'000'000}, &id);
    const Meter meter = accounts.reserve({.key_id = id}, "m", {.miss = 10, .output = 100}, price);
    meter.slot->add_prompt(4, 6);
    meter.slot->add_output(17);
    // Never settled.
  }
  const int64_t expected =
      1'000'000 * kPicoPerMicro -
      static_cast<int64_t>(charge_by_hand({.hit = 4, .miss = 6, .output = 17}, price));
  for (int start = 0; start < 2; ++start) {
    Accounts accounts(file_, true);
    EXPECT_EQ(accounts.key(id).balance_pico, expected);
    ASSERT_EQ(accounts.ledger(id, 10).size(), 1u);
    EXPECT_EQ(accounts.ledger(id, 10)[0].status, "killed");
    EXPECT_EQ(accounts.ledger(id, 10)[0].use.output, 17);
  }
}

TEST_F(AccountsTest, LimitsHold) {
  Accounts accounts(file_, true);
  std::string rate, many, spend;
  accounts.create_key({.name = "rate", .limits = {.requests_per_minute = 2}}, &rate);
  accounts.create_key({.name = "many", .limits = {.concurrency = 1}}, &many);
  accounts.create_key({.name = "spend", .limits = {.spend_micro = 1}}, &spend);
  const TokenUse use{.miss = 1, .output = 1};
  const auto once = [&](const std::string& id, const TokenUse& most) {
    return status_of([&] { accounts.settle(accounts.reserve({.key_id = id}, "m", most, {}), "stop"); });
  };
  EXPECT_EQ(once(rate, use), 200);
  EXPECT_EQ(once(rate, use), 200);
  EXPECT_EQ(once(rate, use), 429);
  const Meter first = accounts.reserve({.key_id = many}, "m", use, {});
  EXPECT_EQ(once(many, use), 429);
  accounts.settle(first, "stop");
  EXPECT_EQ(once(many, use), 200);
  EXPECT_EQ(once(spend, {.output = 1}), 402);  // 1.1 micro
  EXPECT_EQ(once(spend, {.miss = 1}), 200);    // 0.27 micro at most
  EXPECT_EQ(status_of([&] { accounts.top_up(rate, 5); }), 400);  // it has no balance
  EXPECT_EQ(status_of([&] { accounts.top_up("k_nobody", 5); }), 404);
}

TEST_F(AccountsTest, FilesOfOthersAreLeftAlone) {
  const std::string text_file = folder_ + "/text.db", other_file = folder_ + "/other.db";
  write_file_atomically(local_file_system(), text_file,
                        "a text that is long enough to be looked at");
  Database(other_file).execute("CREATE TABLE songs(name TEXT)");
  const std::string before = local_file_system().read_all(other_file);
  for (const std::string& path : {text_file, other_file}) {
    try {
      Accounts accounts(path, /*is_server=*/true);
      ADD_FAILURE() << path << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(local_file_system().read_all(other_file), before) << "not a byte of it was changed";
}

TEST_F(AccountsTest, TwoServersDoNotShareABalance) {
  Accounts first(file_, true);
  EXPECT_THROW(Accounts(file_, true), Error);
  Accounts beside(file_, false);  // `fathom keys` may
  EXPECT_TRUE(beside.keys().empty());
}

// A file keeps every entry; memory the newest ones.
TEST_F(AccountsTest, ALedgerInMemoryIsBounded) {
  for (const std::string& path : {std::string(":memory:"), file_}) {
    Accounts accounts(path, true, /*max_in_memory=*/20);
    Caller caller = Accounts::owner();
    if (path == file_) accounts.create_key({.name = "ann"}, &caller.key_id);
    int64_t left = 0;
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 60; ++i) {
        const Meter meter = accounts.reserve(caller, "m", {.miss = 1}, {});
        meter.slot->add_prompt(0, round);
        accounts.settle(meter, "stop");
      }
      left = static_cast<int64_t>(accounts.ledger("", 1000).size());
      if (round == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    }
    if (path == file_) {
      EXPECT_EQ(left, 120);
    } else {
      EXPECT_GE(left, 20);
      EXPECT_LE(left, 70) << "entries of one second go together";
      EXPECT_EQ(accounts.ledger("", 1)[0].use.miss, 1) << "the newest stay";
    }
  }
}

// A million tokens at the published cards, to the last digit.
TEST(PriceCard, PublishedCardsChargeWhatTheySay) {
  const auto yuan = [](std::string_view card, const TokenUse& use) {
    return charge_pico(use, price_card(card, "CNY")) / kPicoPerMicro;
  };
  EXPECT_EQ(yuan("v3", {.miss = 1'000'000}), 2'000'000) << "2.000000 yuan";
  EXPECT_EQ(yuan("v3", {.hit = 1'000'000}), 500'000);
  EXPECT_EQ(yuan("v3", {.output = 1'000'000}), 8'000'000);
  // The prices that are often quoted for V3 are R1's.
  EXPECT_EQ(yuan("r1", {.hit = 1'000'000}), 1'000'000);
  EXPECT_EQ(yuan("r1", {.miss = 1'000'000}), 4'000'000);
  EXPECT_EQ(yuan("r1", {.output = 1'000'000}), 16'000'000);
  EXPECT_EQ(charge_pico({.hit = 1, .miss = 1, .output = 1}, price_card("r1", "USD")),
            140'000 + 550'000 + 2'190'000);
  EXPECT_EQ(charge_pico({.output = 1}, PriceCard{}),
            charge_pico({.output = 1}, price_card("v3", "USD")))
      << "what holds where nothing is said";
  EXPECT_THROW(price_card("v4", "CNY"), Error);
  EXPECT_THROW(price_card("v3", "EUR"), Error);
  EXPECT_EQ(card_of({}, "a"), "v3");
  EXPECT_EQ(card_of({"v3.1", "a=r1"}, "a"), "r1");
  EXPECT_EQ(card_of({"v3.1", "a=r1"}, "b"), "v3.1");
}

TEST(PriceCard, OffPeakGoesOverMidnight) {
  const PriceCard card{.hit_micro = 100, .miss_micro = 200, .output_micro = 400,
                       .off_peak_percent = 50};
  const auto output_at = [&](int64_t hour, int64_t minute) {
    return card.at((20000 * 24 + hour) * 3600 + minute * 60).output_micro;
  };
  EXPECT_EQ(output_at(16, 29), 400);
  EXPECT_EQ(output_at(16, 30), 200);
  EXPECT_EQ(output_at(23, 59), 200);
  EXPECT_EQ(output_at(0, 0), 200);
  EXPECT_EQ(output_at(0, 29), 200);
  EXPECT_EQ(output_at(0, 30), 400);
}

}  // namespace
}  // namespace fathom::serve
