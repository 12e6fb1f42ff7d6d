#include "infer/prefix_store.h"

#include <array>
#include <cstring>

#include "core/error.h"

namespace fathom {
namespace {

constexpr int64_t kMaxWaitingBytes = int64_t{256} << 20;
constexpr std::string_view kSuffix = ".unit";
constexpr std::array<char, 8> kMagic = {'F', 'A', 'T', 'H', 'P', 'F', 'X', '1'};

// Little-endian, as every processor that Fathom runs on.
struct Header {
  std::array<char, 8> magic;
  UnitKey key, parent;
  int64_t num_tokens, page_bytes;
  UnitKey hash;  // of tokens and page
};
static_assert(sizeof(Header) == 72);

std::string file_name(const UnitKey& key) { return to_hex(key) + std::string(kSuffix); }

UnitKey hash_contents(std::string_view tokens_and_page) {
  return hash_unit(tokens_and_page.data(), tokens_and_page.size(), 5);
}

}  // namespace

PrefixStore::PrefixStore(FileSystem& files, std::string folder, int64_t max_bytes)
    : files_(files), folder_(std::move(folder)), max_bytes_(max_bytes) {
  files_.make_directories(folder_);
  for (const std::string& name : files_.list(folder_)) {
    if (name.size() == 32 + kSuffix.size() && name.ends_with(kSuffix)) {
      add_file(name, files_.info(join_path(folder_, name)).bytes);
    } else if (name.find(kSuffix) != std::string::npos) {
      files_.remove_all(join_path(folder_, name));  // of a write that was interrupted
    }
  }
  writer_ = std::thread([this] { work(); });
}

PrefixStore::~PrefixStore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_there_.notify_all();
  writer_.join();
}

bool PrefixStore::contains(const UnitKey& key) {
  const std::lock_guard lock(mutex_);
  return take_up(file_name(key));
}

bool PrefixStore::take_up(const std::string& name) {
  if (known_.contains(name)) return true;
  FileInfo info;
  try {
    info = files_.info(join_path(folder_, name));
  } catch (const Error&) {
    // A folder that cannot be asked has nothing.
  }
  if (info.exists) add_file(name, info.bytes);
  return info.exists;
}

bool PrefixStore::read(const UnitKey& key, const UnitKey& parent, std::span<const int32_t> tokens,
                       std::span<std::byte> page) {
  const std::string name = file_name(key), path = join_path(folder_, name);
  bool good = false, gone = false;
  try {
    gone = !files_.info(path).exists;  // another process needed the room
    const std::string contents = gone ? "" : files_.read_all(path);
    Header header;
    if (contents.size() == sizeof(Header) + tokens.size_bytes() + page.size()) {
      std::memcpy(&header, contents.data(), sizeof(Header));
      const std::string_view body = std::string_view(contents).substr(sizeof(Header));
      good = header.magic == kMagic && header.key == key && header.parent == parent &&
             header.num_tokens == static_cast<int64_t>(tokens.size()) &&
             header.page_bytes == static_cast<int64_t>(page.size()) &&
             std::memcmp(body.data(), tokens.data(), tokens.size_bytes()) == 0 &&
             hash_contents(body) == header.hash;
      if (good) std::memcpy(page.data(), body.data() + tokens.size_bytes(), page.size());
    }
  } catch (const Error&) {
    // A file that cannot be read is no hit.
  }
  const std::lock_guard lock(mutex_);
  if (good) {
    ++stats_.num_read;
    const auto found = known_.find(name);
    if (found != known_.end()) ages_.splice(ages_.end(), ages_, found->second.age);
  } else {
    if (!gone) ++stats_.num_damaged;
    remove_file(name);
  }
  return good;
}

void PrefixStore::write(const UnitKey& key, const UnitKey& parent, std::span<const int32_t> tokens,
                        std::span<const std::byte> page) {
  Waiting unit;
  unit.name = file_name(key);
  {
    const std::lock_guard lock(mutex_);
    if (known_.contains(unit.name)) return;
    const auto bytes = static_cast<int64_t>(sizeof(Header) + tokens.size_bytes() + page.size());
    if (waiting_bytes_ + bytes > kMaxWaitingBytes || bytes > max_bytes_) {
      ++stats_.num_dropped;
      return;
    }
    waiting_bytes_ += bytes;
  }
  unit.contents.resize(sizeof(Header));
  unit.contents.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  unit.contents.append(reinterpret_cast<const char*>(page.data()), page.size());
  const Header header{kMagic,
                      key,
                      parent,
                      static_cast<int64_t>(tokens.size()),
                      static_cast<int64_t>(page.size()),
                      hash_contents(std::string_view(unit.contents).substr(sizeof(Header)))};
  std::memcpy(unit.contents.data(), &header, sizeof(Header));
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(unit));
  work_there_.notify_one();
}

void PrefixStore::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_there_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    const Waiting unit = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    const auto bytes = static_cast<int64_t>(unit.contents.size());
    const bool known = take_up(unit.name);
    lock.unlock();
    std::string error;
    try {
      if (!known) write_file_atomically(files_, join_path(folder_, unit.name), unit.contents);
    } catch (const Error& e) {
      error = e.what();
    }
    lock.lock();
    waiting_bytes_ -= bytes;
    if (!error.empty()) {
      stats_.last_error = error;
      ++stats_.num_dropped;
    } else if (!known) {
      ++stats_.num_written;
      add_file(unit.name, bytes);
      while (stats_.num_bytes > max_bytes_ && !ages_.empty()) {
        ++stats_.num_removed;
        remove_file(std::string(ages_.front()));
      }
    }
    writing_ = false;
    if (waiting_.empty()) idle_.notify_all();
  }
}

void PrefixStore::flush() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [&] { return waiting_.empty() && !writing_; });
}

void PrefixStore::add_file(const std::string& name, int64_t num_bytes) {
  known_[name] = {num_bytes, ages_.insert(ages_.end(), name)};
  ++stats_.num_files;
  stats_.num_bytes += num_bytes;
}

void PrefixStore::remove_file(const std::string& name) {
  const auto found = known_.find(name);
  if (found == known_.end()) return;
  stats_.num_bytes -= found->second.num_bytes;
  --stats_.num_files;
  ages_.erase(found->second.age);
  known_.erase(found);
  try {
    files_.remove_all(join_path(folder_, name));
  } catch (const Error& e) {
    stats_.last_error = e.what();
  }
}

PrefixStore::Stats PrefixStore::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace fathom
