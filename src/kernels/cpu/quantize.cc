#include "kernels/cpu/quantize.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/row_loop.h"

namespace fathom::cpu {
namespace {

// Columns that a task takes at a time: 128 rows of them, read once as fp32, are 128 KiB, which stay
// in the second-level cache from the first pass to the second.
constexpr int64_t kColumns = 256;

int format_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kFormatF32;
    case DType::kBF16:
      return kFormatBf16;
    case DType::kE4M3:
      return kFormatE4M3;
    case DType::kE5M2:
      return kFormatE5M2;
    case DType::kE5M6:
      return kFormatE5M6;
    default:
      FATHOM_CHECK(false, "format {}", dtype_name(dtype));
  }
}

float largest_code(DType dtype) {
  return dtype == DType::kE4M3 ? 448.0f : dtype == DType::kE5M2 ? 57344.0f : 130048.0f;
}

const void* code_at(const TensorView& v, int64_t row, int64_t col) {
  return static_cast<const std::byte*>(row_at(v, row)) + col * dtype_bytes(v.dtype);
}
void* code_at_out(const TensorView& v, int64_t row, int64_t col) {
  return static_cast<std::byte*>(row_at(v, row)) + col * dtype_bytes(v.dtype);
}

// The scale of a tile with this largest magnitude; NaN where it is not finite.
float scale_from(uint32_t amax_bits, DType dtype, bool power_of_two) {
  if (amax_bits >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  const float s = std::max(std::bit_cast<float>(amax_bits), 1e-4f) / largest_code(dtype);
  if (!power_of_two) return s;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(s) + 0x7fffffu) & 0xff800000u);
}

// Tile rows of a kColumn tensor: where tile i begins and ends.
class TileRows {
 public:
  TileRows(int64_t rows, const int64_t* offsets, int64_t num_experts)
      : rows_(rows), offsets_(offsets), num_experts_(num_experts) {}
  struct Range {
    int64_t begin, end;
  };
  Range of(int64_t tile) const {
    if (offsets_ == nullptr) {
      return {tile * kScaleTile, std::min(rows_, (tile + 1) * kScaleTile)};
    }
    for (int64_t e = 0; e < num_experts_; ++e) {
      const int64_t tiles = div_up(offsets_[e + 1] - offsets_[e], kScaleTile);
      if (tile < tiles) {
        const int64_t begin = offsets_[e] + tile * kScaleTile;
        return {begin, std::min(offsets_[e + 1], begin + kScaleTile)};
      }
      tile -= tiles;
    }
    FATHOM_CHECK(false, "a tile beyond the last expert");
  }

 private:
  int64_t rows_;
  const int64_t* offsets_;
  int64_t num_experts_;
};

// Where elements lie, and as what: kFormatF32 or kFormatBf16.
struct Elements {
  const void* data = nullptr;
  int format = kFormatF32;
};

// Reads rows of a scaled or plain matrix. Columns [col, col + n) must begin at a multiple of 128.
class Source {
 public:
  Source(const ScaledView& x, const QuantizeKernels& kernels)
      : x_(x),
        load_(kernels.load[format_of(x.codes.dtype)]),
        load_columns_(kernels.load_columns[format_of(x.codes.dtype)]) {}

  // As they lie if they have no scales, else as fp32 in `out`.
  Elements read(int64_t row, int64_t col, int64_t n, int64_t tile, float* out) const {
    const int format = format_of(x_.codes.dtype);
    if (x_.grain == ScaleGrain::kNone && format < kNumPlainFormats)
      return {code_at(x_.codes, row, col), format};
    read_f32(row, col, n, tile, out);
    return {out, kFormatF32};
  }

  // `tile` is the tile row of a kColumn source.
  void read_f32(int64_t row, int64_t col, int64_t n, int64_t tile, float* out) const {
    const float* scales = static_cast<const float*>(x_.scales.data);
    switch (x_.grain) {
      case ScaleGrain::kNone:
        return load_(code_at(x_.codes, row, col), 1.0f, out, n);
      case ScaleGrain::kTensor:
        return load_(code_at(x_.codes, row, col), *scales, out, n);
      case ScaleGrain::kColumn:
        return load_columns_(code_at(x_.codes, row, col), scales + tile * x_.scales.stride[0] + col,
                             out, n);
      case ScaleGrain::kRow:
      case ScaleGrain::kBlock: {
        const int64_t i = x_.grain == ScaleGrain::kRow ? row : row / kScaleTile;
        scales += i * x_.scales.stride[0] + col / kScaleTile;
        for (int64_t at = 0; at < n; at += kScaleTile) {
          load_(code_at(x_.codes, row, col + at), *scales++, out + at,
                std::min(kScaleTile, n - at));
        }
        return;
      }
      case ScaleGrain::kPanel:
      case ScaleGrain::kBlockPanel:
        FATHOM_CHECK(false, "panels are not read by tiles");
    }
  }

