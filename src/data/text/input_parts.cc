#include "data/text/input_parts.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/json.h"

namespace fathom {
namespace {

// Of a file that may be cut: bytes [k * part_bytes, (k + 1) * part_bytes) of it. A line belongs to
// the stretch that holds the newline before it.
struct Stretch {
  int64_t input_idx = 0;
  int64_t begin = 0, end = 0;
  int64_t first_newline = -1;  // where it is in the file
  int64_t num_newlines = 0;
};

void count_newlines(FileSystem& files, const std::string& path, Stretch& stretch) {
  constexpr int64_t kBlockBytes = 1 << 22;
  for (int64_t at = stretch.begin; at < stretch.end;) {
    const std::string block = files.read_range(path, at, std::min(kBlockBytes, stretch.end - at));
    if (block.empty()) fail(ErrorKind::kBadInput, "{}: became shorter while it was read", path);
    const size_t first = block.find('\n');
    if (stretch.first_newline < 0 && first != std::string::npos)
      stretch.first_newline = at + static_cast<int64_t>(first);
    stretch.num_newlines += std::count(block.begin(), block.end(), '\n');
    at += std::ssize(block);
  }
}

std::vector<Stretch> find_stretches(FileSystem& files, const std::vector<InputFile>& inputs,
                                    int64_t part_bytes, const Team& team) {
  std::vector<Stretch> stretches;
  if (team.size == 1) return stretches;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t bytes = files.info(inputs[i].path).bytes;
    if (!inputs[i].is_jsonl || bytes <= part_bytes || !is_plain_file(files, inputs[i].path))
      continue;
    for (int64_t begin = 0; begin < bytes; begin += part_bytes)
      stretches.push_back(
          {static_cast<int64_t>(i), begin, std::min(begin + part_bytes, bytes), -1, 0});
  }
  Json mine = Json::array();
  for (size_t i = static_cast<size_t>(team.rank); i < stretches.size();
       i += static_cast<size_t>(team.size)) {
    Stretch& stretch = stretches[i];
    count_newlines(files, inputs[static_cast<size_t>(stretch.input_idx)].path, stretch);
    mine.push_back({i, stretch.first_newline, stretch.num_newlines});
  }
  for (const std::string& text : team.gather(mine.dump())) {
    for (const Json& row : parse_json(text, "another process")) {
      Stretch& stretch = stretches.at(row.at(0).get<size_t>());
      stretch.first_newline = row.at(1).get<int64_t>();
      stretch.num_newlines = row.at(2).get<int64_t>();
    }
  }
  return stretches;
}

}  // namespace

std::vector<InputPart> cut_inputs(FileSystem& files, const std::vector<InputFile>& inputs,
                                  int64_t part_bytes, const Team& team) {
  FATHOM_CHECK_GT(part_bytes, 0);
  const std::vector<Stretch> stretches = find_stretches(files, inputs, part_bytes, team);
  std::vector<InputPart> parts;
  ReadPosition begin;
  int64_t bytes = 0;
  const auto cut = [&](const ReadPosition& at) {
    if (begin == at) return;
    parts.push_back({begin, at, bytes});
    begin = at;
    bytes = 0;
  };
  auto stretch = stretches.begin();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto input = static_cast<int64_t>(i);
    int64_t lines = 0;
    int64_t counted = 0;  // bytes of this file in the parts so far
    for (; stretch != stretches.end() && stretch->input_idx == input; ++stretch) {
      const int64_t at = stretch->first_newline + 1;
      // A cut at the file's end is the next file's beginning.
      if (stretch->begin > 0 && stretch->first_newline >= 0 &&
          at < files.info(inputs[i].path).bytes) {
        bytes += at - counted;
        counted = at;
        cut({input, at, lines + 2});
      }
      lines += stretch->num_newlines;
    }
    bytes += files.info(inputs[i].path).bytes - counted;
    if (bytes >= part_bytes || i + 1 == inputs.size()) cut({input + 1, 0, 1});
  }
  return parts;
}

std::string parts_to_text(const std::vector<InputPart>& parts) {
  Json rows = Json::array();
  const auto position = [](const ReadPosition& at) {
    return Json::array({at.input_idx, at.offset, at.line});
  };
  for (const InputPart& part : parts)
    rows.push_back({position(part.begin), position(part.end), part.bytes});
  return rows.dump();
}

std::vector<InputPart> parts_from_text(const std::string& text, const std::string& where) {
  std::vector<InputPart> parts;
  const auto position = [](const Json& row) {
    return ReadPosition{row.at(0).get<int64_t>(), row.at(1).get<int64_t>(),
                        row.at(2).get<int64_t>()};
  };
  for (const Json& row : parse_json(text, where))
    parts.push_back({position(row.at(0)), position(row.at(1)), row.at(2).get<int64_t>()});
  return parts;
}

std::vector<int> assign_parts(const std::vector<InputPart>& parts, int num_processes) {
  std::vector<size_t> order(parts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return parts[a].bytes > parts[b].bytes; });
  std::vector<int64_t> load(static_cast<size_t>(num_processes), 0);
  std::vector<int> owners(parts.size());
  for (const size_t part : order) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += parts[part].bytes + 1;
    owners[part] = static_cast<int>(least - load.begin());
  }
  return owners;
}

}  // namespace fathom
