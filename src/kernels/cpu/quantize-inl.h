// The loops of quantize_kernels.h over vectors of kVectorBytes (defined before this file is
// included), in the compiler's vector types: the same text gives both instruction sets.
//
// A float of F bits of fraction and bias B is encoded from fp32 by integer arithmetic. From the
// smallest normal on, the fraction is rounded to nearest even by adding half a unit less one plus
// the lowest kept bit, and the exponent rebased; below it, adding a power of two whose unit in the
// last place is the format's smallest subnormal leaves the rounded code in the low bits. Decoding
// multiplies the shifted bits by 2^(127 - B), which is exact for subnormals too.
#pragma once

#include <cstring>
#include <utility>

#include "kernels/cpu/quantize_kernels.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kLanes = kVectorBytes / 4;
typedef float F __attribute__((vector_size(kVectorBytes)));
typedef uint32_t U __attribute__((vector_size(kVectorBytes)));
typedef uint16_t H __attribute__((vector_size(kVectorBytes / 2)));
typedef uint16_t W __attribute__((vector_size(kVectorBytes)));
typedef uint8_t B __attribute__((vector_size(kVectorBytes / 4)));

template <typename V, typename T>
inline V load_as(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
template <typename V, typename T>
inline void store_as(T* p, const V& v) {
  std::memcpy(p, &v, sizeof(v));
}
inline F as_float(U u) { return reinterpret_cast<F>(u); }
inline U as_bits(F f) { return reinterpret_cast<U>(f); }
inline F broadcast(float x) { return x - F{}; }

// The formats: how one vector of elements is read and written. `Element` is what lies in memory.
struct Fp32 {
  using Element = float;
  static F load(const Element* p) { return load_as<F>(p); }
  static void store(Element* p, F x) { store_as(p, x); }
};

struct Bf16 {
  using Element = uint16_t;
  static F load(const Element* p) {
    return as_float(__builtin_convertvector(load_as<H>(p), U) << 16);
  }
  static void store(Element* p, F x) {  // the rounding of core/types.h
    const U u = as_bits(x);
    const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const U quiet = (u >> 16) | 0x40u;
    const U code = (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
    store_as(p, __builtin_convertvector(code, H));
  }
};

// kLargest: the largest finite value. kNan: the first magnitude that is not a number or infinite
// (all above are NaN), or 0 if every code is finite.
template <typename T, typename V, int kFraction, int kBias, int kLargestCode, int kInfinity,
          int kNan>
struct Small {
  using Element = T;
  static constexpr int kSign = 8 * static_cast<int>(sizeof(T)) == 8 ? 7 : 11;
  static constexpr int kShift = 23 - kFraction;
  static constexpr uint32_t power(int exponent) {
    return static_cast<uint32_t>(exponent + 127) << 23;
  }

  static F load(const Element* p) {
    const U code = __builtin_convertvector(load_as<V>(p), U);
    const U magnitude = code & ((1u << kSign) - 1);
    F x = as_float(magnitude << kShift) * as_float(U{} + power(127 - kBias));
    if constexpr (kInfinity > 0) x = magnitude == kInfinity ? as_float(U{} + 0x7f800000u) : x;
    if constexpr (kNan > 0) x = magnitude >= kNan ? as_float(U{} + 0x7fc00000u) : x;
    return as_float(as_bits(x) | (code >> kSign) << 31);
  }

  static void store(Element* p, F x) {
    constexpr uint32_t kLargest = (static_cast<uint32_t>(kLargestCode) << kShift) +
                                  (static_cast<uint32_t>(127 - kBias) << 23);
    const U u = as_bits(x);
    U magnitude = u & 0x7fffffffu;
    magnitude = magnitude > kLargest ? U{} + kLargest : magnitude;
    const U normal =
        ((magnitude + ((1u << (kShift - 1)) - 1) + ((magnitude >> kShift) & 1u)) >> kShift) -
        (static_cast<uint32_t>(127 - kBias) << kFraction);
    constexpr uint32_t kMagic = power(23 - (kBias - 1 + kFraction));
    const U subnormal = as_bits(as_float(magnitude) + as_float(U{} + kMagic)) - kMagic;
    const U code = (magnitude < power(1 - kBias) ? subnormal : normal) | (u >> 31) << kSign;
    store_as(p, __builtin_convertvector(code, V));
  }
};
using E4M3 = Small<uint8_t, B, 3, 7, 0x7e, 0, 0x7f>;
using E5M2 = Small<uint8_t, B, 2, 15, 0x7b, 0x7c, 0x7d>;
using E5M6 = Small<uint16_t, H, 6, 15, 0x7ff, 0, 0>;

// body(i) for every whole vector; the rest goes through `tail(i, count)`.
template <typename Body, typename Tail>
inline void for_vectors(int64_t n, Body&& body, Tail&& tail) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i);
  if (i < n) tail(i, n - i);
}

