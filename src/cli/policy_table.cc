#include "cli/policy_table.h"

#include <algorithm>

namespace fathom::cli {

std::string policy_table(const Policy& policy) {
  const std::vector<PolicyLine> lines = describe_policy(policy);
  size_t tensor = 0, format = 0, grouping = 0;
  for (const PolicyLine& line : lines) {
    tensor = std::max(tensor, line.tensor.size());
    format = std::max(format, line.format.size());
    grouping = std::max(grouping, line.grouping.size());
  }
  std::string table = fmt::format("precision {}\n", policy.name);
  for (const PolicyLine& line : lines) {
    std::string row = fmt::format("  {:<{}}  {:<{}}  {:<{}}  {}", line.tensor, tensor, line.format,
                                  format, line.grouping, grouping, line.note);
    row.erase(row.find_last_not_of(' ') + 1);
    table += row + "\n";
  }
  return table;
}

}  // namespace fathom::cli
