// Walks every entry of a dispatch table against the reference entry: the tests of the
// bandwidth-bound kernels. For each: the forced level really runs it, results within a bound,
// nothing written outside, the same bits for one and two threads. Not part of the library.
#pragma once

#include <algorithm>
#include <functional>
#include <map>

#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {

inline constexpr double kUnit = 0x1p-24;  // of fp32, in which both sides compute

inline bool runs_here(IsaLevel level) {
  const std::vector<IsaLevel> levels = supported_isa_levels();
  return std::find(levels.begin(), levels.end(), level) != levels.end();
}

// One context per level and number of threads: the walks make thousands of calls, and starting
// threads for each would be most of their time.
inline Context& test_context(IsaLevel level, int num_threads) {
  static std::map<std::pair<IsaLevel, int>, Context> contexts;
  return contexts.try_emplace({level, num_threads}, num_threads, level).first->second;
}

// Two roundings of one value to `dtype` after it was computed in two ways.
inline double output_rounding(const TestTensor& t, double value) {
  return 2.01 * unit_roundoff(t.view().dtype) * std::fabs(value);
}

// A Case is copyable operands with params() and outputs(). tolerance(reference result, output,
// element) bounds |fast - reference|.
template <typename Params, typename Case>
void expect_entries_match(const Case& start,
                          const std::function<double(const Case&, size_t, int64_t)>& tolerance) {
  Case want = start;
  Context& reference = test_context(IsaLevel::kReference, 1);
  const auto entries = kernel_entries<Params>();
  ASSERT_EQ(select_kernel(reference, want.params()).name, std::string("ref"));
  entries.back().run(reference, want.params());
  for (const KernelEntry<Params>& entry : entries.first(entries.size() - 1)) {
    if (!runs_here(entry.isa)) continue;
    SCOPED_TRACE(entry.name);
    Case one = start, two = start;
    Context &one_thread = test_context(entry.isa, 1), &two_threads = test_context(entry.isa, 2);
    ASSERT_TRUE(entry.supports(one.params()));
    ASSERT_EQ(&select_kernel(one_thread, one.params()), &entry)
        << "the forced level runs another entry";
    entry.run(one_thread, one.params());
    entry.run(two_threads, two.params());
    for (size_t i = 0; i < want.outputs().size(); ++i) {
      const TestTensor &w = *want.outputs()[i], &got = *one.outputs()[i];
      std::vector<double> bound;
      for (int64_t e = 0; e < w.size(); ++e) bound.push_back(tolerance(want, i, e));
      ASSERT_TRUE(near_all(got, w.values(), bound));
      ASSERT_EQ(got.bytes(), two.outputs()[i]->bytes()) << "two threads give other bits";
    }
  }
}

template <typename Params, typename Case>
void expect_same_bits(const Case& start) {
  expect_entries_match<Params, Case>(start, [](const Case&, size_t, int64_t) { return 0.0; });
}

struct Size {
  int64_t rows, width;
};
inline const std::vector<Size> kSizes = {{0, 5},  {1, 1},  {3, 7},   {2, 8},
                                         {5, 16}, {4, 33}, {1, 130}, {150, 200}};
inline constexpr DType kNarrow[] = {DType::kF32, DType::kBF16};

}  // namespace fathom
