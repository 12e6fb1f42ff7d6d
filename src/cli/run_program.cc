// What main does: parse, run the verb, turn exceptions into one line and an exit status.
#include <cstdio>
#include <exception>

#include <fmt/format.h>

#include "cli/command_line.h"
#include "core/error.h"

namespace fathom::cli {
namespace {

int report(const char* kind, const char* what, int status) {
  std::fflush(stdout);
  fmt::print(stderr, "fathom: {}: {}\n", kind, what);
  return status;
}

}  // namespace

int run_program(std::span<const Verb> verbs, const std::vector<std::string>& arguments) {
  try {
    const Parsed parsed = parse_command_line(verbs, arguments);
    int status = kExitDone;
    if (parsed.verb == nullptr) {
      fmt::print("{}", parsed.text);
    } else {
      status = parsed.verb->run();
    }
    // A full disk or a closed pipe shows only here; a result that nobody got is not "done".
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      return report("error", "cannot write to standard output", kExitFailed);
    }
    return status;
  } catch (const Error& error) {
    return report("error", error.what(), error.exit_status());
  } catch (const CheckFailure& failure) {
    return report("internal error (please report it)", failure.what(), kExitFailed);
  } catch (const std::bad_alloc&) {
    return report("error", "out of memory", kExitFailed);
  } catch (const std::exception& error) {
    return report("error", error.what(), kExitFailed);
  }
}

}  // namespace fathom::cli
