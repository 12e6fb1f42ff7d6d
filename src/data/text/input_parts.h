// The input cut into parts: stretches that are read, worked on and resumed on their own, so that
// processes can share them. What comes out does not depend on where the cuts are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/text/document_reader.h"
#include "data/text/team.h"

namespace fathom {

struct InputPart {
  ReadPosition begin, end;
  int64_t bytes = 0;  // as they lie on disk
  bool operator==(const InputPart&) const = default;
};

// Parts of about `part_bytes`. Several processes cut plain JSONL files between lines, and count the
// lines before each cut together; packed files, Parquet and texts stay whole, and so does every
// file of one process, which need not be read twice. All members of the team get the same parts.
std::vector<InputPart> cut_inputs(FileSystem& files, const std::vector<InputFile>& inputs,
                                  int64_t part_bytes, const Team& team);

std::string parts_to_text(const std::vector<InputPart>& parts);
std::vector<InputPart> parts_from_text(const std::string& text, const std::string& where);

// Which process works on which part: the largest first, each to who has the least.
std::vector<int> assign_parts(const std::vector<InputPart>& parts, int num_processes);

}  // namespace fathom
