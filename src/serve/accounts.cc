#include "serve/accounts.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <chrono>
#include <cstring>

#include "core/error.h"
#include "serve/api_error.h"

namespace fathom::serve {
namespace {

constexpr char kLetters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
constexpr size_t kLookupLetters = 12, kSecretLetters = 43;  // 72 and 258 bits
constexpr size_t kKeyLetters = 3 + kLookupLetters + kSecretLetters;
constexpr int64_t kMostMicro = 1'000'000'000'000;  // a million of the currency; pico fits int64

int64_t unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string random_letters(size_t count) {
  std::string bytes(count, '\0');
  FATHOM_CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()),
                             static_cast<int>(count)),
                  1, "random bytes");
  for (char& c : bytes) c = kLetters[static_cast<unsigned char>(c) & 63];
  return bytes;
}

int64_t random_id() {
  int64_t id = 0;
  FATHOM_CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(&id), sizeof id), 1, "random bytes");
  return (id & INT64_MAX) | 1;  // never 0
}

std::string sha256(std::string_view text) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (const char c : hash) {
    hex += kHex[static_cast<unsigned char>(c) >> 4];
    hex += kHex[static_cast<unsigned char>(c) & 15];
  }
  return hex;
}

std::optional<int64_t> micro_to_pico(std::optional<int64_t> micro) {
  if (!micro) return std::nullopt;
  return *micro * kPicoPerMicro;
}

void copy_text(char* to, size_t size, std::string_view text) {
  std::memset(to, 0, size);
  std::memcpy(to, text.data(), std::min(text.size(), size - 1));
}

constexpr char kKeyColumns[] =
    "id,name,prefix,is_admin,created,revoked,last_used,balance_pico,spent_pico,"
    "requests_per_minute,concurrency,spend_micro";

KeyRow read_key(const Statement& row) {
  return {.id = row.text(0),
          .name = row.text(1),
          .prefix = row.text(2),
          .is_admin = row.integer(3) != 0,
          .created = row.integer(4),
          .revoked = row.optional_integer(5),
          .last_used = row.optional_integer(6),
          .balance_pico = row.optional_integer(7),
          .spent_pico = row.integer(8),
          .limits = {.requests_per_minute = row.optional_integer(9),
                     .concurrency = row.optional_integer(10),
                     .spend_micro = row.optional_integer(11)}};
}

std::string money(int64_t pico) {
  return fmt::format("{}.{:06}", pico / (kPicoPerMicro * 1'000'000),
                     pico / kPicoPerMicro % 1'000'000);
}

}  // namespace

Accounts::Accounts(const std::string& path, bool is_server, int64_t max_in_memory)
    : db_(path), max_entries_(path == ":memory:" ? max_in_memory : 0) {
  create_tables();
  if (path == ":memory:") {
    db_.prepare("INSERT INTO keys(id,name,prefix,lookup,hash,is_admin,created) "
                "VALUES('k_owner','owner','','','',1,?)")
        .bind(0, unix_now())
        .run();
  }
  if (!is_server) return;
  journal_ = std::make_unique<MeterJournal>(path == ":memory:" ? "" : path + "-meter");
  journal_->for_each_left([this](MeterSlot& slot) {
    const TokenUse use = slot.use();
    write_entry(slot.id, slot.started, slot.key, slot.model, use, charge_pico(use, slot.price()),
                "killed");
  });
}