 private:
  const ScaledView& x_;
  void (*load_)(const void*, float, float*, int64_t);
  void (*load_columns_)(const void*, const float*, float*, int64_t);
};

class Quantizer {
 public:
  Quantizer(Context& ctx, const QuantizeParams& p, const QuantizeKernels& kernels)
      : ctx_(ctx),
        p_(p),
        kernels_(kernels),
        source_(p.x, kernels),
        rows_(p.x.codes.dim(0)),
        cols_(p.x.codes.dim(1)),
        format_(format_of(p.y.codes.dtype)) {}

  void run() {
    switch (p_.y.grain) {
      case ScaleGrain::kRow:
        return by_row();
      case ScaleGrain::kColumn:
        return by_column();
      case ScaleGrain::kBlock:
        return by_block();
      case ScaleGrain::kTensor:
        return by_tensor();
      case ScaleGrain::kNone:
      case ScaleGrain::kPanel:
      case ScaleGrain::kBlockPanel:
        FATHOM_CHECK(false, "quantize without scales of f32");
    }
  }

 private:
  float scale_from(uint32_t amax) const {
    return cpu::scale_from(amax, p_.y.codes.dtype, p_.power_of_two);
  }
  float* scales(int64_t i, int64_t j) const {
    return p_.y.scales.as<float>() + i * p_.y.scales.stride[0] + j;
  }
  Elements read(int64_t row, int64_t col, int64_t n, float* buffer) const {
    return source_.read(row, col, n, row / kScaleTile, buffer);
  }
  uint32_t amax(const Elements& x, int64_t n) const { return kernels_.amax[x.format](x.data, n); }
  void write(const Elements& x, float scale, int64_t row, int64_t col, int64_t n) const {
    void* y = code_at_out(p_.y.codes, row, col);
    if (std::isnan(scale)) {
      std::fill_n(static_cast<std::byte*>(y), n * dtype_bytes(p_.y.codes.dtype), std::byte{0});
    } else {
      kernels_.store[x.format][format_](x.data, scale, y, n);
    }
  }

  void by_row() const {
    for_rows(ctx_, rows_, cols_, [&](int64_t row, int) {
      float buffer[kScaleTile];
      for (int64_t col = 0; col < cols_; col += kScaleTile) {
        const int64_t n = std::min(kScaleTile, cols_ - col);
        const Elements x = read(row, col, n, buffer);
        const float scale = scale_from(amax(x, n));
        *scales(row, col / kScaleTile) = scale;
        write(x, scale, row, col, n);
      }
    });
  }

  void by_column() const {
    const TileRows tiles(rows_, p_.offsets, p_.num_experts);
    const int64_t num_tiles = column_tile_rows(rows_, p_.offsets, p_.num_experts),
                  chunks = div_up(cols_, kColumns);
    ctx_.threads().parallel_for(num_tiles * chunks, [&](int64_t index, int thread_idx) {
      const int64_t tile = index / chunks, col = index % chunks * kColumns;
      const int64_t n = std::min(kColumns, cols_ - col);
      const auto [begin, end] = tiles.of(tile);
      Scratch& scratch = ctx_.thread_scratch(thread_idx);
      Scratch::Mark mark(scratch);
      float* rows = scratch.allocate<float>((end - begin) * n, "quantize.rows");
      uint32_t amax[kColumns] = {};
      for (int64_t row = begin; row < end; ++row) {
        float* x = rows + (row - begin) * n;
        source_.read_f32(row, col, n, row / kScaleTile, x);
        kernels_.amax_columns(x, amax, n);
      }
      float* scale = scales(tile, col);
      bool finite = true;
      for (int64_t i = 0; i < n; ++i) {
        scale[i] = scale_from(amax[i]);
        finite = finite && !std::isnan(scale[i]);
      }
      for (int64_t row = begin; row < end; ++row) {
        float* x = rows + (row - begin) * n;
        if (!finite) {  // such a column's codes are 0
          for (int64_t i = 0; i < n; ++i) x[i] = std::isnan(scale[i]) ? 0.0f : x[i] / scale[i];
          kernels_.store[kFormatF32][format_](x, 1.0f, code_at_out(p_.y.codes, row, col), n);
        } else {
          kernels_.store_columns[format_](x, scale, code_at_out(p_.y.codes, row, col), n);
        }
      }
    });
  }

