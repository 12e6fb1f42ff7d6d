#include "ckpt/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "ckpt/convert.h"
#include "core/integer.h"
#include "core/json.h"
#include "core/mapped_memory.h"

namespace fathom {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is used where it lies");

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the official library's limit

struct NamedDType {
  std::string_view name;
  DType dtype;
};
constexpr std::array kDTypes = {
    NamedDType{"F64", DType::kF64},       NamedDType{"F32", DType::kF32},
    NamedDType{"F16", DType::kF16},       NamedDType{"BF16", DType::kBF16},
    NamedDType{"F8_E4M3", DType::kE4M3},  NamedDType{"F8_E5M2", DType::kE5M2},
    NamedDType{"F8_E8M0", DType::kUE8M0}, NamedDType{"I64", DType::kI64},
    NamedDType{"I32", DType::kI32},       NamedDType{"I8", DType::kI8},
    NamedDType{"U8", DType::kU8},
};

class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> file, const std::string& where)
      : file_(file), where_(where) {}

  SafetensorsHeader parse() {
    const auto file_bytes = static_cast<int64_t>(file_.size());
    if (file_bytes < 8) {
      refuse("header length", fmt::format("a file of {} bytes", file_bytes), "at least 8",
             "is the file truncated?");
    }
    uint64_t stated = 0;
    std::memcpy(&stated, file_.data(), sizeof(stated));
    if (stated > static_cast<uint64_t>(kMaxHeaderBytes)) {
      refuse("header length", fmt::format("{}", stated), fmt::format("at most {}", kMaxHeaderBytes),
             "is this a safetensors file?");
    }
    const auto header_bytes = static_cast<int64_t>(stated);
    if (header_bytes > file_bytes - 8) {
      refuse("header length", fmt::format("{}", header_bytes),
             fmt::format("at most {}, the rest of the file", file_bytes - 8),
             "is the file truncated?");
    }
    const std::string_view text(reinterpret_cast<const char*>(file_.data()) + 8,
                                static_cast<size_t>(header_bytes));
    if (text.empty() || text.front() != '{')
      refuse("header", "no object", "JSON that begins with '{'");
    data_begin_ = 8 + header_bytes;

    SafetensorsHeader header;
    const Json root = parse_json(text, where_);
    header.entries.reserve(root.size());
    for (const auto& [name, value] : root.items()) {
      if (name == "__metadata__") {
        metadata(value, header);
      } else {
        header.entries.push_back(entry(name, value));
      }
    }
    check_tiling(header.entries, file_bytes);
    return header;
  }

 private:
  void metadata(const Json& value, SafetensorsHeader& header) const {
    if (!value.is_object()) refuse("__metadata__", describe_json(value), "an object of strings");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) refuse("__metadata__." + key, describe_json(text), "a string");
      header.metadata[key] = text.get<std::string>();
    }
  }

  SafetensorsEntry entry(const std::string& name, const Json& value) const {
    if (!value.is_object())
      refuse(name, describe_json(value), "an object with dtype, shape and data_offsets");
    for (const auto& [key, ignored] : value.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        refuse(name, "the key \"" + key + "\"", "dtype, shape and data_offsets only");
      }
    }
    SafetensorsEntry entry;
    entry.name = name;
    entry.dtype = dtype(name, member(name, value, "dtype"));
    entry.shape = shape(name, member(name, value, "shape"));

    int64_t expected_bytes = dtype_bytes(entry.dtype);
    for (int i = 0; i < entry.shape.num_dims; ++i) {
      if (__builtin_mul_overflow(expected_bytes, entry.shape[i], &expected_bytes)) {
        refuse(name + ".shape", to_string(entry.shape), "a size below 2^63 bytes");
      }
    }
    const Json& offsets = member(name, value, "data_offsets");
    const std::string expected = "[begin, end] with 0 <= begin <= end";
    if (!offsets.is_array() || offsets.size() != 2)
      refuse(name + ".data_offsets", describe_json(offsets), expected);
    const int64_t begin = non_negative(name + ".data_offsets", offsets[0]);
    const int64_t end = non_negative(name + ".data_offsets", offsets[1]);
    if (begin > end) refuse(name + ".data_offsets", fmt::format("[{}, {}]", begin, end), expected);
    if (end - begin != expected_bytes) {
      refuse(name + ".data_offsets", fmt::format("{} bytes", end - begin),
             fmt::format("{} for {} {}", expected_bytes, safetensors_dtype_name(entry.dtype),
                         to_string(entry.shape)));
    }
    entry.offset = begin;  // from the start of the data until check_tiling
    return entry;
  }

  const Json& member(const std::string& name, const Json& value, const char* key) const {
    const auto found = value.find(key);
    if (found == value.end()) refuse(name + "." + key, "nothing", "the key");
    return *found;
  }

  DType dtype(const std::string& name, const Json& value) const {
    std::string names;
    for (const NamedDType& known : kDTypes) {
      if (value.is_string() && value.get_ref<const std::string&>() == known.name)
        return known.dtype;
      names += names.empty() ? "" : ", ";
      names += known.name;
    }
    refuse(name + ".dtype", describe_json(value), "one of " + names);
  }

  Shape shape(const std::string& name, const Json& value) const {
    if (!value.is_array() || value.size() > static_cast<size_t>(kMaxDims)) {
      refuse(name + ".shape",
             value.is_array() ? fmt::format("{} dimensions", value.size()) : describe_json(value),
             fmt::format("a list of at most {} sizes", kMaxDims));
    }
    Shape shape;
    for (const Json& size : value)
      shape.dim[static_cast<size_t>(shape.num_dims++)] = non_negative(name + ".shape", size);
    return shape;
  }

  int64_t non_negative(const std::string& field, const Json& value) const {
    constexpr uint64_t kLimit = uint64_t{1} << 62;
    // The parser gives every non-negative integer as unsigned.
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kLimit) {
      refuse(field, describe_json(value), "an integer from 0 to 2^62");
    }
    return value.get<int64_t>();
  }

  // Entries must cover the data from its first to its last byte. Makes offsets absolute.
  void check_tiling(std::vector<SafetensorsEntry>& entries, int64_t file_bytes) const {
    std::stable_sort(
        entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
          return a.offset != b.offset ? a.offset < b.offset : a.num_bytes() < b.num_bytes();
        });
    int64_t position = 0;
    for (SafetensorsEntry& entry : entries) {
      if (entry.offset != position) {
        refuse(entry.name + ".data_offsets", fmt::format("begin {}", entry.offset),
               fmt::format("{}", position),
               entry.offset < position ? "it overlaps the tensor before"
                                       : "there is a hole before it");
      }
      if (entry.num_bytes() > file_bytes - data_begin_ - position) {
        refuse(entry.name + ".data_offsets", fmt::format("end {}", position + entry.num_bytes()),
               fmt::format("at most {}, the end of the file", file_bytes - data_begin_),
               "is the file truncated?");
      }
      position += entry.num_bytes();
      entry.offset += data_begin_;
    }
    if (data_begin_ + position != file_bytes) {
      refuse("data",
             fmt::format("{} bytes behind the last tensor", file_bytes - data_begin_ - position),
             "none");
    }
  }

  [[noreturn]] void refuse(const std::string& field, const std::string& found,
                           const std::string& expected, const std::string& hint = "") const {
    throw_bad_input({where_, field, found, expected, hint});
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  int64_t data_begin_ = 0;
};

}  // namespace