void Accounts::create_tables() {
  Statement version = db_.prepare("PRAGMA user_version");
  version.step();
  constexpr int64_t kVersion = 1;
  const int64_t found = version.integer(0);
  version.reset();
  if (found == kVersion) return db_.write_ahead();
  if (found != 0)
    throw_bad_input({db_.path(), "user_version", fmt::format("{}", found),
                     fmt::format("{}", kVersion), "written by another version of the program"});
  Statement others = db_.prepare("SELECT name FROM sqlite_master LIMIT 1");
  if (others.step())
    throw_bad_input({db_.path(), "", fmt::format("a database with a table {}", others.text(0)),
                     "one of this service, or no file yet", "another program's file?"});
  others.reset();
  db_.write_ahead();
  Transaction transaction(db_);
  db_.execute(R"sql(
    CREATE TABLE keys(
      id TEXT PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, lookup TEXT NOT NULL UNIQUE,
      hash TEXT NOT NULL, is_admin INTEGER NOT NULL, created INTEGER NOT NULL, revoked INTEGER,
      last_used INTEGER, balance_pico INTEGER, spent_pico INTEGER NOT NULL DEFAULT 0,
      requests_per_minute INTEGER, concurrency INTEGER, spend_micro INTEGER);
    CREATE TABLE ledger(
      id INTEGER PRIMARY KEY, time INTEGER NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL,
      hit INTEGER NOT NULL, miss INTEGER NOT NULL, output INTEGER NOT NULL,
      charge_pico INTEGER NOT NULL, status TEXT NOT NULL);
    CREATE INDEX ledger_by_key ON ledger(key, time);
    CREATE INDEX ledger_by_time ON ledger(time);
    CREATE TABLE top_ups(
      id INTEGER PRIMARY KEY, time INTEGER NOT NULL, key TEXT NOT NULL,
      amount_pico INTEGER NOT NULL);
    CREATE TABLE conversations(
      key TEXT NOT NULL, id TEXT NOT NULL, title TEXT NOT NULL, version INTEGER NOT NULL,
      updated INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY(key, id)) WITHOUT ROWID;
    PRAGMA user_version=1;
  )sql");
  transaction.commit();
}

// ---- Keys

std::string Accounts::create_key(const NewKey& key, std::string* id) {
  if (key.name.empty() || key.name.size() > 100)
    throw_out_of_range("name", fmt::format("{} bytes", key.name.size()), "1 to 100");
  if (key.balance_micro && (*key.balance_micro < 0 || *key.balance_micro > kMostMicro))
    throw_out_of_range("balance_micro", fmt::format("{}", *key.balance_micro),
                       fmt::format("0 to {}", kMostMicro));
  const std::string lookup = random_letters(kLookupLetters);
  const std::string secret = "sk-" + lookup + random_letters(kSecretLetters);
  const std::string new_id = "k_" + random_letters(16);
  Transaction transaction(db_);
  db_.prepare("INSERT INTO keys(id,name,prefix,lookup,hash,is_admin,created,balance_pico,"
              "requests_per_minute,concurrency,spend_micro) VALUES(?,?,?,?,?,?,?,?,?,?,?)")
      .bind(0, new_id)
      .bind(1, key.name)
      .bind(2, secret.substr(0, 7))
      .bind(3, lookup)
      .bind(4, sha256(secret))
      .bind(5, int64_t{key.is_admin})
      .bind(6, unix_now())
      .bind(7, micro_to_pico(key.balance_micro))
      .bind(8, key.limits.requests_per_minute)
      .bind(9, key.limits.concurrency)
      .bind(10, key.limits.spend_micro)
      .run();
  if (key.balance_micro) {
    db_.prepare("INSERT INTO top_ups VALUES(?,?,?,?)")
        .bind(0, random_id())
        .bind(1, unix_now())
        .bind(2, new_id)
        .bind(3, *key.balance_micro * kPicoPerMicro)
        .run();
  }
  transaction.commit();
  if (id != nullptr) *id = new_id;
  return secret;
}

std::vector<KeyRow> Accounts::keys() {
  Statement rows =
      db_.prepare(fmt::format("SELECT {} FROM keys ORDER BY created, id", kKeyColumns));
  std::vector<KeyRow> keys;
  while (rows.step()) keys.push_back(read_key(rows));
  return keys;
}

KeyRow Accounts::key(const std::string& id) {
  Statement rows = db_.prepare(fmt::format("SELECT {} FROM keys WHERE id=?", kKeyColumns));
  if (!rows.bind(0, id).step()) throw_not_found("no key with this id");
  return read_key(rows);
}

void Accounts::revoke(const std::string& id) {
  key(id);
  db_.prepare("UPDATE keys SET revoked=coalesce(revoked,?) WHERE id=?")
      .bind(0, unix_now())
      .bind(1, id)
      .run();
}

