#include "kernels/check.h"

#include "core/error.h"

namespace fathom::internal {

void shape_failed(const char* what, const TensorView& v, std::initializer_list<int64_t> expected) {
  std::string want = "[";
  for (const int64_t d : expected) want += fmt::format("{}{}", want.size() > 1 ? ", " : "", d);
  throw CheckFailure(
      fmt::format("kernel operand {} ({}) should have the shape {}]", what, to_string(v), want));
}

void operand_failed(const char* what, const TensorView& v, const char* expected) {
  throw CheckFailure(
      fmt::format("kernel operand {} ({}) should have {}", what, to_string(v), expected));
}

}  // namespace fathom::internal
