// The row functions of AVX2, written on 16-float vectors of the compiler (two registers); AVX-512 has
// its own in attention_rows_avx512.cc. No fused multiply-adds, fixed lanes. Included only by
// attention_rows_avx2.cc; internal linkage.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/attention_rows.h"

namespace fathom::cpu {
namespace {

typedef float Floats __attribute__((vector_size(64)));
typedef float Floats8 __attribute__((vector_size(32)));
typedef float Floats4 __attribute__((vector_size(16)));
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
// rounding of the sum the result is within 1.5 units. Below -126 it is zero, from 128 on infinite,
// NaN stays NaN.
inline Floats exp2(Floats x) {
  const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats clamped_low = x < splat(-126.0f) ? splat(-126.0f) : x;
  const Floats clamped = clamped_low > splat(127.5f) ? splat(127.5f) : clamped_low;
  const Floats shifted = clamped + magic;
  const Floats r = clamped - (shifted - magic);
  // In pairs of terms (Estrin), which halves the chain of dependent operations.
  const Floats r2 = r * r;
  const Floats high = (splat(1.5252733e-5f) * r + splat(1.5403530e-4f)) * r2 +
                      (splat(1.3333558e-3f) * r + splat(9.6181291e-3f));
  const Floats low = (splat(5.5504109e-2f) * r + splat(2.4022651e-1f)) * r2 +
                     (splat(6.9314718e-1f) * r + splat(1.0f));
  Floats y = high * (r2 * r2) + low;
  // 2^n in two factors, because 2^128 (x near 127.5) is no float.
  const Ints n = reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(magic);
  const Ints half = n >> 1;
  y = y * reinterpret_cast<Floats>((half + 127) << 23) *
      reinterpret_cast<Floats>((n - half + 127) << 23);
  y = x < splat(-126.0f) ? Floats{} : y;
  return x >= splat(128.0f) ? splat(__builtin_inff()) : y;
}

// Over the 16 lanes as a tree: halves, quarters, ...
template <typename Combine>
inline float combine_lanes(Floats v, Combine combine) {
  const Floats8 a = combine(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  const Floats4 b =
      combine(__builtin_shufflevector(a, a, 0, 1, 2, 3), __builtin_shufflevector(a, a, 4, 5, 6, 7));
  const Floats4 c = combine(b, __builtin_shufflevector(b, b, 2, 3, 0, 1));
  return combine(c, __builtin_shufflevector(c, c, 1, 0, 3, 2))[0];
}
inline float sum_lanes(Floats v) {
  return combine_lanes(v, [](auto x, auto y) { return x + y; });
}
inline float max_lanes(Floats v) {
  return combine_lanes(v, [](auto x, auto y) { return x > y ? x : y; });
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

float softmax_row(float* scores, int64_t lo, int64_t hi, int64_t width, float scale_log2,
                  float* max, float* sum) {
  if (lo >= hi) {
    std::memset(scores, 0, static_cast<size_t>(width) * sizeof(float));
    return 1.0f;
  }
  const int64_t first = lo / kScoreLanes * kScoreLanes,
                last = (hi + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
  zero_around(scores, first, last, width);
  Floats largest = splat(kMinusInfinity);
  for (int64_t i = first; i < last; i += kScoreLanes) {
    const Floats s =
        inside(i, lo, hi) ? load(scores + i) * splat(scale_log2) : splat(kMinusInfinity);
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

void backward_row(float* scores, float* dp, int64_t lo, int64_t hi, int64_t width, float scale_log2,
                  float lse_log2, float delta, float scale) {
  if (lo >= hi) lo = hi = 0;
  const int64_t first = lo / kScoreLanes * kScoreLanes,
                last = (hi + kScoreLanes - 1) / kScoreLanes * kScoreLanes;
  zero_around(scores, first, last, width);
  zero_around(dp, first, last, width);
  for (int64_t i = first; i < last; i += kScoreLanes) {
    const Ints visible = inside(i, lo, hi);
    const Floats p = exp2(load(scores + i) * splat(scale_log2) - splat(lse_log2));
    store(scores + i, visible ? p : Floats{});
    store(dp + i, visible ? p * (load(dp + i) - splat(delta)) * splat(scale) : Floats{});
  }
}

inline Floats widen(Halves h) {
  return reinterpret_cast<Floats>(__builtin_convertvector(h, Words) << 16);
}

// Rounds to nearest even, NaN quiet, as core/types.h does.
inline Halves narrow(Floats v) {
  const Words u = reinterpret_cast<Words>(v);
  const Words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return __builtin_convertvector(v == v ? rounded : (u >> 16) | 0x40u, Halves);
}

// body(begin, count) for whole vectors with a constant count, then for the tail.
template <typename Body>
inline void for_vectors(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kScoreLanes <= n; i += kScoreLanes)
    body(i, std::integral_constant<int64_t, kScoreLanes>{});
  if (i < n) body(i, n - i);
}

template <typename Vector, typename Element>
inline Vector load_some(const Element* p, int64_t count) {
  Vector v = {};
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(Element));
  return v;
}

float dot_row(const void* x, const void* y, bool bf16, int64_t n) {
  Floats total = {};
  for_vectors(n, [&](int64_t i, auto count) {
    if (bf16) {
      total += widen(load_some<Halves>(static_cast<const uint16_t*>(x) + i, count)) *
               widen(load_some<Halves>(static_cast<const uint16_t*>(y) + i, count));
    } else {
      total += load_some<Floats>(static_cast<const float*>(x) + i, count) *
               load_some<Floats>(static_cast<const float*>(y) + i, count);
    }
  });
  return sum_lanes(total);
}

void scale_row(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void add_scaled_row(const float* x, float factor, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

void store_row(const float* x, float factor, void* out, bool bf16, int64_t n) {
  for_vectors(n, [&](int64_t i, auto count) {
    const Floats v = load_some<Floats>(x + i, count) * splat(factor);
    if (bf16) {
      const Halves h = narrow(v);
      std::memcpy(static_cast<uint16_t*>(out) + i, &h,
                  static_cast<size_t>(count) * sizeof(uint16_t));
    } else {
      std::memcpy(static_cast<float*>(out) + i, &v, static_cast<size_t>(count) * sizeof(float));
    }
  });
}

constexpr AttentionRows kRows = {softmax_row, backward_row,   dot_row,
                                 scale_row,   add_scaled_row, store_row};

}  // namespace
}  // namespace fathom::cpu
