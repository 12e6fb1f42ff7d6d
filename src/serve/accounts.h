// Keys, balances and the ledger. One thread at a time (slots of meters apart).
//
// A key is "sk-", a public part that finds its row, and a secret; only a SHA-256 of the whole is
// kept (a secret of 256 random bits needs no slow hash), compared in constant time. A request
// reserves what it may cost at most; what it did cost is written to the ledger, once, when it ends.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "serve/database.h"
#include "serve/meter.h"

namespace fathom::serve {

struct KeyLimits {
  std::optional<int64_t> requests_per_minute, concurrency, spend_micro;
};

struct NewKey {
  std::string name;
  bool is_admin = false;
  std::optional<int64_t> balance_micro;  // nothing: unlimited
  KeyLimits limits;
};

struct KeyRow {
  std::string id, name, prefix;
  bool is_admin = false;
  int64_t created = 0;
  std::optional<int64_t> revoked, last_used;
  std::optional<int64_t> balance_pico;
  int64_t spent_pico = 0;
  KeyLimits limits;
};

// Who asks.
struct Caller {
  std::string key_id;
  std::string name, prefix;
  bool is_admin = false;
};

// A request that has been let in: its slot and what it holds back of the balance. Gives both back
// through Accounts::settle, which every meter must reach.
struct Meter {
  MeterSlot* slot = nullptr;
  int64_t id = 0;
  std::string key_id, model;
  PriceCard price;
  int64_t reserved_pico = 0;
};

struct UsageBucket {
  int64_t start = 0, num_requests = 0;
  TokenUse use;
  int64_t charge_pico = 0;
};

struct LedgerEntry {
  int64_t time = 0;
  std::string key_id, model, status;
  TokenUse use;
  int64_t charge_pico = 0;
};

class Accounts {
 public:
  // Opens or creates the file, and settles what an earlier process left. ":memory:" has one key, the
  // implicit owner's, without limits, and its ledger keeps the newest entries only, at least
  // max_in_memory of them: a server without keys may run for years.
  explicit Accounts(const std::string& path, bool is_server, int64_t max_in_memory = 10'000);
  static constexpr std::string_view kOwner = "k_owner";

  // ---- Keys. Unknown ids are an ApiError 404.
  std::string create_key(const NewKey& key, std::string* id = nullptr);  // the key, shown once
  std::vector<KeyRow> keys();
  KeyRow key(const std::string& id);
  void revoke(const std::string& id);
  void top_up(const std::string& id, int64_t amount_micro);

  // ---- Requests
  // Nothing: no such key, or revoked.
  std::optional<Caller> authenticate(std::string_view secret);
  static Caller owner();
  // 402, 429 or 503 as an ApiError. `most` is what the request may use at most.
  Meter reserve(const Caller& caller, const std::string& model, const TokenUse& most,
                const PriceCard& price);
  void settle(const Meter& meter, std::string_view status);
  int64_t num_in_flight() const { return num_in_flight_; }

  // ---- Reports; empty key: all
  std::vector<UsageBucket> usage(const std::string& key, int64_t from, int64_t to, int64_t step);
  std::vector<LedgerEntry> ledger(const std::string& key, int64_t limit);

  Database& database() { return db_; }

 private:
  struct Live {
    int64_t reserved_pico = 0, num_running = 0;
    std::deque<int64_t> recent;  // when requests of the last minute came
  };
  void create_tables();
  void write_entry(int64_t id, int64_t time, const std::string& key, const std::string& model,
                   const TokenUse& use, int64_t charge, std::string_view status);

  void forget_oldest();

  Database db_;
  const int64_t max_entries_;  // 0: all
  int64_t num_new_entries_ = 0;
  std::unique_ptr<MeterJournal> journal_;
  std::unordered_map<std::string, Live> live_;
  int64_t num_in_flight_ = 0;
};

}  // namespace fathom::serve
