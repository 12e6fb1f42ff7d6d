#include "kernels/panel.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/integer.h"
#include "kernels/check.h"
#include "kernels/cpu/panel_kernels.h"

namespace fathom {
namespace {

// Elements of a row of codes, each a byte but for bf16.
int64_t code_row_elements(DType codes, int64_t cols) {
  return codes == DType::kI4x2 ? cols / 2 : cols;
}

// Where in a matrix the code of an element lies: its byte and the lowest of its bits.
struct CodePlace {
  int64_t byte;
  int shift;
};
CodePlace place_of(DType codes, int64_t row, int64_t col, int64_t cols) {
  const int64_t columns_per_word = codes == DType::kI4x2 ? 8 : 4;
  const int64_t panel = row / kPanelRows * kPanelRows * code_row_elements(codes, cols);
  const int64_t word = (col / columns_per_word * kPanelRows + row % kPanelRows) * kPanelWordBytes;
  const int64_t in_word = col % columns_per_word, half = in_word % 2, nth = in_word / 2;
  if (columns_per_word == 4) return {panel + word + half * 2 + nth, 0};
  return {panel + word + half * 2 + nth / 2, static_cast<int>(nth % 2 * 4)};
}
static_assert(kPanelWordBytes == 4);

int64_t columns_of(const ScaledView& v) {
  const int64_t bytes = v.codes.dim(v.codes.shape.num_dims - 1);
  return v.codes.dtype == DType::kI4x2 ? bytes * 2 : bytes;
}

bf16* scale_at(const ScaledView& v, int64_t row, int64_t group) {
  const int64_t groups = v.scales.dim(v.scales.shape.num_dims - 1);
  return static_cast<bf16*>(v.scales.data) + (row / kPanelRows * groups + group) * kPanelRows +
         row % kPanelRows;
}

// Of the largest group.
constexpr int64_t kMaxGroup = 128;

struct Group {
  int64_t size = 0;
  float x[kMaxGroup], importance[kMaxGroup];
  float code[kMaxGroup];  // the integers that codes stand for
};

// bf16 at least as large as a value that is not negative.
bf16 round_up(float value) {
  bf16 r(value);
  if (static_cast<float>(r) < value) ++r.bits;
  return r;
}

bf16 fit_i8(Group& g) {
  float amax = 0;
  for (int64_t i = 0; i < g.size; ++i) amax = std::max(amax, std::fabs(g.x[i]));
  const bf16 scale = round_up(amax / 127.0f);
  const float s = static_cast<float>(scale);
  for (int64_t i = 0; i < g.size; ++i)
    g.code[i] = s == 0 ? 0.0f : std::clamp(std::nearbyint(g.x[i] / s), -127.0f, 127.0f);
  return scale;
}

constexpr int64_t kI4Group = 32;

// As nearest_numbers_avx512 (kernels/cpu/panel_kernels.h), bit for bit.
float nearest_numbers(const float* x, const float* importance, float scale, const int8_t* numbers,
                      float* code) {
  const float inverse = 1.0f / scale;
  float z[kI4Group];
  for (int64_t i = 0; i < kI4Group; ++i) {
    z[i] = x[i] * inverse;
    code[i] = numbers[0];
  }
  for (int n = 1; n < 16; ++n) {
    const float number = numbers[n],
                border = 0.5f * static_cast<float>(numbers[n] + numbers[n - 1]);
    for (int64_t i = 0; i < kI4Group; ++i) code[i] = z[i] > border ? number : code[i];
  }
  float error[kI4Group];
  for (int64_t i = 0; i < kI4Group; ++i) {
    const float d = x[i] - scale * code[i];
    error[i] = importance[i] * d * d;
  }
  for (int64_t half = kI4Group / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) error[i] += error[i + half];
  }
  return error[0];
}
using NearestNumbers = decltype(&nearest_numbers);

bf16 fit_i4(Group& g, NearestNumbers nearest) {
  float largest = 0;
  for (int64_t i = 0; i < g.size; ++i) {
    if (std::fabs(g.x[i]) > std::fabs(largest)) largest = g.x[i];
  }
  bf16 best(0.0f);
  std::fill_n(g.code, g.size, 0.0f);
  float best_error = 0;  // of codes 0
  for (int64_t i = 0; i < g.size; ++i) best_error += g.importance[i] * g.x[i] * g.x[i];
  float code[kI4Group];
  const auto attempt = [&](bf16 scale) {
    const float s = static_cast<float>(scale);
    if (!std::isnormal(s) || !std::isfinite(1.0f / s)) return;
    const float error = nearest(g.x, g.importance, s, kI4Codebook, code);
    if (error >= best_error) return;
    best_error = error;
    best = scale;
    std::copy_n(code, g.size, g.code);
  };
  for (const int end : {0, 15}) {
    for (int step = -3; step <= 4; ++step) {
      attempt(bf16(largest / static_cast<float>(kI4Codebook[end]) *
                   (1.0f + 0.05f * static_cast<float>(step))));
    }
  }
  // The best scale for the codes found, and codes for that scale.
  for (int round = 0; round < 2; ++round) {
    float product = 0, square = 0;
    for (int64_t i = 0; i < g.size; ++i) {
      product += g.importance[i] * g.x[i] * g.code[i];
      square += g.importance[i] * g.code[i] * g.code[i];
    }
    if (square > 0) attempt(bf16(product / square));
  }
  return best;
}

// Where a group's codes lie; i4x2 codes share their bytes with others of the same group only.
void store_codes(const ScaledView& y, int64_t row, int64_t begin, const Group& g) {
  const int64_t cols = columns_of(y);
  auto* bytes = static_cast<uint8_t*>(y.codes.data);
  if (y.codes.dtype == DType::kI8) {
    for (int64_t i = 0; i < g.size; ++i) {
      bytes[place_of(DType::kI8, row, begin + i, cols).byte] =
          static_cast<uint8_t>(static_cast<int8_t>(g.code[i]));
    }
    return;
  }
  for (int64_t i = 0; i < g.size; i += 8) {
    uint8_t word[4] = {};
    const int64_t first = place_of(DType::kI4x2, row, begin + i, cols).byte;
    for (int64_t k = 0; k < 8; ++k) {
      const auto number = static_cast<int8_t>(g.code[i + k]);
      const auto code = std::lower_bound(kI4Codebook, kI4Codebook + 16, number) - kI4Codebook;
      const CodePlace place = place_of(DType::kI4x2, row, begin + i + k, cols);
      word[place.byte - first] |= static_cast<uint8_t>(code << place.shift);
    }
    std::copy_n(word, 4, bytes + first);
  }
}

float element(const TensorView& x, int64_t at) {
  return x.dtype == DType::kF32 ? static_cast<const float*>(x.data)[at]
                                : static_cast<float>(static_cast<const bf16*>(x.data)[at]);
}

void check_plain(const char* what, const TensorView& v, int64_t rows, int64_t cols) {
  check_tensor(what, v, {rows, cols});
  if (v.dtype != DType::kF32 && v.dtype != DType::kBF16)
    internal::operand_failed(what, v, "f32 or bf16");
}

}  // namespace

