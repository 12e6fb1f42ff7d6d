// Every entry of scaled_gemm and scaled_grouped_gemm against sums in float64 of the decoded codes
// times their scales, for every format and grain that a layout takes. Codes and scales lie in wider
// tensors whose other columns are NaN (or the largest code), outputs and scratch start as NaN.
#include <algorithm>
#include <cmath>
#include <optional>

#include "kernels/cpu/test_operand.h"
#include "kernels/scaled.h"

namespace fathom {
namespace {

constexpr GemmLayout kLayouts[] = {GemmLayout::kNt, GemmLayout::kNn, GemmLayout::kTn};
constexpr double kOld = 0.75;

double decode(DType dtype, const void* codes, int64_t i) {
  switch (dtype) {
    case DType::kE4M3:
      return static_cast<double>(static_cast<float>(static_cast<const e4m3*>(codes)[i]));
    case DType::kE5M2:
      return static_cast<double>(static_cast<float>(static_cast<const e5m2*>(codes)[i]));
    case DType::kE5M6:
      return static_cast<double>(static_cast<float>(static_cast<const e5m6*>(codes)[i]));
    case DType::kBF16:
      return static_cast<double>(static_cast<float>(static_cast<const bf16*>(codes)[i]));
    default:
      return static_cast<double>(static_cast<const float*>(codes)[i]);
  }
}

// A matrix [rows, cols], or E of them stacked, with padding on both sides of each row.
class Scaled {
 public:
  static constexpr int64_t kPadding = 3;

  Scaled(DType dtype, ScaleGrain grain, int64_t rows, int64_t cols, uint64_t seed,
         const std::vector<int64_t>& offsets = {}, int64_t num_matrices = 1)
      : dtype_(dtype),
        grain_(grain),
        rows_(rows),
        cols_(cols),
        num_matrices_(num_matrices),
        offsets_(offsets) {
    const int64_t ld = cols + 2 * kPadding;
    codes_.assign(static_cast<size_t>((num_matrices * rows * ld + 1) * dtype_bytes(dtype)), 0xff);
    const Random random(seed, RandomPurpose::kTest);
    for (int64_t i = 0; i < num_matrices * rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        const auto draw = random.bits(static_cast<uint64_t>(i * cols + j));
        set(i * ld + kPadding + j, static_cast<uint32_t>(draw));
      }
    }
    const Shape shape = scale_shape(grain, rows, cols);
    tile_rows_ =
        grain == ScaleGrain::kColumn && !offsets.empty()
            ? column_tile_rows(rows, offsets.data(), static_cast<int64_t>(offsets.size()) - 1)
            : shape[0];
    scale_cols_ = shape[1];
    const int64_t ld_scale = scale_cols_ + 2 * kPadding;
    scales_.assign(static_cast<size_t>(num_matrices * tile_rows_ * ld_scale + 1), NAN);
    for (int64_t i = 0; i < num_matrices * tile_rows_; ++i) {
      for (int64_t j = 0; j < scale_cols_; ++j) {
        scales_[static_cast<size_t>(i * ld_scale + kPadding + j)] = static_cast<float>(
            (0.5 + random.uniform(static_cast<uint64_t>((1 << 24) + i * scale_cols_ + j))) *
            (dtype_bytes(dtype) == 1 ? 0x1p-6 : 1));
      }
    }
    for (int64_t i = 0; i < num_matrices * rows; ++i) {
      for (int64_t j = 0; j < cols; ++j)
        values_.push_back(code(i, j) * scale(i / rows, i % rows, j));
    }
  }

  ScaledView view(bool stacked = false) const {
    ScaledView v;
    v.grain = grain_;
    v.codes = matrices(const_cast<uint8_t*>(codes_.data()), dtype_, rows_, cols_, stacked, "codes");
    if (grain_ != ScaleGrain::kNone) {
      v.scales = matrices(const_cast<float*>(scales_.data()), DType::kF32, tile_rows_, scale_cols_,
                          stacked, "scales");
    }
    return v;
  }

  // Code times scale.
  double value(int64_t e, int64_t row, int64_t col) const {
    return values_[static_cast<size_t>((e * rows_ + row) * cols_ + col)];
  }
  float* scale_at(int64_t i) { return &scales_[static_cast<size_t>(i + kPadding)]; }

