// TensorView: where a tensor lies and what shape it has. It never owns memory (arenas do), is
// trivially copyable, and carries its name so that a failed check can say which tensor it was.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/error.h"
#include "core/types.h"

namespace fathom {

inline constexpr int kMaxDims = 4;

struct Shape {
  std::array<int64_t, kMaxDims> dim{};
  int num_dims = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    FATHOM_CHECK_LE(dims.size(), static_cast<size_t>(kMaxDims));
    for (int64_t d : dims) dim[num_dims++] = d;
  }
  int64_t operator[](int i) const { return dim[i]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < num_dims; ++i) n *= dim[i];
    return n;
  }
  bool operator==(const Shape&) const = default;
};

std::string to_string(const Shape& shape);  // "[2, 3]"

// A view of dense rows: the last dimension is contiguous, the others have strides in elements.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  std::array<int64_t, kMaxDims> stride{};  // in elements
  const char* name = "";                   // lives at least as long as the view

  TensorView() = default;
  // A contiguous tensor at `data`.
  TensorView(void* data_in, DType dtype_in, Shape shape_in, const char* name_in = "");

  bool empty() const { return data == nullptr; }
  int64_t dim(int i) const { return shape.dim[i]; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t num_bytes() const { return num_elements() * dtype_bytes(dtype); }
  bool contiguous() const;

  // Typed access; T must be the dtype.
  template <typename T>
  T* as() const {
    FATHOM_CHECK(dtype == dtype_of<T>, "tensor '{}' is {}, not {}", name, dtype_name(dtype),
                 dtype_name(dtype_of<T>));
    return static_cast<T*>(data);
  }

  // Rows [begin, begin + count) of the first dimension.
  TensorView rows(int64_t begin, int64_t count) const;
  // Columns [begin, begin + count) of the last dimension.
  TensorView columns(int64_t begin, int64_t count) const;
  // Entry i of the first dimension, one dimension fewer.
  TensorView at(int64_t i) const;
  // The same contiguous elements under another shape.
  TensorView reshaped(Shape new_shape) const;
  // All leading dimensions joined: [rows, last]. Needs uniform row strides.
  TensorView as_matrix() const;

 private:
  std::byte* byte_at(int64_t element) const {
    return static_cast<std::byte*>(data) + element * dtype_bytes(dtype);
  }
};

std::string to_string(const TensorView& view);  // "q_THN bf16[4, 2, 16]"

}  // namespace fathom
