#include "ckpt/folder_transaction.h"

#include "core/error.h"

namespace fathom {
namespace {

// A path without trailing slashes: "run/model/" names the same folder as "run/model".
std::string trimmed(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

FolderTransaction::FolderTransaction(FileSystem& files, std::string target)
    : files_(files), target_(trimmed(std::move(target))), temporary_(target_ + ".tmp-save") {
  const FileInfo found = files_.info(target_);
  if (found.exists && !found.is_directory) {
    throw_bad_input({target_, "", "a file", "a folder or nothing", ""});
  }
  files_.remove_all(temporary_);  // of a process that died
  files_.make_directories(temporary_);
}

FolderTransaction::~FolderTransaction() {
  if (committed_) return;
  try {
    files_.remove_all(temporary_);
  } catch (const Error&) {
    // The next transaction on this target tries again.
  }
}

void FolderTransaction::write_file(const std::string& name, std::string_view contents) {
  auto file = files_.create(join_path(temporary_, name));
  file->append(contents);
  file->sync();
  file->close();
}

void FolderTransaction::commit() {
  FATHOM_CHECK(!committed_, "{} is committed already", target_);
  files_.sync_directory(temporary_);
  const std::string parent = parent_path(target_);
  if (!files_.info(target_).exists) {
    files_.rename(temporary_, target_);
    committed_ = true;
    files_.sync_directory(parent);
    return;
  }
  if (!files_.exchange(temporary_, target_)) {
    // Two renames on a file system that cannot exchange: for an instant the target is absent, and
    // the old folder lies beside it under a name that says so.
    const std::string old = target_ + ".old";
    files_.remove_all(old);
    files_.rename(target_, old);
    try {
      files_.rename(temporary_, target_);
    } catch (...) {
      files_.rename(old, target_);
      throw;
    }
    files_.rename(old, temporary_);
  }
  committed_ = true;
  files_.sync_directory(parent);
  try {
    files_.remove_all(temporary_);  // it holds what was there before
  } catch (const Error&) {
    // The new folder is in place and safe; the next transaction removes this one.
  }
}

}  // namespace fathom