void Accounts::top_up(const std::string& id, int64_t amount_micro) {
  Transaction transaction(db_);
  const KeyRow row = key(id);
  if (!row.balance_pico)
    throw_invalid("amount_micro", "this key has no balance: its use is not limited by one");
  if (amount_micro <= 0 || amount_micro > kMostMicro ||
      *row.balance_pico / kPicoPerMicro + amount_micro > kMostMicro)
    throw_out_of_range("amount_micro", fmt::format("{}", amount_micro),
                       fmt::format("1 to {}, the new balance included", kMostMicro));
  db_.prepare("INSERT INTO top_ups VALUES(?,?,?,?)")
      .bind(0, random_id())
      .bind(1, unix_now())
      .bind(2, id)
      .bind(3, amount_micro * kPicoPerMicro)
      .run();
  db_.prepare("UPDATE keys SET balance_pico=balance_pico+? WHERE id=?")
      .bind(0, amount_micro * kPicoPerMicro)
      .bind(1, id)
      .run();
  transaction.commit();
}

// ---- Requests

std::optional<Caller> Accounts::authenticate(std::string_view secret) {
  // The row is found by the public part; the comparison of what is secret takes the same time
  // whatever is there, also where there is no row.
  const bool well_formed = secret.size() == kKeyLetters && secret.substr(0, 3) == "sk-";
  const std::string_view lookup = well_formed ? secret.substr(3, kLookupLetters) : "";
  Statement row = db_.prepare("SELECT id,name,prefix,is_admin,hash FROM keys "
                              "WHERE lookup=? AND revoked IS NULL");
  const bool found = well_formed && row.bind(0, lookup).step();
  const std::string hash = sha256(secret.substr(0, 256));
  const std::string stored = found ? row.text(4) : std::string(hash.size(), '0');
  if (stored.size() != hash.size() ||
      CRYPTO_memcmp(hash.data(), stored.data(), hash.size()) != 0 || !found)
    return std::nullopt;
  return Caller{.key_id = row.text(0),
                .name = row.text(1),
                .prefix = row.text(2),
                .is_admin = row.integer(3) != 0};
}

Caller Accounts::owner() {
  return {.key_id = std::string(kOwner), .name = "owner", .is_admin = true};
}

Meter Accounts::reserve(const Caller& caller, const std::string& model, const TokenUse& most,
                        const PriceCard& price) {
  const KeyRow row = key(caller.key_id);
  if (row.revoked) throw ApiError(401, "invalid_api_key", "this key has been revoked");
  Live& live = live_[caller.key_id];
  const int64_t now = unix_now();
  while (!live.recent.empty() && live.recent.front() <= now - 60) live.recent.pop_front();
  const KeyLimits& limits = row.limits;
  if (limits.requests_per_minute &&
      static_cast<int64_t>(live.recent.size()) >= *limits.requests_per_minute) {
    const int64_t wait = live.recent.empty() ? 60 : live.recent.front() + 60 - now;
    throw rate_limited(fmt::format("this key may ask {} times a minute",
                                   *limits.requests_per_minute),
                       static_cast<int>(std::max<int64_t>(1, wait)));
  }
  if (limits.concurrency && live.num_running >= *limits.concurrency)
    throw rate_limited(fmt::format("this key may have {} requests running", *limits.concurrency), 1);
  const PriceCard card = price.at(now);
  const int64_t needed = charge_pico(most, card);
  if (row.balance_pico && *row.balance_pico - live.reserved_pico < needed)
    throw ApiError(402, "insufficient_balance",
                   fmt::format("insufficient balance: this request may cost up to {}, {} is left",
                               money(needed),
                               money(std::max<int64_t>(0, *row.balance_pico - live.reserved_pico))));
  if (limits.spend_micro &&
      *limits.spend_micro * kPicoPerMicro - row.spent_pico - live.reserved_pico < needed)
    throw ApiError(402, "insufficient_balance", "this key has reached its limit of spend");

  MeterSlot* slot = journal_->take();
  if (slot == nullptr) throw overloaded("too many requests are in flight", 1);
  slot->started = now;
  slot->hit_micro = card.hit_micro;
  slot->miss_micro = card.miss_micro;
  slot->output_micro = card.output_micro;
  copy_text(slot->key, sizeof slot->key, caller.key_id);
  copy_text(slot->model, sizeof slot->model, model);
  const int64_t id = random_id();
  slot->id.store(id, std::memory_order_release);
  live.recent.push_back(now);
  live.reserved_pico += needed;
  ++live.num_running;
  ++num_in_flight_;
  return {.slot = slot,
          .id = id,
          .key_id = caller.key_id,
          .model = model,
          .price = card,
          .reserved_pico = needed};
}