 private:
  double code(int64_t row, int64_t col) const {
    return decode(dtype_, codes_.data(), row * (cols_ + 2 * kPadding) + kPadding + col);
  }
  double scale(int64_t e, int64_t row, int64_t col) const {
    int64_t i = 0, j = 0;
    if (grain_ == ScaleGrain::kNone) return 1;
    if (grain_ == ScaleGrain::kRow) i = row, j = col / 128;
    if (grain_ == ScaleGrain::kBlock) i = row / 128, j = col / 128;
    if (grain_ == ScaleGrain::kColumn) {
      j = col;
      if (offsets_.empty()) {
        i = row / 128;
      } else {
        size_t x = 0;
        for (; row >= offsets_[x + 1]; ++x) i += (offsets_[x + 1] - offsets_[x] + 127) / 128;
        i += (row - offsets_[x]) / 128;
      }
    }
    return static_cast<double>(scales_[static_cast<size_t>(
        (e * tile_rows_ + i) * (scale_cols_ + 2 * kPadding) + kPadding + j)]);
  }
  // Every finite code, denormals too; the plain formats are uniform in [-1, 1).
  void set(int64_t i, uint32_t draw) {
    const double x = static_cast<double>(static_cast<int32_t>(draw)) * 0x1p-31;
    if (dtype_ == DType::kF32) reinterpret_cast<float*>(codes_.data())[i] = static_cast<float>(x);
    if (dtype_ == DType::kBF16)
      reinterpret_cast<bf16*>(codes_.data())[i] = bf16(static_cast<float>(x));
    if (dtype_ == DType::kE4M3)
      codes_[static_cast<size_t>(i)] =
          static_cast<uint8_t>((draw & 0x7f) == 0x7f ? draw & 0x80 : draw & 0xff);
    if (dtype_ == DType::kE5M2)  // exponents that leave sums of products within fp32
      codes_[static_cast<size_t>(i)] = static_cast<uint8_t>(draw & 0xcf);
    if (dtype_ == DType::kE5M6)
      reinterpret_cast<uint16_t*>(codes_.data())[i] = static_cast<uint16_t>(draw & 0xbff);
  }
  TensorView matrices(void* data, DType dtype, int64_t rows, int64_t cols, bool stacked,
                      const char* name) const {
    const int64_t ld = cols + 2 * kPadding;
    TensorView v;
    v.data = static_cast<std::byte*>(data) + kPadding * dtype_bytes(dtype);
    v.dtype = dtype;
    v.name = name;
    if (stacked) {
      v.shape = Shape{num_matrices_, rows, cols};
      v.stride = {rows * ld, ld, 1};
    } else {
      v.shape = Shape{rows, cols};
      v.stride = {ld, 1};
    }
    return v;
  }

  DType dtype_;
  ScaleGrain grain_;
  int64_t rows_, cols_, num_matrices_;
  std::vector<int64_t> offsets_;
  int64_t tile_rows_ = 0, scale_cols_ = 0;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<double> values_;
};

struct Format {
  DType dtype;
  ScaleGrain grain;
};

// The operands of one product; rows begin at `first_row` of a grouped one.
struct Want {
  double value = 0, magnitude = 0;
};
Want dot(GemmLayout layout, const Scaled& a, const Scaled& b, int64_t e, int64_t first_row,
         int64_t i, int64_t j, int64_t k) {
  Want w;
  for (int64_t l = 0; l < k; ++l) {
    const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
    const int64_t ar = first_row + (tn ? l : i), ac = tn ? i : l;
    const int64_t br = (tn ? first_row : 0) + (nt ? j : l), bc = nt ? l : j;
    const int64_t be = tn ? 0 : e;
    const double x = a.value(0, ar, ac) * b.value(be, br, bc);
    w.value += x;
    w.magnitude += std::fabs(x);
  }
  return w;
}

// k products in fp32 in any order, one product of scales and one fma a slice (see matmul_test.cc
// for the rest).
double tolerance(const Want& w, DType out, int64_t k, bool accumulate) {
  const double steps = static_cast<double>(k + 3 * ((k + 127) / 128) + 3);
  return 0x1p-24 * steps * (w.magnitude + (accumulate ? kOld : 0)) +
         unit_roundoff(out) * 1.01 * std::fabs(w.value + (accumulate ? kOld : 0)) + 0x1p-110;
}

std::vector<std::pair<Format, Format>> formats(GemmLayout layout) {
  const ScaleGrain along_a = layout == GemmLayout::kTn ? ScaleGrain::kColumn : ScaleGrain::kRow;
  const ScaleGrain along_b = layout == GemmLayout::kNt ? ScaleGrain::kRow : ScaleGrain::kColumn;
  return {{{DType::kE4M3, along_a}, {DType::kE4M3, ScaleGrain::kBlock}},
          {{DType::kE4M3, along_a}, {DType::kE4M3, along_b}},
          {{DType::kE5M6, along_a}, {DType::kE4M3, ScaleGrain::kBlock}},
          {{DType::kE5M2, ScaleGrain::kTensor}, {DType::kE4M3, ScaleGrain::kTensor}},
          {{DType::kE4M3, ScaleGrain::kBlock}, {DType::kE5M6, along_b}},
          {{DType::kE4M3, along_a}, {DType::kE5M2, along_b}},
          {{DType::kBF16, ScaleGrain::kNone}, {DType::kE4M3, ScaleGrain::kBlock}},
          {{DType::kF32, ScaleGrain::kNone}, {DType::kE4M3, ScaleGrain::kBlock}}};
}

class ScaledGemm : public ::testing::TestWithParam<GemmLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, ScaledGemm, ::testing::ValuesIn(kLayouts));