// Elements [0, count) of p, zeros behind.
template <typename Format>
inline F load_part(const typename Format::Element* p, int64_t count) {
  typename Format::Element padded[kLanes] = {};
  std::memcpy(padded, p, static_cast<size_t>(count) * sizeof(padded[0]));
  return Format::load(padded);
}
template <typename Format>
inline void store_part(typename Format::Element* p, F x, int64_t count) {
  typename Format::Element padded[kLanes];
  Format::store(padded, x);
  std::memcpy(p, padded, static_cast<size_t>(count) * sizeof(padded[0]));
}

template <typename Format>
void load(const void* x_in, float scale, float* out, int64_t n) {
  const auto* x = static_cast<const typename Format::Element*>(x_in);
  for_vectors(
      n, [&](int64_t i) { store_as(out + i, Format::load(x + i) * broadcast(scale)); },
      [&](int64_t i, int64_t count) {
        store_part<Fp32>(out + i, load_part<Format>(x + i, count) * broadcast(scale), count);
      });
}

template <typename Format>
void load_columns(const void* x_in, const float* scale, float* out, int64_t n) {
  const auto* x = static_cast<const typename Format::Element*>(x_in);
  for_vectors(
      n, [&](int64_t i) { store_as(out + i, Format::load(x + i) * Fp32::load(scale + i)); },
      [&](int64_t i, int64_t count) {
        store_part<Fp32>(
            out + i, load_part<Format>(x + i, count) * load_part<Fp32>(scale + i, count), count);
      });
}

template <int kStep, int... kLane>
inline U larger_across(U v, std::integer_sequence<int, kLane...>) {
  const U other = __builtin_shufflevector(v, v, (kLane ^ kStep)...);
  return other > v ? other : v;
}
inline uint32_t largest_lane(U v) {
  constexpr auto kAll = std::make_integer_sequence<int, static_cast<int>(kLanes)>{};
  if constexpr (kLanes > 8) v = larger_across<8>(v, kAll);
  return larger_across<1>(larger_across<2>(larger_across<4>(v, kAll), kAll), kAll)[0];
}

uint32_t amax_f32(const void* x_in, int64_t n) {
  const auto* x = static_cast<const float*>(x_in);
  U largest{};
  const auto add = [&](F v) {
    const U magnitude = as_bits(v) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  };
  for_vectors(
      n, [&](int64_t i) { add(Fp32::load(x + i)); },
      [&](int64_t i, int64_t count) { add(load_part<Fp32>(x + i, count)); });
  return largest_lane(largest);
}

uint32_t amax_bf16(const void* x_in, int64_t n) {
  const auto* x = static_cast<const uint16_t*>(x_in);
  W largest{};
  const auto add = [&](const uint16_t* p) {
    const W magnitude = load_as<W>(p) & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) add(x + i);
  if (i < n) {
    uint16_t padded[2 * kLanes] = {};
    std::memcpy(padded, x + i, static_cast<size_t>(n - i) * sizeof(padded[0]));
    add(padded);
  }
  uint16_t lanes[2 * kLanes];
  store_as(lanes, largest);
  const U low = __builtin_convertvector(load_as<H>(lanes), U);
  const U high = __builtin_convertvector(load_as<H>(lanes + kLanes), U);
  return largest_lane(high > low ? high : low) << 16;
}

void amax_columns(const float* x, uint32_t* amax, int64_t n) {
  for_vectors(
      n,
      [&](int64_t i) {
        const U magnitude = as_bits(Fp32::load(x + i)) & 0x7fffffffu, so_far = load_as<U>(amax + i);
        store_as(amax + i, magnitude > so_far ? magnitude : so_far);
      },
      [&](int64_t i, int64_t count) {
        for (int64_t j = i; j < i + count; ++j) {
          uint32_t bits;
          std::memcpy(&bits, x + j, sizeof(bits));
          bits &= 0x7fffffffu;
          if (bits > amax[j]) amax[j] = bits;
        }
      });
}

