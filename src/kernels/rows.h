// A tensor of any shape as rows: where each one begins.
#pragma once

#include "core/tensor.h"

namespace fathom {

struct Rows {
  int64_t num_rows = 1;
  int64_t width = 1;

  explicit Rows(const TensorView& v) : view_(v) {
    if (v.shape.num_dims == 0) return;
    if (v.contiguous()) {  // one long row
      width = v.num_elements();
      return;
    }
    const int last = v.shape.num_dims - 1;
    width = v.dim(last);
    for (int d = 0; d < last; ++d) num_rows *= v.dim(d);
  }

  // Offset of row r's first element, in elements.
  int64_t offset(int64_t r) const {
    if (num_rows <= 1) return 0;
    int64_t at = 0;
    for (int d = view_.shape.num_dims - 2; d >= 0; --d) {
      at += r % view_.dim(d) * view_.stride[static_cast<size_t>(d)];
      r /= view_.dim(d);
    }
    return at;
  }

 private:
  TensorView view_;
};

}  // namespace fathom
