#include "core/tensor.h"

#include <cstddef>

namespace fathom {

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (int i = 0; i < shape.num_dims; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

std::string to_string(const TensorView& view) {
  return fmt::format("{} {}{}", view.name, dtype_name(view.dtype), to_string(view.shape));
}

TensorView::TensorView(void* data_in, DType dtype_in, Shape shape_in, const char* name_in)
    : data(data_in), dtype(dtype_in), shape(shape_in), name(name_in) {
  int64_t step = 1;
  for (int i = shape.num_dims - 1; i >= 0; --i) {
    stride[i] = step;
    step *= shape[i];
  }
}

bool TensorView::contiguous() const {
  int64_t step = 1;
  for (int i = shape.num_dims - 1; i >= 0; --i) {
    if (shape[i] != 1 && stride[i] != step) return false;
    step *= shape[i];
  }
  return true;
}

TensorView TensorView::rows(int64_t begin, int64_t count) const {
  FATHOM_CHECK(begin >= 0 && count >= 0 && begin + count <= shape[0], "rows {}+{} of {}", begin,
               count, to_string(*this));
  TensorView view = *this;
  view.data = byte_at(begin * stride[0]);
  view.shape.dim[0] = count;
  return view;
}

TensorView TensorView::columns(int64_t begin, int64_t count) const {
  const int last = shape.num_dims - 1;
  FATHOM_CHECK(begin >= 0 && count >= 0 && begin + count <= shape[last], "columns {}+{} of {}",
               begin, count, to_string(*this));
  TensorView view = *this;
  view.data = byte_at(begin * stride[last]);
  view.shape.dim[last] = count;
  return view;
}

TensorView TensorView::at(int64_t i) const {
  FATHOM_CHECK(shape.num_dims >= 1 && i >= 0 && i < shape[0], "entry {} of {}", i,
               to_string(*this));
  TensorView view = *this;
  view.data = byte_at(i * stride[0]);
  view.shape.num_dims = shape.num_dims - 1;
  for (int d = 0; d < view.shape.num_dims; ++d) {
    view.shape.dim[d] = shape.dim[d + 1];
    view.stride[d] = stride[d + 1];
  }
  return view;
}

TensorView TensorView::reshaped(Shape new_shape) const {
  FATHOM_CHECK(contiguous(), "reshape of a strided tensor {}", to_string(*this));
  FATHOM_CHECK_EQ(new_shape.num_elements(), num_elements(), "reshape of {}", to_string(*this));
  return TensorView(data, dtype, new_shape, name);
}

TensorView TensorView::as_matrix() const {
  FATHOM_CHECK_GE(shape.num_dims, 1, "{}", name);
  if (shape.num_dims == 2) return *this;
  TensorView view = *this;
  const int last = shape.num_dims - 1;
  int64_t num_rows = 1;
  for (int i = 0; i < last; ++i) num_rows *= shape[i];
  for (int i = 0; i + 1 < last; ++i) {
    FATHOM_CHECK(shape[i] == 1 || stride[i] == stride[i + 1] * shape[i + 1],
                 "rows of {} are not evenly spaced", to_string(*this));
  }
  view.shape = Shape{num_rows, shape[last]};
  view.stride = {};
  view.stride[0] = last > 0 ? stride[last - 1] : shape[last];
  view.stride[1] = 1;
  return view;
}

}  // namespace fathom