Shape panel_code_shape(DType codes, int64_t rows, int64_t cols) {
  FATHOM_CHECK(codes == DType::kI8 || codes == DType::kI4x2 || codes == DType::kBF16,
               "panels of {}", dtype_name(codes));
  return Shape{rows, code_row_elements(codes, cols)};
}

Shape panel_scale_shape(DType codes, int64_t rows, int64_t cols) {
  return Shape{rows, div_up(cols, panel_group(codes))};
}

int64_t panel_bytes(DType codes, int64_t rows, int64_t cols) {
  const int64_t code_bytes =
      panel_code_shape(codes, rows, cols).num_elements() * dtype_bytes(codes);
  if (!panel_has_scales(codes)) return code_bytes;
  return code_bytes +
         panel_scale_shape(codes, rows, cols).num_elements() * dtype_bytes(DType::kBF16);
}

void check_panels(const char* what, const ScaledView& v, std::initializer_list<int64_t> expected) {
  const int64_t rows = expected.begin()[expected.size() - 2], cols = expected.end()[-1];
  const DType format = v.codes.dtype;
  if (format != DType::kI8 && format != DType::kI4x2 && format != DType::kBF16)
    internal::operand_failed(what, v.codes, "bf16, i8 or i4x2, being in panels");
  const bool has_scales = panel_has_scales(format);
  if (has_scales) check_dtype(what, v.scales, DType::kBF16);
  FATHOM_CHECK(panels_fit(rows, cols), "{} '{}' [{}, {}] in panels: 16 rows, 32 columns", what,
               v.codes.name, rows, cols);
  const Shape codes = panel_code_shape(v.codes.dtype, rows, cols),
              scales = panel_scale_shape(v.codes.dtype, rows, cols);
  if (expected.size() == 3) {
    const int64_t E = expected.begin()[0];
    check_tensor(what, v.codes, {E, codes[0], codes[1]});
    if (E > 0) check_contiguous(what, v.codes.at(0));
    if (!has_scales) return;
    check_tensor(what, v.scales, {E, scales[0], scales[1]});
    if (E > 0) check_contiguous(what, v.scales.at(0));
    return;
  }
  check_tensor(what, v.codes, {codes[0], codes[1]});
  check_contiguous(what, v.codes);
  if (!has_scales) return;
  check_tensor(what, v.scales, {scales[0], scales[1]});
  check_contiguous(what, v.scales);
}

