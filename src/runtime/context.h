// What a computation is given: threads, the instruction-set level, scratch memory, an observer.
// Passed down by reference; there are no globals, so models of different precision live in one
// process.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/arena.h"
#include "runtime/cpu.h"
#include "runtime/thread_pool.h"
#include "runtime/zones.h"

namespace fathom {

// Sees named tensors as they are computed (tests, the search for the first tensor that is not
// finite).
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void observe(std::string_view tensor_name, int layer_idx, const TensorView& value) = 0;
  // A product of a Linear: "fprop", "dgrad" or "wgrad", with its weight (or the weight's gradient);
  // scaled: of FP8 codes.
  virtual void observe_product(std::string_view kind, const TensorView& weight, bool scaled) {
    (void)kind, (void)weight, (void)scaled;
  }
  // The plain input of a forward product, before it; rows [offsets[e], offsets[e+1]) are expert
  // e's, or all are the one matrix's (offsets null).
  virtual void observe_input(const TensorView& weight, const TensorView& x, const int64_t* offsets,
                             int64_t num_experts) {
    (void)weight, (void)x, (void)offsets, (void)num_experts;
  }
};

// Which implementation ran, in order: proof that a forced instruction-set level was obeyed.
struct KernelRun {
  const char* operation;  // typeid(...).name() of its parameter struct
  const char* entry;      // name of the entry of the dispatch table
  IsaLevel isa;           // that the entry needs
};

class Context {
 public:
  // num_threads 0: one per usable processor.
  explicit Context(int num_threads = 0, IsaLevel isa = choose_isa_level());

  ThreadPool& threads() { return pool_; }
  IsaLevel isa() const { return isa_; }
  // The stack of temporaries of the calling (main) thread.
  Scratch& scratch() { return scratch_; }
  // The stack of temporaries of one pool thread, for use inside a parallel loop.
  Scratch& thread_scratch(int thread_idx) {
    return thread_scratch_[static_cast<size_t>(thread_idx)];
  }

  Observer* observer = nullptr;  // not owned
  void observe(std::string_view tensor_name, int layer_idx, const TensorView& value) {
    if (observer != nullptr) observer->observe(tensor_name, layer_idx, value);
  }
  void observe_product(std::string_view kind, const TensorView& weight, bool scaled) {
    if (observer != nullptr) observer->observe_product(kind, weight, scaled);
  }
  void observe_input(const TensorView& weight, const TensorView& x,
                     const int64_t* offsets = nullptr, int64_t num_experts = 0) {
    if (observer != nullptr) observer->observe_input(weight, x, offsets, num_experts);
  }

  std::vector<KernelRun>* kernel_log = nullptr;  // not owned; null: not kept
  std::vector<Zone>* zones = nullptr;            // not owned; null: not kept

 private:
  ThreadPool pool_;
  IsaLevel isa_;
  Scratch scratch_;
  std::vector<Scratch> thread_scratch_;
};

}  // namespace fathom
