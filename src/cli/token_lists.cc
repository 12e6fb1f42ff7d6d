#include "cli/token_lists.h"

#include "core/file.h"
#include "core/json.h"

namespace fathom::cli {

std::vector<std::vector<int32_t>> read_token_lists(const std::string& path, int64_t vocab_size,
                                                   bool equal_lengths) {
  const Json json = parse_json(local_file_system().read_all(path), path);
  if (!json.is_array() || json.empty())
    throw_bad_input({path, "", describe_json(json), "a list of lists of token ids", ""});
  const Json rows = json[0].is_array() ? json : Json::array({json});
  std::vector<std::vector<int32_t>> lists;
  for (size_t r = 0; r < rows.size(); ++r) {
    const std::string field = fmt::format("list {}", r);
    if (!rows[r].is_array() || rows[r].empty())
      throw_bad_input({path, field, describe_json(rows[r]), "a non-empty list of token ids", ""});
    std::vector<int32_t> ids;
    for (const Json& id : rows[r]) {
      if (!id.is_number_integer() || id.get<double>() < 0 ||
          id.get<double>() >= static_cast<double>(vocab_size)) {
        throw_bad_input({path, fmt::format("{}, element {}", field, ids.size()), describe_json(id),
                         fmt::format("a token id from 0 to {}", vocab_size - 1), ""});
      }
      ids.push_back(id.get<int32_t>());
    }
    if (equal_lengths && !lists.empty() && ids.size() != lists[0].size()) {
      throw_bad_input({path, field, fmt::format("{} ids", ids.size()),
                       fmt::format("{}, as in list 0", lists[0].size()), ""});
    }
    lists.push_back(std::move(ids));
  }
  return lists;
}

}  // namespace fathom::cli
