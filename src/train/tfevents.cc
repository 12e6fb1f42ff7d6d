#include "train/tfevents.h"

#include <array>
#include <bit>

namespace fathom {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kTable = make_table();

template <typename Word>
void append_little_endian(Word word, std::string& out) {
  for (size_t i = 0; i < sizeof(Word); ++i) out += static_cast<char>(word >> (8 * i) & 0xFF);
}

void append_varint(uint64_t value, std::string& out) {
  while (value >= 0x80) {
    out += static_cast<char>((value & 0x7F) | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

// Protocol-buffer keys: field number and wire type (0 varint, 1 64 bits, 2 bytes, 5 32 bits).
void append_key(int field, int wire_type, std::string& out) {
  append_varint(static_cast<uint64_t>(field << 3 | wire_type), out);
}
void append_bytes(int field, std::string_view bytes, std::string& out) {
  append_key(field, 2, out);
  append_varint(bytes.size(), out);
  out += bytes;
}

// Event: 1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary (Summary).
std::string event_begin(double wall_time) {
  std::string event;
  append_key(1, 1, event);
  append_little_endian(std::bit_cast<uint64_t>(wall_time), event);
  return event;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : bytes)
    crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

std::string tfrecord(std::string_view data) {
  std::string record;
  append_little_endian(static_cast<uint64_t>(data.size()), record);
  append_little_endian(masked_crc32c(record), record);
  record += data;
  append_little_endian(masked_crc32c(data), record);
  return record;
}

std::string tfevents_header(double wall_time) {
  std::string event = event_begin(wall_time);
  append_bytes(3, "brain.Event:2", event);
  return tfrecord(event);
}

std::string tfevents_scalars(double wall_time, int64_t step,
                             const std::vector<std::pair<std::string_view, double>>& scalars) {
  std::string event = event_begin(wall_time);
  append_key(2, 0, event);
  append_varint(static_cast<uint64_t>(step), event);
  std::string summary;
  for (const auto& [tag, value] : scalars) {
    // Summary.Value: 1 tag (string), 2 simple_value (float).
    std::string entry;
    append_bytes(1, tag, entry);
    append_key(2, 5, entry);
    append_little_endian(std::bit_cast<uint32_t>(static_cast<float>(value)), entry);
    append_bytes(1, entry, summary);
  }
  append_bytes(5, summary, event);
  return tfrecord(event);
}

}  // namespace fathom
