// The program `fathom`: a table of verbs, in the order of the help text.
#include <vector>

#include "cli/verbs.h"

int main(int argc, char** argv) {
  using namespace fathom::cli;
  const std::vector<Verb> verbs = {
  };
  return run_program(verbs, {argv + 1, argv + argc});
}
