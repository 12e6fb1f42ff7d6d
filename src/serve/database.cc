#include "serve/database.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include "core/error.h"

namespace fathom::serve {
namespace {

[[noreturn]] void refuse(sqlite3* db, const char* what) {
  const char* file = db == nullptr ? nullptr : sqlite3_db_filename(db, "main");
  if (file != nullptr && sqlite3_errcode(db) == SQLITE_NOTADB)
    throw_bad_input({file, "", "something else", "an SQLite database, or no file yet", ""});
  fail(ErrorKind::kIo, "{}: {}: {}", file == nullptr || *file == 0 ? "database" : file, what,
       db == nullptr ? "out of memory" : sqlite3_errmsg(db));
}

}  // namespace

Statement::Statement(sqlite3* db, std::string_view sql) : db_(db) {
  if (sqlite3_prepare_v2(db, sql.data(), static_cast<int>(sql.size()), &stmt_, nullptr) !=
      SQLITE_OK)
    refuse(db, "statement");
}

Statement::~Statement() { sqlite3_finalize(stmt_); }

Statement& Statement::bind(int index, int64_t value) {
  if (sqlite3_bind_int64(stmt_, index + 1, value) != SQLITE_OK) refuse(db_, "bind");
  return *this;
}

Statement& Statement::bind(int index, std::string_view text) {
  if (sqlite3_bind_text64(stmt_, index + 1, text.data() == nullptr ? "" : text.data(), text.size(),
                          SQLITE_TRANSIENT, SQLITE_UTF8) != SQLITE_OK)
    refuse(db_, "bind");
  return *this;
}

Statement& Statement::bind(int index, std::optional<int64_t> value) {
  if (value) return bind(index, *value);
  if (sqlite3_bind_null(stmt_, index + 1) != SQLITE_OK) refuse(db_, "bind");
  return *this;
}

bool Statement::step() {
  const int result = sqlite3_step(stmt_);
  if (result == SQLITE_ROW) return true;
  if (result != SQLITE_DONE) refuse(db_, "step");
  return false;
}

void Statement::run() {
  FATHOM_CHECK(!step(), "this statement returns rows");
}

Statement& Statement::reset() {
  sqlite3_reset(stmt_);
  return *this;
}

int64_t Statement::integer(int column) const { return sqlite3_column_int64(stmt_, column); }

std::optional<int64_t> Statement::optional_integer(int column) const {
  if (sqlite3_column_type(stmt_, column) == SQLITE_NULL) return std::nullopt;
  return integer(column);
}

std::string Statement::text(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(stmt_, column));
  const auto size = static_cast<size_t>(sqlite3_column_bytes(stmt_, column));
  return data == nullptr ? std::string() : std::string(data, size);
}

Database::Database(const std::string& path) : path_(path) {
  // Hashes of keys and whole conversations lie in it.
  const mode_t mask = umask(0077);
  const int result = sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                                     nullptr);
  umask(mask);
  if (result != SQLITE_OK) {
    const std::string reason = db_ == nullptr ? "out of memory" : sqlite3_errmsg(db_);
    sqlite3_close(db_);
    fail(ErrorKind::kIo, "{}: {}", path, reason);
  }
  sqlite3_busy_timeout(db_, 10'000);
}

void Database::write_ahead() {
  execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;");
}

Database::~Database() { sqlite3_close(db_); }

void Database::execute(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) refuse(db_, "execute");
}

int64_t Database::num_changes() const { return sqlite3_changes64(db_); }

Transaction::~Transaction() {
  if (!open_) return;
  try {
    db_.execute("ROLLBACK");
  } catch (const Error&) {
    // The failure that brought us here says more.
  }
}

}  // namespace fathom::serve