Operand output(DType dtype, int64_t rows, int64_t cols, bool accumulate) {
  Operand c(dtype, {rows, cols}, "c");
  if (accumulate) c.fill(kOld);
  return c;
}

TEST_P(ScaledGemm, EveryEntryMatchesFloat64) {
  const GemmLayout layout = GetParam();
  const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
  Context one(1), two(2);
  struct Sizes {
    int64_t m, n, k;
  };
  double worst = 0;
  for (const auto& [fa, fb] : formats(layout)) {
    for (const Sizes& s : {Sizes{1, 1, 1},
                           {3, 5, 0},
                           {0, 4, 9},
                           {1, 40, 300},
                           {15, 33, 128},
                           {14, 32, 256},
                           {2, 129, 129},
                           {130, 3, 2176},
                           {17, 150, 4230},
                           {150, 16, 77},
                           {33, 34, 2051}}) {
      const Scaled a(fa.dtype, fa.grain, tn ? s.k : s.m, tn ? s.m : s.k, 1);
      const Scaled b(fb.dtype, fb.grain, nt ? s.n : s.k, nt ? s.k : s.n, 2);
      for (const DType out : {DType::kF32, DType::kBF16}) {
        for (const bool accumulate : {false, true}) {
          std::vector<double> want, bound;
          for (int64_t i = 0; i < s.m * s.n; ++i) {
            const Want w = dot(layout, a, b, 0, 0, i / s.n, i % s.n, s.k);
            want.push_back(w.value + (accumulate ? kOld : 0));
            bound.push_back(tolerance(w, out, s.k, accumulate));
          }
          const auto params = [&](const Operand& c) {
            return ScaledGemmParams{layout, a.view(), b.view(), c.view(), accumulate, {}};
          };
          Operand c = output(out, s.m, s.n, accumulate);
          size_t num_entries = 0;
          for (const auto& entry : fast_entries(params(c))) {
            ++num_entries;
            c = output(out, s.m, s.n, accumulate);
            Operand again = output(out, s.m, s.n, accumulate);
            poison_scratch(one);
            poison_scratch(two);
            entry.run(one, params(c));
            entry.run(two, params(again));
            const double margin = worst_margin(c.values(), want, bound);
            ASSERT_LE(margin, 1) << entry.name << " m " << s.m << " n " << s.n << " k " << s.k
                                 << " a " << dtype_name(fa.dtype) << " b " << dtype_name(fb.dtype)
                                 << " out " << dtype_name(out) << " accumulate " << accumulate;
            ASSERT_TRUE(c.untouched_beside()) << entry.name;
            ASSERT_EQ(c.bytes(), again.bytes()) << entry.name << ": bits depend on the threads";
            if (out == DType::kF32) worst = std::max(worst, margin);
          }
          const bool plain_f32 = fa.dtype == DType::kF32;
          ASSERT_EQ(num_entries,
                    supported_isa_levels().size() - 1 -
                        (plain_f32 && supported_isa_levels().back() == IsaLevel::kAvx512Bf16));
        }
      }
    }
  }
  std::printf("worst fp32 error %.3f of its tolerance\n", worst);
}

