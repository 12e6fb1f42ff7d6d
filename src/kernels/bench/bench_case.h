// One kernel call on one shape, for bench.cc: what it costs, and how to prepare it.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "core/arena.h"
#include "kernels/bench/bench.h"
#include "runtime/context.h"

namespace fathom::bench {

// Operands of a case, filled with numbers in [-1, 1); they live as long as it does.
class Operands {
 public:
  TensorView make(DType dtype, Shape shape);
  TensorView zeros(DType dtype, Shape shape);
  // The same rows of i32 for every call: row r of `num_rows` holds distinct values below `bound`.
  TensorView distinct(int64_t num_rows, int64_t width, int64_t bound);
  template <typename T>
  std::vector<T>& vector() {
    if constexpr (std::is_same_v<T, int64_t>) return integers_.emplace_back();
    if constexpr (std::is_same_v<T, TensorView>) return views_.emplace_back();
  }

 private:
  std::deque<Arena> memory_;
  std::deque<std::vector<int64_t>> integers_;
  std::deque<std::vector<TensorView>> views_;
};

using Call = std::function<void(Context&)>;

struct Case {
  std::string model, name, shape;
  DType dtype = DType::kBF16;  // whose peak is the limit of products
  double flops = 0;
  double bytes = 0;  // read and written at least once
  bool bandwidth_bound = false;
  bool writes_much = false;  // bound by memory: compared with updates in place, not with reads
  bool slow = false;         // a call takes seconds: run once, and only when a filter asks for it
  std::function<Call(Operands&)> prepare;  // once per copy of the operands
};

void add_product_cases(const BenchModel& model, std::vector<Case>& cases);
void add_attention_cases(const BenchModel& model, std::vector<Case>& cases);
void add_row_cases(const BenchModel& model, std::vector<Case>& cases);

}  // namespace fathom::bench
