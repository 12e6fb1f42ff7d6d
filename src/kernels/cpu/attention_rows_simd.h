// The row functions, written once on 16-float vectors of the compiler; each instruction set compiles
// them (16 floats are one register of AVX-512 and two of AVX2). No fused multiply-adds, fixed lanes: all
// instruction sets give the same bits. Included only by attention_rows_*.cc; internal linkage.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/attention_rows.h"

namespace fathom::cpu {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr float kMinusInfinity = -__builtin_inff();

inline Floats splat(float x) { return Floats{} + x; }
inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

// 2^x. x = n + r with n the nearest integer; 2^r is its Taylor series to r^7, whose remainder on
// |r| <= 1/2 is below (ln 2 / 2)^8 / 8! = 5.2e-9, a tenth of a unit in the last place; with the
// rounding of the sum the result is within 1.5 units. Below -126 it is zero, from 128 on infinite, NaN stays NaN.
inline Floats exp2(Floats x) {
  const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats clamped_low = x < splat(-126.0f) ? splat(-126.0f) : x;
  const Floats clamped = clamped_low > splat(127.5f) ? splat(127.5f) : clamped_low;
  const Floats shifted = clamped + magic;
  const Floats r = clamped - (shifted - magic);
  Floats y = splat(1.5252733e-5f);
  y = y * r + splat(1.5403530e-4f);
  y = y * r + splat(1.3333558e-3f);
  y = y * r + splat(9.6181291e-3f);
  y = y * r + splat(5.5504109e-2f);
  y = y * r + splat(2.4022651e-1f);
  y = y * r + splat(6.9314718e-1f);
  y = y * r + splat(1.0f);
  // 2^n in two factors, because 2^128 (x near 127.5) is no float.
  const Ints n = reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(magic);
  const Ints half = n >> 1;
  y = y * reinterpret_cast<Floats>((half + 127) << 23) * reinterpret_cast<Floats>((n - half + 127) << 23);
  y = x < splat(-126.0f) ? Floats{} : y;
  return x >= splat(128.0f) ? splat(__builtin_inff()) : y;
}

inline float sum_lanes(Floats v) {
  float lane[16];
  std::memcpy(lane, &v, sizeof v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

inline float max_lanes(Floats v) {
  float lane[16];
  std::memcpy(lane, &v, sizeof v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] = lane[i + width] > lane[i] ? lane[i + width] : lane[i];
  }
  return lane[0];
}

// Zeroes [0, first) and [last, width).
inline void zero_around(float* x, int64_t first, int64_t last, int64_t width) {
  std::memset(x, 0, static_cast<size_t>(first) * sizeof(float));
  std::memset(x + last, 0, static_cast<size_t>(width - last) * sizeof(float));
}

// The lanes of the vector at column `begin` that lie in [lo, hi).
inline Ints inside(int64_t begin, int64_t lo, int64_t hi) {
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (lane >= static_cast<int32_t>(lo - begin)) & (lane < static_cast<int32_t>(hi - begin));
}

float softmax_row(float* scores, int64_t lo, int64_t hi, int64_t width, float scale_log2, float* max, float* sum) {
  if (lo >= hi) {
    std::memset(scores, 0, static_cast<size_t>(width) * sizeof(float));
    return 1.0f;
  }
  const int64_t first = lo / kScoreLanes * kScoreLanes, last = (hi + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
  zero_around(scores, first, last, width);
  Floats largest = splat(kMinusInfinity);
  for (int64_t i = first; i < last; i += kScoreLanes) {
    const Floats s = inside(i, lo, hi) ? load(scores + i) * splat(scale_log2) : splat(kMinusInfinity);
    store(scores + i, s);
    largest = s > largest ? s : largest;
  }
  const float tile_max = max_lanes(largest);
  const float new_max = tile_max > *max ? tile_max : *max;
  Floats total = {};
  const Floats shift = splat(new_max);
  for (int64_t i = first; i < last; i += kScoreLanes) {
    const Floats p = exp2(load(scores + i) - shift);
    store(scores + i, p);
    total += p;
  }
  const float shrink = *max == kMinusInfinity ? 0.0f : exp2(splat(*max - new_max))[0];
  *sum = *sum * shrink + sum_lanes(total);
  *max = new_max;
  return shrink;
}

void backward_row(float* scores, float* dp, int64_t lo, int64_t hi, int64_t width, float scale_log2, float lse_log2,
                  float delta, float scale) {
  if (lo >= hi) lo = hi = 0;
  const int64_t first = lo / kScoreLanes * kScoreLanes, last = (hi + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
  zero_around(scores, first, last, width);
  zero_around(dp, first, last, width);
  for (int64_t i = first; i < last; i += kScoreLanes) {
    const Ints visible = inside(i, lo, hi);
    const Floats p = exp2(load(scores + i) * splat(scale_log2) - splat(lse_log2));
    store(scores + i, visible ? p : Floats{});
    store(dp + i, visible ? p * (load(dp + i) - splat(delta)) * splat(scale) : Floats{});
  }
}

inline Floats load_some(const void* p, bool bf16, int64_t begin, int64_t count) {
  if (!bf16) {
    Floats v = {};
    std::memcpy(&v, static_cast<const float*>(p) + begin, static_cast<size_t>(count) * sizeof(float));
    return v;
  }
  Halves h = {};
  std::memcpy(&h, static_cast<const uint16_t*>(p) + begin, static_cast<size_t>(count) * sizeof(uint16_t));
  return reinterpret_cast<Floats>(__builtin_convertvector(h, Words) << 16);
}

float dot_row(const void* x, const void* y, bool bf16, int64_t n) {
  Floats total = {};
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    total += load_some(x, bf16, i, count) * load_some(y, bf16, i, count);
  }
  return sum_lanes(total);
}

void scale_row(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void add_scaled_row(const float* x, float factor, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void store_row(const float* x, float factor, void* out, bool bf16, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t count = n - i < 16 ? n - i : 16;
    const Floats v = load_some(x, false, i, count) * splat(factor);
    if (!bf16) {
      std::memcpy(static_cast<float*>(out) + i, &v, static_cast<size_t>(count) * sizeof(float));
      continue;
    }
    // Rounds to nearest even, NaN quiet, as core/types.h does.
    const Words u = reinterpret_cast<Words>(v);
    const Words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Words bits = v == v ? rounded : (u >> 16) | 0x40u;
    const Halves h = __builtin_convertvector(bits, Halves);
    std::memcpy(static_cast<uint16_t*>(out) + i, &h, static_cast<size_t>(count) * sizeof(uint16_t));
  }
}

constexpr AttentionRows kRows = {softmax_row, backward_row, dot_row, scale_row, add_scaled_row, store_row};

}  // namespace
}  // namespace fathom::cpu
