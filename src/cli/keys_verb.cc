// `fathom keys`: the keys of a service's database, beside the service or without it.
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>

#include "cli/verbs.h"
#include "core/file.h"
#include "core/json.h"
#include "serve/accounts.h"
#include "serve/api_error.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string database, name, id;
  std::optional<double> balance, spend;
  std::optional<int64_t> requests_per_minute, concurrency;
  double amount = 0;
  bool admin = false, json = false;
};

std::optional<int64_t> micro(const std::optional<double>& dollars) {
  if (!dollars) return std::nullopt;
  return std::llround(*dollars * 1e6);
}

std::string money(int64_t pico) {
  return fmt::format("{:.6f}", static_cast<double>(pico / serve::kPicoPerMicro) * 1e-6);
}

Json row_json(const serve::KeyRow& row) {
  return {{"id", row.id},
          {"name", row.name},
          {"prefix", row.prefix},
          {"role", row.is_admin ? "admin" : "user"},
          {"created", row.created},
          {"revoked", row.revoked ? Json(*row.revoked) : Json()},
          {"balance_micro",
           row.balance_pico ? Json(*row.balance_pico / serve::kPicoPerMicro) : Json()},
          {"spent_micro", row.spent_pico / serve::kPicoPerMicro}};
}

// The service's refusals are this program's errors. A mistyped name is not the name of a new file.
template <typename Work>
int with_accounts(const Options& options, Work work, bool may_create = false) {
  if (!may_create && !local_file_system().info(options.database).exists)
    throw_bad_input({options.database, "", "no file", "a service's database",
                     "`fathom keys create` and `fathom serve` make one"});
  try {
    serve::Accounts accounts(options.database, /*is_server=*/false);
    work(accounts);
  } catch (const serve::ApiError& error) {
    throw Error(ErrorKind::kBadInput, error.what());
  }
  return kExitDone;
}

int create(const Options& options) {
  return with_accounts(
      options,
      [&](serve::Accounts& accounts) {
        std::string id;
        const std::string key =
            accounts.create_key({.name = options.name,
                                 .is_admin = options.admin,
                                 .balance_micro = micro(options.balance),
                                 .limits = {.requests_per_minute = options.requests_per_minute,
                                            .concurrency = options.concurrency,
                                            .spend_micro = micro(options.spend)}},
                                &id);
        if (options.json) {
          Json json{{"key", key}};
          json.update(row_json(accounts.key(id)));
          fmt::print("{}\n", json.dump());
        } else {
          fmt::print(stderr, "{}: shown this once, and stored nowhere\n", id);
          fmt::print("{}\n", key);
        }
      },
      /*may_create=*/true);
}

int list(const Options& options) {
  return with_accounts(options, [&](serve::Accounts& accounts) {
    const auto rows = accounts.keys();
    if (options.json) {
      Json json = Json::array();
      for (const auto& row : rows) json.push_back(row_json(row));
      fmt::print("{}\n", json.dump());
      return;
    }
    fmt::print("{:20} {:20} {:10} {:6} {:>16} {:>14}\n", "id", "name", "key", "role", "balance",
               "spent");
    for (const auto& row : rows) {
      fmt::print("{:20} {:20} {:10} {:6} {:>16} {:>14}{}\n", row.id, row.name, row.prefix + "…",
                 row.is_admin ? "admin" : "user",
                 row.balance_pico ? money(*row.balance_pico) : "unlimited", money(row.spent_pico),
                 row.revoked ? "  revoked" : "");
    }
  });
}

Verb verb(const char* name, const char* help, int (*run)(const Options&),
          void (*declare)(CommandLine&, Options&)) {
  auto options = std::make_shared<Options>();
  return {.name = name,
          .help = help,
          .declare =
              [options, declare](CommandLine& line) {
                line.add("--db", options->database, "the service's file").required();
                declare(line, *options);
              },
          .run = [options, run] { return run(*options); }};
}

void declare_id(CommandLine& line, Options& options) {
  line.add("id", options.id, "of the key, as `keys list` shows it").required();
}

}  // namespace

Verb keys_create_verb() {
  return verb("keys create", "a new key, shown once", create, [](CommandLine& line, Options& o) {
    line.add("--name", o.name, "whose it is").required();
    line.add("--admin", o.admin, "may use the console");
    line.add("--balance", o.balance, "to spend, in the service's currency; none given: unlimited")
        .at_least(0);
    line.add("--requests-per-minute", o.requests_per_minute, "limit").at_least(1);
    line.add("--concurrency", o.concurrency, "requests running at once").at_least(1);
    line.add("--spend", o.spend, "that may be spent in all").at_least(0);
    line.add_json(o.json);
  });
}

Verb keys_list_verb() {
  return verb("keys list", "all keys, without their secrets", list,
              [](CommandLine& line, Options& o) { line.add_json(o.json); });
}

Verb keys_revoke_verb() {
  return verb(
      "keys revoke", "a key is no longer let in",
      [](const Options& o) {
        return with_accounts(o, [&](serve::Accounts& accounts) { accounts.revoke(o.id); });
      },
      declare_id);
}

Verb keys_top_up_verb() {
  return verb(
      "keys top-up", "adds to a key's balance",
      [](const Options& o) {
        return with_accounts(o, [&](serve::Accounts& accounts) {
          accounts.top_up(o.id, std::llround(o.amount * 1e6));
          fmt::print("{}\n", money(*accounts.key(o.id).balance_pico));
        });
      },
      [](CommandLine& line, Options& o) {
        declare_id(line, o);
        line.add("--amount", o.amount, "in the service's currency").required();
      });
}

}  // namespace fathom::cli