std::string_view safetensors_dtype_name(DType dtype) {
  for (const NamedDType& known : kDTypes) {
    if (known.dtype == dtype) return known.name;
  }
  FATHOM_CHECK(false, "safetensors has no {}", dtype_name(dtype));
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& where) {
  return HeaderParser(file, where).parse();
}

SafetensorsReader::SafetensorsReader(FileSystem& files, std::string path)
    : path_(std::move(path)),
      file_(files.map(path_)),
      header_(parse_safetensors(file_->bytes(), path_)) {
  for (size_t i = 0; i < header_.entries.size(); ++i) {
    index_.emplace(header_.entries[i].name, static_cast<int64_t>(i));
  }
}

double SafetensorsReader::resident_share() const {
  return fathom::resident_share(file_->bytes().data(), file_bytes());
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[static_cast<size_t>(found->second)];
}

const SafetensorsEntry& SafetensorsReader::at(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) throw_bad_input({path_, std::string(name), "no such tensor", "it", ""});
  return *entry;
}

const std::byte* SafetensorsReader::bytes(const SafetensorsEntry& entry) const {
  return file_->bytes().data() + entry.offset;
}

TensorView SafetensorsReader::view(const SafetensorsEntry& entry) const {
  if (entry.offset % dtype_bytes(entry.dtype) != 0) {
    throw_bad_input({path_, entry.name, fmt::format("data at byte {}", entry.offset),
                     fmt::format("a multiple of {}", dtype_bytes(entry.dtype)), ""});
  }
  return TensorView(const_cast<std::byte*>(bytes(entry)), entry.dtype, entry.shape,
                    entry.name.c_str());
}

void SafetensorsReader::read_converted(const SafetensorsEntry& entry,
                                       const TensorView& destination) const {
  FATHOM_CHECK(entry.shape == destination.shape && destination.contiguous(), "'{}' {} into {}",
               entry.name, to_string(entry.shape), to_string(destination));
  if (entry.dtype != destination.dtype && !is_float_dtype(entry.dtype)) {
    throw_bad_input({path_, entry.name, std::string(safetensors_dtype_name(entry.dtype)),
                     "a floating-point type", ""});
  }
  constexpr int64_t kPieceElements = int64_t{1} << 22;
  const int64_t count = entry.shape.num_elements();
  const int64_t from_bytes = dtype_bytes(entry.dtype);
  for (int64_t begin = 0; begin < count; begin += kPieceElements) {
    const int64_t piece = std::min(kPieceElements, count - begin);
    convert_elements(
        entry.dtype, bytes(entry) + begin * from_bytes, destination.dtype,
        static_cast<std::byte*>(destination.data) + begin * dtype_bytes(destination.dtype), piece);
    forget(entry, begin * from_bytes, piece * from_bytes);
  }
  check_mapped_memory();
}

std::vector<int64_t> SafetensorsReader::read_int64(const SafetensorsEntry& entry) const {
  if (entry.dtype != DType::kI64 && entry.dtype != DType::kI32) {
    throw_bad_input(
        {path_, entry.name, std::string(safetensors_dtype_name(entry.dtype)), "I64 or I32", ""});
  }
  std::vector<int64_t> values(static_cast<size_t>(entry.shape.num_elements()));
  const std::byte* source = bytes(entry);
  for (size_t i = 0; i < values.size(); ++i) {
    if (entry.dtype == DType::kI64) {
      std::memcpy(&values[i], source + i * sizeof(int64_t), sizeof(int64_t));
    } else {
      int32_t value = 0;
      std::memcpy(&value, source + i * sizeof(value), sizeof(value));
      values[i] = value;
    }
  }
  return values;
}

}  // namespace fathom
