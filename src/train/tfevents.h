// TensorBoard event files by hand: TFRecord framing (length, masked CRC-32C of the length, data,
// masked CRC-32C of the data) around the few fields of tensorflow.Event that scalars need. Checked
// against the tensorboard package; docs/formats/tfevents.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom {

uint32_t crc32c(std::string_view bytes);
// (rotate right by 15) + 0xa282ead8, as TFRecord stores it.
uint32_t masked_crc32c(std::string_view bytes);
std::string tfrecord(std::string_view data);

// The record that begins every event file.
std::string tfevents_header(double wall_time);
std::string tfevents_scalars(double wall_time, int64_t step,
                             const std::vector<std::pair<std::string_view, double>>& scalars);

}  // namespace fathom