template <typename Source, typename Format>
void store(const void* x_in, float scale, void* y_out, int64_t n) {
  const auto* x = static_cast<const typename Source::Element*>(x_in);
  auto* y = static_cast<typename Format::Element*>(y_out);
  for_vectors(
      n, [&](int64_t i) { Format::store(y + i, Source::load(x + i) / broadcast(scale)); },
      [&](int64_t i, int64_t count) {
        store_part<Format>(y + i, load_part<Source>(x + i, count) / broadcast(scale), count);
      });
}

template <typename Format>
void store_columns(const float* x, const float* scale, void* y_out, int64_t n) {
  auto* y = static_cast<typename Format::Element*>(y_out);
  for_vectors(
      n, [&](int64_t i) { Format::store(y + i, Fp32::load(x + i) / Fp32::load(scale + i)); },
      [&](int64_t i, int64_t count) {
        store_part<Format>(y + i, load_part<Fp32>(x + i, count) / load_part<Fp32>(scale + i, count),
                           count);
      });
}

void pack12(const uint16_t* codes, uint8_t* bytes, int64_t n) {
  const int64_t half = (n + 1) / 2, pairs = n - half;
  uint8_t* high = bytes + n;
  int64_t j = 0;
  for (; j + kLanes <= pairs; j += kLanes) {
    const H a = load_as<H>(codes + j), b = load_as<H>(codes + j + half);
    store_as(bytes + j, __builtin_convertvector(a & 0xff, B));
    store_as(bytes + j + half, __builtin_convertvector(b & 0xff, B));
    store_as(high + j, __builtin_convertvector((a >> 8) | (b >> 8 << 4), B));
  }
  for (; j < half; ++j) {
    bytes[j] = static_cast<uint8_t>(codes[j]);
    high[j] = static_cast<uint8_t>(codes[j] >> 8);
    if (j >= pairs) continue;
    bytes[j + half] = static_cast<uint8_t>(codes[j + half]);
    high[j] = static_cast<uint8_t>(high[j] | codes[j + half] >> 8 << 4);
  }
}

void unpack12(const uint8_t* bytes, uint16_t* codes, int64_t n) {
  const int64_t half = (n + 1) / 2, pairs = n - half;
  const uint8_t* high = bytes + n;
  int64_t j = 0;
  for (; j + kLanes <= pairs; j += kLanes) {
    const H top = __builtin_convertvector(load_as<B>(high + j), H);
    store_as(codes + j, __builtin_convertvector(load_as<B>(bytes + j), H) | (top & 0xf) << 8);
    store_as(codes + j + half,
             __builtin_convertvector(load_as<B>(bytes + j + half), H) | top >> 4 << 8);
  }
  for (; j < half; ++j) {
    codes[j] = static_cast<uint16_t>(bytes[j] | (high[j] & 0xf) << 8);
    if (j < pairs) codes[j + half] = static_cast<uint16_t>(bytes[j + half] | high[j] >> 4 << 8);
  }
}

constexpr QuantizeKernels quantize_kernels() {
  return {
      .load = {load<Fp32>, load<Bf16>, load<E4M3>, load<E5M2>, load<E5M6>},
      .load_columns = {load_columns<Fp32>, load_columns<Bf16>, load_columns<E4M3>,
                       load_columns<E5M2>, load_columns<E5M6>},
      .amax = {amax_f32, amax_bf16},
      .amax_columns = amax_columns,
      .store = {{store<Fp32, Fp32>, store<Fp32, Bf16>, store<Fp32, E4M3>, store<Fp32, E5M2>,
                 store<Fp32, E5M6>},
                {store<Bf16, Fp32>, store<Bf16, Bf16>, store<Bf16, E4M3>, store<Bf16, E5M2>,
                 store<Bf16, E5M6>}},
      .store_columns = {store_columns<Fp32>, store_columns<Bf16>, store_columns<E4M3>,
                        store_columns<E5M2>, store_columns<E5M6>},
      .pack12 = pack12,
      .unpack12 = unpack12,
  };
}

}  // namespace
}  // namespace fathom::cpu
