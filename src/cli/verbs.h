// The verbs of the program, one file each: src/cli/<verb>_verb.cc. main.cc lists them.
#pragma once

#include "cli/command_line.h"

namespace fathom::cli {

// Declared here as they come to work, in the order of main.cc.

}  // namespace fathom::cli
