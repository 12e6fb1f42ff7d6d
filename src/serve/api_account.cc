// Keys, balances, usage, and the page's conversations. On the worker.
#include <chrono>

#include "core/json.h"
#include "serve/api_error.h"
#include "serve/field_reader.h"
#include "serve/service.h"

namespace fathom::serve {
namespace {

constexpr int64_t kMaxConversations = 1000, kMaxConversationBytes = 1 << 20;

Json optional_json(const std::optional<int64_t>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json key_json(const KeyRow& row) {
  return {{"id", row.id},
          {"name", row.name},
          {"prefix", row.prefix},
          {"role", row.is_admin ? "admin" : "user"},
          {"created", row.created},
          {"revoked", optional_json(row.revoked)},
          {"last_used", optional_json(row.last_used)},
          {"balance_micro", row.balance_pico ? Json(*row.balance_pico / kPicoPerMicro) : Json()},
          {"spent_micro", row.spent_pico / kPicoPerMicro},
          {"limits",
           {{"requests_per_minute", optional_json(row.limits.requests_per_minute)},
            {"concurrency", optional_json(row.limits.concurrency)},
            {"spend_micro", optional_json(row.limits.spend_micro)}}}};
}

int64_t integer_parameter(const HttpRequest& http, std::string_view name, int64_t fallback,
                          int64_t lowest, int64_t highest) {
  const std::string text = http.parameter(name);
  if (text.empty()) return fallback;
  int64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || text.size() > 18)
      throw_invalid(std::string(name), "expected a whole number");
    value = value * 10 + (c - '0');
  }
  if (value < lowest || value > highest)
    throw_out_of_range(std::string(name), text, fmt::format("{} to {}", lowest, highest));
  return value;
}

std::string usage_json(Accounts& accounts, const HttpRequest& http, const std::string& key) {
  const std::string step = http.parameter("step").empty() ? "day" : http.parameter("step");
  if (step != "day" && step != "hour") throw_invalid("step", "expected hour or day");
  constexpr int64_t kFarthest = int64_t{1} << 40;
  const int64_t from = integer_parameter(http, "from", 0, 0, kFarthest);
  const int64_t to = integer_parameter(http, "to", kFarthest, 0, kFarthest);
  Json series = Json::array();
  for (const UsageBucket& bucket :
       accounts.usage(key, from, to, step == "day" ? 86400 : 3600)) {
    series.push_back({{"start", bucket.start},
                      {"requests", bucket.num_requests},
                      {"prompt_cache_hit_tokens", bucket.use.hit},
                      {"prompt_cache_miss_tokens", bucket.use.miss},
                      {"completion_tokens", bucket.use.output},
                      {"cost_micro", bucket.charge_pico / kPicoPerMicro}});
  }
  return Json{{"step", step}, {"series", series}}.dump();
}

std::string conversation_id(const HttpRequest& http) {
  bool is_beta = false;
  const std::string path = without_version(http.path, is_beta);
  const std::string id = path.substr(std::string_view("/api/conversations/").size());
  bool good = id.size() <= 64;
  for (const char c : id) {
    good = good && (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_');
  }
  if (!good) throw_invalid("id", "expected 1 to 64 letters, digits, '-' and '_'");
  return id;
}

int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Nothing: there is none. `data` is stored as the JSON text that came.
std::optional<std::string> read_conversation(Database& db, const std::string& key,
                                             const std::string& id) {
  Statement row =
      db.prepare("SELECT title,version,updated,data FROM conversations WHERE key=? AND id=?");
  if (!row.bind(0, key).bind(1, id).step()) return std::nullopt;
  return fmt::format(R"({{"id":{},"title":{},"version":{},"updated":{},"data":{}}})",
                     json_string(id), json_string(row.text(0)), row.integer(1), row.integer(2),
                     row.text(3));
}

}  // namespace

void Service::me(const HttpRequest&, const Caller& caller,
                 const std::shared_ptr<HttpReply>& reply) {
  const KeyRow row = core_.accounts().key(caller.key_id);
  send(reply,
       HttpResponse::json(Json{
           {"auth", core_.config().needs_keys ? "key" : "none"},
           {"key",
            {{"id", row.id},
             {"name", row.name},
             {"prefix", row.prefix},
             {"role", row.is_admin ? "admin" : "user"}}},
           {"balance_micro", row.balance_pico ? Json(*row.balance_pico / kPicoPerMicro) : Json()},
           {"currency", core_.config().currency},
           {"version", core_.config().version}}
                              .dump()));
}

void Service::balance(const HttpRequest&, const Caller& caller,
                      const std::shared_ptr<HttpReply>& reply) {
  const KeyRow row = core_.accounts().key(caller.key_id);
  Json infos = Json::array();
  if (row.balance_pico) {
    // Rounded down to cents: what is there can be spent.
    const int64_t cents = std::max<int64_t>(0, *row.balance_pico) / (kPicoPerMicro * 10'000);
    const std::string amount = fmt::format("{}.{:02}", cents / 100, cents % 100);
    infos.push_back({{"currency", core_.config().currency},
                     {"total_balance", amount},
                     {"granted_balance", "0.00"},
                     {"topped_up_balance", amount}});
  }
  const bool available = !row.balance_pico || *row.balance_pico > 0;
  send(reply, HttpResponse::json(
                  Json{{"is_available", available}, {"balance_infos", infos}}.dump()));
}

void Service::own_usage(const HttpRequest& http, const Caller& caller,
                        const std::shared_ptr<HttpReply>& reply) {
  send(reply, HttpResponse::json(usage_json(core_.accounts(), http, caller.key_id)));
}

// ---- The console

void Service::list_keys(const HttpRequest&, const Caller&,
                        const std::shared_ptr<HttpReply>& reply) {
  Json list = Json::array();
  for (const KeyRow& row : core_.accounts().keys()) list.push_back(key_json(row));
  send(reply, HttpResponse::json(Json{{"keys", list}}.dump()));
}

void Service::create_key(const HttpRequest& http, const Caller&,
                         const std::shared_ptr<HttpReply>& reply) {
  const Json body = parse_body(http.body);
  FieldReader fields(body, "");
  constexpr int64_t kMost = 1'000'000'000'000;
  NewKey key;
  key.name = fields.required_text("name");
  const std::string role = fields.text("role").value_or("user");
  if (role != "user" && role != "admin") throw_invalid("role", "expected user or admin");
  key.is_admin = role == "admin";
  key.balance_micro = fields.integer("balance_micro", 0, kMost);
  if (const Json* limits = fields.object("limits")) {
    FieldReader inner(*limits, "limits");
    key.limits.requests_per_minute = inner.integer("requests_per_minute", 1, 1 << 20);
    key.limits.concurrency = inner.integer("concurrency", 1, 1 << 20);
    key.limits.spend_micro = inner.integer("spend_micro", 0, kMost);
    inner.finish();
  }
  fields.finish();
  if (!core_.config().needs_keys)
    throw ApiError(409, "conflict", "this server asks for no keys: start it with --db FILE");
  std::string id;
  const std::string secret = core_.accounts().create_key(key, &id);
  Json json{{"key", secret}};
  json.update(key_json(core_.accounts().key(id)));
  HttpResponse response = HttpResponse::json(json.dump());
  response.headers.emplace_back("Cache-Control", "no-store");
  send(reply, std::move(response));
}

void Service::change_key(const HttpRequest& http, const Caller&,
                         const std::shared_ptr<HttpReply>& reply) {
  bool is_beta = false;
  const std::string path = without_version(http.path, is_beta);
  const std::string rest = path.substr(std::string_view("/api/console/keys/").size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  const std::string id = rest.substr(0, slash), action = rest.substr(slash);
  const Json body = http.body.empty() ? Json::object() : parse_body(http.body);
  FieldReader fields(body, "");
  if (action == "/revoke") {
    fields.finish();
    core_.accounts().revoke(id);
  } else if (action == "/top-up") {
    const auto amount = fields.integer("amount_micro", 1, INT64_MAX);
    if (!amount) throw_invalid("amount_micro", "missing, expected an integer");
    fields.finish();
    core_.accounts().top_up(id, *amount);
  } else {
    throw_not_found("no such path");
  }
  send(reply, HttpResponse::json(key_json(core_.accounts().key(id)).dump()));
}

void Service::usage(const HttpRequest& http, const Caller&,
                    const std::shared_ptr<HttpReply>& reply) {
  send(reply, HttpResponse::json(usage_json(core_.accounts(), http, http.parameter("key"))));
}

void Service::ledger(const HttpRequest& http, const Caller&,
                     const std::shared_ptr<HttpReply>& reply) {
  const int64_t limit = integer_parameter(http, "limit", 100, 1, 10000);
  Json list = Json::array();
  for (const LedgerEntry& entry : core_.accounts().ledger(http.parameter("key"), limit)) {
    list.push_back({{"time", entry.time},
                    {"key", entry.key_id},
                    {"model", entry.model},
                    {"prompt_cache_hit_tokens", entry.use.hit},
                    {"prompt_cache_miss_tokens", entry.use.miss},
                    {"completion_tokens", entry.use.output},
                    {"cost_micro", entry.charge_pico / kPicoPerMicro},
                    {"status", entry.status}});
  }
  send(reply, HttpResponse::json(Json{{"entries", list}}.dump()));
}

// ---- Conversations

void Service::list_conversations(const HttpRequest&, const Caller& caller,
                                 const std::shared_ptr<HttpReply>& reply) {
  Statement rows = core_.accounts().database().prepare(
      "SELECT id,title,version,updated,length(data) FROM conversations WHERE key=? "
      "ORDER BY updated DESC, id");
  rows.bind(0, caller.key_id);
  Json list = Json::array();
  while (rows.step()) {
    list.push_back({{"id", rows.text(0)},
                    {"title", rows.text(1)},
                    {"version", rows.integer(2)},
                    {"updated", rows.integer(3)},
                    {"bytes", rows.integer(4)}});
  }
  send(reply, HttpResponse::json(Json{{"conversations", list}}.dump()));
}

void Service::get_conversation(const HttpRequest& http, const Caller& caller,
                               const std::shared_ptr<HttpReply>& reply) {
  const auto found =
      read_conversation(core_.accounts().database(), caller.key_id, conversation_id(http));
  if (!found) throw_not_found("no conversation with this id");
  send(reply, HttpResponse::json(*found));
}

void Service::put_conversation(const HttpRequest& http, const Caller& caller,
                               const std::shared_ptr<HttpReply>& reply) {
  const std::string id = conversation_id(http);
  const Json body = parse_body(http.body);
  FieldReader fields(body, "");
  const std::string title = fields.text("title", 1000).value_or("");
  const auto version = fields.integer("version", 0, INT64_MAX - 1);
  if (!version) throw_invalid("version", "missing, expected the version last seen, or 0");
  const Json* data = fields.object("data");
  if (data == nullptr) throw_invalid("data", "missing, expected an object");
  fields.finish();
  const std::string text = data->dump();
  if (static_cast<int64_t>(text.size()) > kMaxConversationBytes)
    throw ApiError(413, "request_too_large",
                   fmt::format("data: found {} bytes, expected at most {}", text.size(),
                               kMaxConversationBytes),
                   "data");
  Database& db = core_.accounts().database();
  Transaction transaction(db);
  Statement stored = db.prepare("SELECT version FROM conversations WHERE key=? AND id=?");
  const bool exists = stored.bind(0, caller.key_id).bind(1, id).step();
  const int64_t current = exists ? stored.integer(0) : 0;
  stored.reset();
  if (current != *version) {
    const ApiError error(409, "conflict",
                         fmt::format("version: found {}, expected {}", *version, current),
                         "version");
    std::string answer = error.body();
    answer.pop_back();
    answer += ",\"current\":" +
              read_conversation(db, caller.key_id, id).value_or("null") + "}";
    return send(reply, HttpResponse::json(std::move(answer), 409));
  }
  if (!exists) {
    Statement count = db.prepare("SELECT count(*) FROM conversations WHERE key=?");
    count.bind(0, caller.key_id).step();
    const int64_t found = count.integer(0);
    if (found >= kMaxConversations)
      throw ApiError(409, "too_many_conversations",
                     fmt::format("{} conversations are stored, no more are kept: delete some",
                                 found));
  }
  const int64_t now = unix_ms();
  db.prepare("INSERT OR REPLACE INTO conversations(key,id,title,version,updated,data) "
             "VALUES(?,?,?,?,?,?)")
      .bind(0, caller.key_id)
      .bind(1, id)
      .bind(2, title)
      .bind(3, current + 1)
      .bind(4, now)
      .bind(5, text)
      .run();
  transaction.commit();
  send(reply,
       HttpResponse::json(Json{{"id", id}, {"version", current + 1}, {"updated", now}}.dump()));
}

void Service::delete_conversation(const HttpRequest& http, const Caller& caller,
                                  const std::shared_ptr<HttpReply>& reply) {
  core_.accounts()
      .database()
      .prepare("DELETE FROM conversations WHERE key=? AND id=?")
      .bind(0, caller.key_id)
      .bind(1, conversation_id(http))
      .run();
  send(reply, HttpResponse::json(R"({"deleted":true})"));
}

}  // namespace fathom::serve
