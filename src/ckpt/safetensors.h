// safetensors files: a strict reader over a mapped file, and a streaming writer.
//
// A file is an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
// data_offsets}}, and the data. The reader takes nothing on trust: offsets must tile the data
// without hole or overlap and every size must be shape * dtype. docs/formats/safetensors.md says
// what is accepted.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"

namespace fathom {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t offset = 0;  // of the first byte, from the start of the file
  int64_t num_bytes() const { return shape.num_elements() * dtype_bytes(dtype); }
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;        // in file order
  std::map<std::string, std::string> metadata;  // __metadata__
};

// The header of a whole file given as bytes. Errors name `where`.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& where);

// The safetensors name of a dtype ("BF16", "F8_E4M3"); E5M6 has none and is a bug here.
std::string_view safetensors_dtype_name(DType dtype);

class SafetensorsReader {
 public:
  SafetensorsReader(FileSystem& files, std::string path);

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const SafetensorsEntry* find(std::string_view name) const;  // nullptr when absent
  const SafetensorsEntry& at(std::string_view name) const;    // an Error when absent
  int64_t file_bytes() const { return static_cast<int64_t>(file_->bytes().size()); }
  double resident_share() const;  // of the file, in memory now

  // The tensor where it lies in the mapping: never write to it. An Error when it is not aligned to
  // its element size (official writers align; read_converted reads any).
  TensorView view(const SafetensorsEntry& entry) const;
  // The raw bytes, aligned or not.
  const std::byte* bytes(const SafetensorsEntry& entry) const;
  // Copies into `destination`, contiguous and of the same shape, converting to its dtype. Piece by
  // piece, giving each piece's pages back behind it: a large tensor never is in memory twice.
  void read_converted(const SafetensorsEntry& entry, const TensorView& destination) const;
  // The same for a tensor of 64-bit integers (token ids).
  std::vector<int64_t> read_int64(const SafetensorsEntry& entry) const;
  // Gives pages of the tensor back to the system (all of it, or `num_bytes` from byte `begin` on);
  // reading them again is fine.
  void forget(const SafetensorsEntry& entry) const { forget(entry, 0, entry.num_bytes()); }
  void forget(const SafetensorsEntry& entry, int64_t begin, int64_t num_bytes) const {
    file_->forget(entry.offset + begin, num_bytes);
  }

 private:
  std::string path_;
  std::unique_ptr<MappedFile> file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, int64_t> index_;  // names live in header_
};

struct SafetensorsItem {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  // Items of a lower rank stand before others, whatever their element size: for data that wants a
  // coarser alignment than its elements'.
  int rank = 0;
  // Whether a new shard may begin with it (hf_shards.h).
  bool begins_unit = true;
};

// Writes one file as a stream: names and shapes are known first, data comes after, tensor by
// tensor. The file is not replaced atomically here: write to a temporary name or inside a
// FolderTransaction.
class SafetensorsWriter {
 public:
  // Writes the header. Items are reordered by rank and falling element size (so that each is
  // aligned), otherwise as given; write() must follow items(). The same items and data give the
  // same bytes.
  SafetensorsWriter(FileSystem& files, std::string path, std::vector<SafetensorsItem> items,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  const std::vector<SafetensorsItem>& items() const { return items_; }
  // The next item's data: contiguous, its shape; converted to the item's dtype in small pieces.
  void write(const TensorView& tensor);
  // Syncs and closes; every item must have been written.
  void finish();
  // Of the whole file.
  int64_t file_bytes() const { return file_bytes_; }

 private:
  std::string path_;
  std::vector<SafetensorsItem> items_;
  std::unique_ptr<WritableFile> file_;
  size_t next_ = 0;
  int64_t file_bytes_ = 0;
  std::vector<std::byte> buffer_;
};

// Writes one small file as a whole, atomically: results of `logits` and `grads`. Views keep their
// dtype; names are those of the views.
void write_safetensors(FileSystem& files, const std::string& path,
                       const std::vector<TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace fathom