  void by_block() const {
    const int64_t block_cols = div_up(cols_, kScaleTile);
    ctx_.threads().parallel_for(div_up(rows_, kScaleTile) * block_cols, [&](int64_t index, int) {
      const int64_t i = index / block_cols, j = index % block_cols;
      const int64_t begin = i * kScaleTile, end = std::min(rows_, begin + kScaleTile);
      const int64_t col = j * kScaleTile, n = std::min(kScaleTile, cols_ - col);
      float buffer[kScaleTile];
      uint32_t largest = 0;
      for (int64_t row = begin; row < end; ++row)
        largest = std::max(largest, amax(read(row, col, n, buffer), n));
      const float scale = scale_from(largest);
      *scales(i, j) = scale;
      for (int64_t row = begin; row < end; ++row)
        write(read(row, col, n, buffer), scale, row, col, n);
    });
  }

  void by_tensor() const {
    Scratch::Mark mark(ctx_.scratch());
    TensorView largest = ctx_.scratch().allocate(DType::kI32, Shape{rows_}, "quantize.row_amax");
    int32_t* row_amax = largest.as<int32_t>();  // bits of magnitudes: not negative
    for_rows(ctx_, rows_, cols_, [&](int64_t row, int) {
      float buffer[kScaleTile];
      uint32_t largest_of_row = 0;
      for (int64_t col = 0; col < cols_; col += kScaleTile) {
        const int64_t n = std::min(kScaleTile, cols_ - col);
        largest_of_row = std::max(largest_of_row, amax(read(row, col, n, buffer), n));
      }
      row_amax[row] = static_cast<int32_t>(largest_of_row);
    });
    uint32_t largest_of_all = 0;
    for (int64_t row = 0; row < rows_; ++row)
      largest_of_all = std::max(largest_of_all, static_cast<uint32_t>(row_amax[row]));
    const float scale = scale_from(largest_of_all);
    *scales(0, 0) = scale;
    for_rows(ctx_, rows_, cols_, [&](int64_t row, int) {
      float buffer[kScaleTile];
      for (int64_t col = 0; col < cols_; col += kScaleTile) {
        const int64_t n = std::min(kScaleTile, cols_ - col);
        write(read(row, col, n, buffer), scale, row, col, n);
      }
    });
  }

  Context& ctx_;
  const QuantizeParams& p_;
  const QuantizeKernels& kernels_;
  Source source_;
  int64_t rows_, cols_;
  int format_;
};

}  // namespace

void quantize(Context& ctx, const QuantizeParams& p, const QuantizeKernels& kernels) {
  if (p.x.codes.num_elements() == 0 && p.y.grain != ScaleGrain::kTensor) return;
  Quantizer(ctx, p, kernels).run();
}

void dequantize(Context& ctx, const DequantizeParams& p, const QuantizeKernels& kernels) {
  const int64_t rows = p.y.dim(0), cols = p.y.dim(1);
  const Source source(p.x, kernels);
  const auto store = kernels.store[kFormatF32][format_of(p.y.dtype)];
  const auto write_row = [&](int64_t row, int64_t tile) {
    float buffer[kScaleTile];
    for (int64_t col = 0; col < cols; col += kScaleTile) {
      const int64_t n = std::min(kScaleTile, cols - col);
      source.read_f32(row, col, n, tile, buffer);
      store(buffer, 1.0f, code_at_out(p.y, row, col), n);
    }
  };
  if (p.x.grain == ScaleGrain::kColumn) {
    const TileRows tiles(rows, p.offsets, p.num_experts);
    ctx.threads().parallel_for(column_tile_rows(rows, p.offsets, p.num_experts),
                               [&](int64_t tile, int) {
                                 const auto [begin, end] = tiles.of(tile);
                                 for (int64_t row = begin; row < end; ++row) write_row(row, tile);
                               });
    return;
  }
  for_rows(ctx, rows, cols, [&](int64_t row, int) { write_row(row, 0); });
}

void pack_e5m6(Context& ctx, const PackE5m6Params& p, const QuantizeKernels& kernels) {
  const int64_t cols = p.codes.dim(1);
  for_rows(ctx, p.codes.dim(0), cols, [&](int64_t row, int) {
    auto* codes = static_cast<uint16_t*>(row_at(p.codes, row));
    auto* bytes = static_cast<uint8_t*>(row_at(p.bytes, row));
    if (p.unpack) {
      kernels.unpack12(bytes, codes, cols);
    } else {
      kernels.pack12(codes, bytes, cols);
    }
  });
}

}  // namespace fathom::cpu