void check_code_panels(const char* what, const ScaledView& v,
                       std::initializer_list<int64_t> expected) {
  const int64_t rows = expected.begin()[expected.size() - 2], cols = expected.end()[-1];
  check_dtype(what, v.codes, DType::kE4M3);
  FATHOM_CHECK(panels_fit(rows, cols), "{} '{}' [{}, {}] in panels: 16 rows, 32 columns", what,
               v.codes.name, rows, cols);
  const bool is_stack = v.codes.shape.num_dims == 3;
  if (!is_stack || v.codes.dim(0) > 0) check_contiguous(what, is_stack ? v.codes.at(0) : v.codes);
}

void to_panels(Context& ctx, const TensorView& w) {
  const int64_t rows = w.dim(0), cols = w.dim(1);
  check_tensor("to_panels", w, {rows, cols});
  check_contiguous("to_panels", w);
  const bool codes = w.dtype == DType::kE4M3;
  FATHOM_CHECK((codes || w.dtype == DType::kBF16) && panels_fit(rows, cols), "{} in panels",
               to_string(w));
  // A panel is the same range of bytes as its rows.
  const int64_t words = codes ? cols / 4 : cols / 2, panel_words = kPanelRows * words;
  auto* all = static_cast<uint32_t*>(w.data);
  ctx.threads().parallel_for(rows / kPanelRows, [&](int64_t panel, int thread_idx) {
    Scratch& scratch = ctx.thread_scratch(thread_idx);
    Scratch::Mark mark(scratch);
    auto* plain = reinterpret_cast<uint32_t*>(
        scratch.allocate<uint8_t>(panel_words * kPanelWordBytes, "panel_rows"));
    uint32_t* out = all + panel * panel_words;
    std::copy_n(out, panel_words, plain);
    for (int64_t i = 0; codes && i < panel_words; ++i) {
      const uint32_t word = plain[i];  // the second and the third byte change places
      plain[i] = (word & 0xff0000ffu) | (word & 0xff00u) << 8 | (word >> 8 & 0xff00u);
    }
    for (int64_t word = 0; word < words; ++word) {
      for (int64_t row = 0; row < kPanelRows; ++row) *out++ = plain[row * words + word];
    }
  });
}

