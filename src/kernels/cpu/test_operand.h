// What the tests of the fast kernels share: operands with NaN beside them, poisoned scratch memory,
// and the entries that this machine can run. Not part of the library.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/table.h"
#include "kernels/test_tensor.h"

namespace fathom {

// A tensor inside a wider one whose columns on both sides stay NaN, so that an element read from
// beside it shows in the result; elements start as NaN too.
class Operand {
 public:
  static constexpr int64_t kPadding = 3;

  Operand(DType dtype, Shape shape, const char* name)
      : width_(shape[shape.num_dims - 1]), all_(dtype, widened(shape), name) {}

  TensorView view() const { return all_.view().columns(kPadding, width_); }
  operator TensorView() const { return view(); }
  int64_t size() const { return view().num_elements(); }
  // Element i in row-major order.
  double operator[](int64_t i) const { return all_[position(i)]; }
  void set(int64_t i, double value) { all_.set(position(i), value); }
  Operand& normal(uint64_t seed, double deviation = 1.0) {
    const Random random(seed, RandomPurpose::kTest);
    for (int64_t i = 0; i < size(); ++i)
      set(i, deviation * random.normal(static_cast<uint64_t>(i)));
    return *this;
  }
  Operand& fill(double value) {
    for (int64_t i = 0; i < size(); ++i) set(i, value);
    return *this;
  }
  std::vector<double> values() const {
    std::vector<double> v;
    for (int64_t i = 0; i < size(); ++i) v.push_back((*this)[i]);
    return v;
  }
  const std::vector<unsigned char>& bytes() const { return all_.bytes(); }
  bool untouched_beside() const {
    const int64_t stride = width_ + 2 * kPadding;
    for (int64_t i = 0; i < all_.size(); ++i) {
      const int64_t column = i % stride - kPadding;
      if ((column < 0 || column >= width_) && !std::isnan(all_[i])) return false;
    }
    return all_.guards_intact();
  }

 private:
  static Shape widened(Shape shape) {
    shape.dim[static_cast<size_t>(shape.num_dims - 1)] += 2 * kPadding;
    return shape;
  }
  int64_t position(int64_t i) const {
    return i / width_ * (width_ + 2 * kPadding) + kPadding + i % width_;
  }

  int64_t width_;
  TestTensor all_;
};

// The largest of |got - want| / tolerance: above 1 fails, and NaN anywhere gives NaN.
inline double worst_margin(const std::vector<double>& got, const std::vector<double>& want,
                           const std::vector<double>& tolerance) {
  double worst = got.size() == want.size() && want.size() == tolerance.size() ? 0 : NAN;
  for (size_t i = 0; i < got.size() && !std::isnan(worst); ++i) {
    const double margin = std::fabs(got[i] - want[i]) / tolerance[i];
    if (!(margin <= worst)) worst = margin;
  }
  return worst;
}

inline void poison_scratch(Context& ctx) {
  const auto poison = [](Scratch& scratch) {
    Scratch::Mark mark(scratch);
    const int64_t bytes = int64_t{1} << 21;
    std::memset(scratch.allocate<uint8_t>(bytes, "poison"), 0xff, static_cast<size_t>(bytes));
  };
  poison(ctx.scratch());
  for (int i = 0; i < ctx.threads().num_threads(); ++i) poison(ctx.thread_scratch(i));
}

// The fast entries for these operands that this processor runs.
template <typename Params>
std::vector<KernelEntry<Params>> fast_entries(const Params& p) {
  std::vector<KernelEntry<Params>> entries;
  for (const KernelEntry<Params>& entry : kernel_entries<Params>()) {
    if (entry.isa > IsaLevel::kReference && entry.isa <= supported_isa_levels().back() &&
        entry.supports(p)) {
      entries.push_back(entry);
    }
  }
  return entries;
}

}  // namespace fathom