// Every code of each format decodes to its value: a row of one code times 1.
TEST(ScaledGemmCodes, EveryCodeIsDecodedExactly) {
  Context ctx(1);
  for (const DType dtype : {DType::kE4M3, DType::kE5M2, DType::kE5M6}) {
    const int64_t n = dtype == DType::kE5M6 ? 4096 : 256;
    std::vector<uint16_t> wide(static_cast<size_t>(n));
    std::vector<uint8_t> narrow(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      wide[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
      narrow[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
    }
    void* codes = dtype == DType::kE5M6 ? static_cast<void*>(wide.data()) : narrow.data();
    float unit = 1;
    bf16 one(1.0f);
    const TensorView scale(&unit, DType::kF32, {1, 1}, "scale");
    const ScaledView a{TensorView(&one, DType::kBF16, {1, 1}, "a"), {}, ScaleGrain::kNone};
    for (const GemmLayout layout : {GemmLayout::kNt, GemmLayout::kNn}) {
      const Shape shape = layout == GemmLayout::kNt ? Shape{n, 1} : Shape{1, n};
      const ScaledView b{TensorView(codes, dtype, shape, "b"), scale, ScaleGrain::kTensor};
      Operand c(DType::kF32, {1, n}, "c");
      for (const auto& entry : fast_entries(ScaledGemmParams{layout, a, b, c.view(), false, {}})) {
        entry.run(ctx, {layout, a, b, c.view(), false, {}});
        for (int64_t i = 0; i < n; ++i) {
          const double want = decode(dtype, codes, i);
          if (std::isnan(want)) {
            EXPECT_TRUE(std::isnan(c[i])) << entry.name << " code " << i;
          } else {
            EXPECT_EQ(c[i], want) << entry.name << " " << dtype_name(dtype) << " code " << i;
          }
        }
      }
    }
  }
}

// A NaN scale shows in the elements of its tile and nowhere else; a dropped or shifted scale would
// not pass for the right one.
TEST_P(ScaledGemm, AScaleReachesItsTileOnly) {
  const GemmLayout layout = GetParam();
  const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
  const int64_t m = 20, n = 270, k = 300;
  const Scaled a(DType::kE4M3, tn ? ScaleGrain::kColumn : ScaleGrain::kRow, tn ? k : m, tn ? m : k,
                 1);
  Scaled b(DType::kE4M3, ScaleGrain::kBlock, nt ? n : k, nt ? k : n, 2);
  // The tile of columns 128..255 of c and elements 128..255 of k.
  *b.scale_at(1 + (3 + 2 * Scaled::kPadding)) = NAN;
  Context ctx(1);
  Operand c = output(DType::kF32, m, n, false);
  const ScaledGemmParams p{layout, a.view(), b.view(), c.view(), false, {}};
  for (const auto& entry : fast_entries(p)) {
    entry.run(ctx, p);
    for (int64_t i = 0; i < m * n; ++i) {
      const int64_t column = i % n;
      EXPECT_EQ(std::isnan(c[i]), column >= 128 && column < 256) << entry.name << " " << column;
    }
  }
}

// A row gives the same bits whatever else is in the batch.
TEST(ScaledGemmInvariance, ARowDoesNotDependOnTheOthers) {
  const int64_t m = 150, n = 130, k = 2100;
  Context ctx(2);
  for (const Format& fa :
       {Format{DType::kE4M3, ScaleGrain::kRow}, {DType::kBF16, ScaleGrain::kNone}}) {
    const Scaled a(fa.dtype, fa.grain, m, k, 1), b(DType::kE4M3, ScaleGrain::kBlock, n, k, 2);
    for (const DType out : {DType::kF32, DType::kBF16}) {
      Operand all = output(out, m, n, false);
      const ScaledGemmParams p{GemmLayout::kNt, a.view(), b.view(), all.view(), false, {}};
      for (const auto& entry : fast_entries(p)) {
        entry.run(ctx, p);
        for (const int64_t count : {1, 2, 3, 8, 13, 16, 140}) {
          Operand few = output(out, count, n, false);
          ScaledGemmParams q = p;
          q.a.codes = p.a.codes.rows(5, count);
          if (fa.grain == ScaleGrain::kRow) q.a.scales = p.a.scales.rows(5, count);
          q.c = few.view();
          entry.run(ctx, q);
          for (int64_t i = 0; i < count * n; ++i)
            ASSERT_EQ(few[i], all[5 * n + i]) << entry.name << " " << count;
        }
      }
    }
  }
}

class ScaledGroupedGemm : public ::testing::TestWithParam<GemmLayout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, ScaledGroupedGemm, ::testing::ValuesIn(kLayouts));

TEST_P(ScaledGroupedGemm, EveryEntryMatchesFloat64) {
  const GemmLayout layout = GetParam();
  const bool tn = layout == GemmLayout::kTn, nt = layout == GemmLayout::kNt;
  Context one(1), two(2);
  for (const std::vector<int64_t>& offsets : std::vector<std::vector<int64_t>>{
           {0, 5, 5, 138, 139, 290}, {0, 0, 0, 0}, {0, 1, 2, 3, 130}}) {
    const int64_t E = static_cast<int64_t>(offsets.size()) - 1, rows = offsets.back();
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{33, 147}, {130, 14}, {1, 2051}}) {
      for (const auto& [fa, fb] : formats(layout)) {
        // Blocks of ragged rows would span two experts and are refused.
        if (fa.grain == ScaleGrain::kBlock || (tn && fb.grain == ScaleGrain::kBlock)) continue;
        // The scale of an expert's whole matrix is [1, 1] of each.
        const Scaled a(fa.dtype, fa.grain, rows, k, 3, offsets);
        const Scaled b = tn ? Scaled(fb.dtype, fb.grain, rows, n, 4, offsets)
                            : Scaled(fb.dtype, fb.grain, nt ? n : k, nt ? k : n, 4, {}, E);
        const int64_t c_rows = tn ? E * k : rows;
        for (const bool accumulate : {false, true}) {
          std::vector<double> want, bound;
          for (int64_t e = 0; e < E; ++e) {
            const int64_t begin = offsets[static_cast<size_t>(e)],
                          count = offsets[static_cast<size_t>(e) + 1] - begin;
            for (int64_t i = 0; i < (tn ? k : count) * n; ++i) {
              const Want w = dot(layout, a, b, e, begin, i / n, i % n, tn ? count : k);
              want.push_back(w.value + (accumulate ? kOld : 0));
              bound.push_back(tolerance(w, DType::kF32, tn ? count : k, accumulate));
            }
          }
          const auto params = [&](const Operand& c) {
            TensorView c_view = c.view();
            if (tn) {
              const int64_t ld = c_view.stride[0];
              c_view.shape = Shape{E, k, n};
              c_view.stride = {k * ld, ld, 1};
            }
            return ScaledGroupedGemmParams{layout,         a.view(), b.view(!tn), c_view,
                                           offsets.data(), E,        accumulate,  {}};
          };
          Operand c = output(DType::kF32, c_rows, n, accumulate);
          for (const auto& entry : fast_entries(params(c))) {
            c = output(DType::kF32, c_rows, n, accumulate);
            Operand again = c;
            poison_scratch(one);
            poison_scratch(two);
            entry.run(one, params(c));
            entry.run(two, params(again));
            ASSERT_LE(worst_margin(c.values(), want, bound), 1)
                << entry.name << " rows " << rows << " n " << n << " k " << k << " a "
                << dtype_name(fa.dtype) << " b " << dtype_name(fb.dtype) << " accumulate "
                << accumulate;
            ASSERT_TRUE(c.untouched_beside());
            ASSERT_EQ(c.bytes(), again.bytes());
          }
        }
      }
    }
  }
}

// Emulated accumulators run kernels of their own: never the fp32 ones, and beyond 24 bits the
// reference.
TEST(ScaledGemmTable, EmulatedAccumulatorsRunTheirOwnKernels) {
  const Scaled a(DType::kE4M3, ScaleGrain::kRow, 3, 64, 1),
      b(DType::kE4M3, ScaleGrain::kRow, 4, 64, 2);
  Operand c = output(DType::kF32, 3, 4, false);
  ScaledGemmParams p{GemmLayout::kNt, a.view(), b.view(), c.view(), false, {}};
  const Context ctx(1);
  const auto emulated = [&] {
    return std::string_view(select_kernel(ctx, p).name).find("emulated") != std::string_view::npos;
  };
  EXPECT_FALSE(emulated());
  p.accumulator.model = Accumulator::Model::kAlignAll;
  EXPECT_TRUE(emulated() || ctx.isa() == IsaLevel::kReference);
  p.accumulator.bits = 34;
  EXPECT_EQ(select_kernel(ctx, p).isa, IsaLevel::kReference);
}

}  // namespace
}  // namespace fathom