float panel_code(const ScaledView& v, int64_t row, int64_t col) {
  if (v.codes.dtype == DType::kBF16) {
    const int64_t panel = row / kPanelRows * kPanelRows * columns_of(v);
    const int64_t word = col / 2 * kPanelRows + row % kPanelRows;
    return static_cast<float>(static_cast<const bf16*>(v.codes.data)[panel + word * 2 + col % 2]);
  }
  const CodePlace place = place_of(v.codes.dtype, row, col, columns_of(v));
  const uint8_t byte = static_cast<const uint8_t*>(v.codes.data)[place.byte];
  if (v.codes.dtype == DType::kI8) return static_cast<float>(static_cast<int8_t>(byte));
  if (v.codes.dtype == DType::kE4M3) return static_cast<float>(std::bit_cast<e4m3>(byte));
  return static_cast<float>(kI4Codebook[(byte >> place.shift) & 0xf]);
}

float panel_scale(const ScaledView& v, int64_t row, int64_t col) {
  if (!panel_has_scales(v.codes.dtype)) return 1.0f;
  return static_cast<float>(*scale_at(v, row, col / panel_group(v.codes.dtype)));
}

void quantize_panels(Context& ctx, const QuantizePanelsParams& p) {
  FATHOM_CHECK_EQ(p.x.shape.num_dims, 2, "quantize_panels x {}", p.x.name);
  const int64_t rows = p.x.dim(0), cols = p.x.dim(1);
  check_plain("quantize_panels x", p.x, rows, cols);
  check_panels("quantize_panels y", p.y, {rows, cols});
  FATHOM_CHECK(panel_has_scales(p.y.codes.dtype), "quantize_panels y {}", p.y.codes.name);
  if (!p.importance.empty()) {
    check_tensor("quantize_panels importance", p.importance, {cols});
    check_dtype("quantize_panels importance", p.importance, DType::kF32);
  }
  const int64_t group = panel_group(p.y.codes.dtype);
  const NearestNumbers nearest =
      ctx.isa() >= IsaLevel::kAvx512 ? cpu::nearest_numbers_avx512 : nearest_numbers;
  ctx.threads().parallel_for(rows, [&](int64_t row, int) {
    Group g;
    for (int64_t begin = 0; begin < cols; begin += group) {
      g.size = std::min(group, cols - begin);
      bool finite = true;
      for (int64_t i = 0; i < g.size; ++i) {
        g.x[i] = element(p.x, row * p.x.stride[0] + begin + i);
        g.importance[i] = p.importance.empty() ? 1.0f : p.importance.as<float>()[begin + i];
        finite = finite && std::isfinite(g.x[i]);
      }
      bf16* scale = scale_at(p.y, row, begin / group);
      if (finite) {
        *scale = p.y.codes.dtype == DType::kI8 ? fit_i8(g) : fit_i4(g, nearest);
      } else {
        *scale = bf16(std::numeric_limits<float>::quiet_NaN());
        std::fill_n(g.code, g.size, 0.0f);
      }
      store_codes(p.y, row, begin, g);
    }
  });
}

void dequantize_panels(Context& ctx, const ScaledView& x, const TensorView& y) {
  FATHOM_CHECK_EQ(y.shape.num_dims, 2, "dequantize_panels y {}", y.name);
  const int64_t rows = y.dim(0), cols = y.dim(1);
  check_plain("dequantize_panels y", y, rows, cols);
  check_panels("dequantize_panels x", x, {rows, cols});
  ctx.threads().parallel_for(rows, [&](int64_t row, int) {
    for (int64_t col = 0; col < cols; ++col) {
      const float value = panel_code(x, row, col) * panel_scale(x, row, col);
      const int64_t at = row * y.stride[0] + col;
      if (y.dtype == DType::kF32) {
        static_cast<float*>(y.data)[at] = value;
      } else {
        static_cast<bf16*>(y.data)[at] = bf16(value);
      }
    }
  });
}

}  // namespace fathom
