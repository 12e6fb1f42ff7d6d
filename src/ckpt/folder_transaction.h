// A folder that appears as a whole or not at all. Files are written and synced below path(), which
// lies beside the target; commit() syncs the folder and puts it in the target's place in one step
// (an exchange of two names where the target exists). Without commit the target stays untouched and
// the temporary folder is removed; after a lost process the next transaction on the same target
// removes it.
#pragma once

#include <string>

#include "core/file.h"

namespace fathom {

class FolderTransaction {
 public:
  FolderTransaction(FileSystem& files, std::string target);
  ~FolderTransaction();
  FolderTransaction(const FolderTransaction&) = delete;
  FolderTransaction& operator=(const FolderTransaction&) = delete;

  const std::string& path() const { return temporary_; }
  // Writes and syncs one file of the folder.
  void write_file(const std::string& name, std::string_view contents);
  void commit();

 private:
  FileSystem& files_;
  std::string target_;
  std::string temporary_;
  bool committed_ = false;
};

}  // namespace fathom