void Accounts::write_entry(int64_t id, int64_t time, const std::string& key,
                           const std::string& model, const TokenUse& use, int64_t charge,
                           std::string_view status) {
  Transaction transaction(db_);
  db_.prepare("INSERT OR IGNORE INTO ledger VALUES(?,?,?,?,?,?,?,?,?)")
      .bind(0, id)
      .bind(1, time)
      .bind(2, key)
      .bind(3, model)
      .bind(4, use.hit)
      .bind(5, use.miss)
      .bind(6, use.output)
      .bind(7, charge)
      .bind(8, status)
      .run();
  // Written before the process was killed, between the commit and the freeing of its slot.
  if (db_.num_changes() == 0) return;
  db_.prepare("UPDATE keys SET balance_pico=balance_pico-?1, spent_pico=spent_pico+?1, "
              "last_used=?2 WHERE id=?3")
      .bind(0, charge)
      .bind(1, time)
      .bind(2, key)
      .run();
  transaction.commit();
  if (max_entries_ > 0 && ++num_new_entries_ > max_entries_ / 10) forget_oldest();
}

void Accounts::forget_oldest() {
  num_new_entries_ = 0;
  db_.prepare("DELETE FROM ledger WHERE time < "
              "(SELECT time FROM ledger ORDER BY time DESC LIMIT 1 OFFSET ?)")
      .bind(0, max_entries_)
      .run();
}

void Accounts::settle(const Meter& meter, std::string_view status) {
  const TokenUse use = meter.slot->use();
  write_entry(meter.id, unix_now(), meter.key_id, meter.model, use,
              charge_pico(use, meter.price), status);
  journal_->give_back(meter.slot);
  Live& live = live_[meter.key_id];
  live.reserved_pico -= meter.reserved_pico;
  --live.num_running;
  --num_in_flight_;
}

// ---- Reports

std::vector<UsageBucket> Accounts::usage(const std::string& key, int64_t from, int64_t to,
                                         int64_t step) {
  Statement rows = db_.prepare(
      "SELECT time/?1*?1, count(*), sum(hit), sum(miss), sum(output), sum(charge_pico) FROM ledger "
      "WHERE time>=?2 AND time<?3 AND (?4='' OR key=?4) GROUP BY 1 ORDER BY 1");
  rows.bind(0, step).bind(1, from).bind(2, to).bind(3, key);
  std::vector<UsageBucket> buckets;
  while (rows.step()) {
    buckets.push_back({.start = rows.integer(0),
                       .num_requests = rows.integer(1),
                       .use = {rows.integer(2), rows.integer(3), rows.integer(4)},
                       .charge_pico = rows.integer(5)});
  }
  return buckets;
}

std::vector<LedgerEntry> Accounts::ledger(const std::string& key, int64_t limit) {
  Statement rows = db_.prepare(
      "SELECT time,key,model,status,hit,miss,output,charge_pico FROM ledger "
      "WHERE ?1='' OR key=?1 ORDER BY time DESC, id LIMIT ?2");
  rows.bind(0, key).bind(1, limit);
  std::vector<LedgerEntry> entries;
  while (rows.step()) {
    entries.push_back({.time = rows.integer(0),
                       .key_id = rows.text(1),
                       .model = rows.text(2),
                       .status = rows.text(3),
                       .use = {rows.integer(4), rows.integer(5), rows.integer(6)},
                       .charge_pico = rows.integer(7)});
  }
  return entries;
}

}  // namespace fathom::serve
