#include "runtime/context.h"

namespace fathom {

Context::Context(int num_threads, IsaLevel isa)
    : pool_(num_threads > 0 ? num_threads : cpu_info().num_cpus), isa_(isa) {
  thread_scratch_.resize(static_cast<size_t>(pool_.num_threads()));
}

}  // namespace fathom
