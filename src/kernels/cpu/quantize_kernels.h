// The loops of quantisation over contiguous elements, for one instruction set: a plain struct of
// function pointers, filled in by quantize_avx2.cc and quantize_avx512.cc from one template
// (quantize-inl.h). Tiles, strides and threads are the business of the driver (quantize.cc). As
// with gemm_kernels.h, the instruction-set files include no header with inline functions of the
// project.
#pragma once

#include <cstdint>

namespace fathom::cpu {

// Formats of the arrays below.
inline constexpr int kFormatF32 = 0, kFormatBf16 = 1, kFormatE4M3 = 2, kFormatE5M2 = 3,
                     kFormatE5M6 = 4, kNumFormats = 5;
inline constexpr int kNumPlainFormats = 2;  // the first two

struct QuantizeKernels {
  // out = x * scale in fp32, whatever the format of x. [format of x]
  void (*load[kNumFormats])(const void* x, float scale, float* out, int64_t n);
  // The same with a scale for each element.
  void (*load_columns[kNumFormats])(const void* x, const float* scale, float* out, int64_t n);
  // Bits of the largest magnitude as fp32; from 0x7f800000 on something was not finite. [format of
  // x]
  uint32_t (*amax[kNumPlainFormats])(const void* x, int64_t n);
  // amax[i] = max(amax[i], bits of |x[i]|)
  void (*amax_columns)(const float* x, uint32_t* amax, int64_t n);
  // y = x / scale, rounded to nearest even and saturated. [format of x][format of y]
  void (*store[kNumPlainFormats][kNumFormats])(const void* x, float scale, void* y, int64_t n);
  // The same of fp32, with a scale for each element. [format of y]
  void (*store_columns[kNumFormats])(const float* x, const float* scale, void* y, int64_t n);

  // One row of pack_e5m6 (scaled.h).
  void (*pack12)(const uint16_t* codes, uint8_t* bytes, int64_t n);
  void (*unpack12)(const uint8_t* bytes, uint16_t* codes, int64_t n);
};

extern const QuantizeKernels kQuantizeAvx2;
extern const QuantizeKernels kQuantizeAvx512;

}  // namespace fathom::cpu
