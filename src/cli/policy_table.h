// What --print-policy prints: each role of a precision policy, its format and its scaling.
#pragma once

#include <string>

#include "model/policy.h"

namespace fathom::cli {

std::string policy_table(const Policy& policy);

}  // namespace fathom::cli
