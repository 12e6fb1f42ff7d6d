// Products with weights in panels: activations are packed by rows of a tile, weights are read as
// they lie. An item of the loop is a range of panels of one product (expert) times all of its rows:
// weights come from memory once, and a pair of panels stays in the second-level cache while the
// tiles of rows pass.
#include "kernels/cpu/panel_matmul.h"

#include <algorithm>
#include <cstring>

#include "core/integer.h"
#include "kernels/cpu/gemm_blocked.h"
#include "kernels/cpu/panel_kernels.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kItemsPerThread = 8;
// An item reads at least so many bytes of weights, or what a thread's claim costs would show.
constexpr int64_t kMinItemBytes = 32 << 10;
// From so many rows on weights of i8 are decoded into blocks that all rows share, as bf16 ones are
// packed, and not again for every kPanelTileRows of them. The bits are the same: the register tile
// of scaled products sums a group in the same order and promotes it likewise.
constexpr int64_t kManyRows = 32;
// Activations that a thread packs sooner than another wakes.
constexpr int64_t kPackedAlone = 64 << 10;

struct PanelProductJob {
  const std::byte* a = nullptr;
  int64_t a_ld = 0;
  const float* a_scales = nullptr;
  int64_t a_scales_ld = 0;
  const std::byte* b = nullptr;
  const uint16_t* b_scales = nullptr;
  std::byte* c = nullptr;
  int64_t rows = 0;
  // Packed: tiles of rows one after the other.
  int32_t* words = nullptr;
  int32_t* corrections = nullptr;
  float* scales = nullptr;
  int64_t first_pack = 0, first_item = 0, items = 0;

  int64_t num_tiles() const { return div_up(rows, kPanelTileRows); }
  int64_t tile_rows(int64_t tile) const {
    return std::min(kPanelTileRows, rows - tile * kPanelTileRows);
  }
};

class PanelMultiplier {
 public:
  PanelMultiplier(Context& ctx, const PanelKernels& kernels, const ScaledView& a,
                  const ScaledView& b, const TensorView& c, int64_t n, int64_t k, bool accumulate)
      : ctx_(ctx),
        kernels_(kernels),
        integers_(a.codes.dtype == DType::kI8),
        format_(b.codes.dtype == DType::kI4x2 ? kPanelI4 : kPanelI8),
        k_(k),
        groups_(div_up(k, panel_group(b.codes.dtype))),
        panels_(n / kPanelRows),
        panel_bytes_(kPanelRows * (format_ == kPanelI4 ? k / 2 : k)),
        c_bf16_(c.dtype == DType::kBF16),
        ldc_(c.stride[0]),
        accumulate_(accumulate) {}

  void run(PanelProductJob* jobs, int64_t num_jobs);

 private:
  int64_t words() const { return integers_ ? k_ / 4 : k_ / 2; }
  void pack(const PanelProductJob& job, int64_t tile) const;
  int64_t first_panel(const PanelProductJob& job, int64_t item) const {
    return std::min(item * div_up(panels_, kPanelTilePanels) / job.items * kPanelTilePanels,
                    panels_);
  }
  // b_after: what the thread probably reads next, nullptr for nothing.
  void multiply(const PanelProductJob& job, int64_t item, const std::byte* b_after) const;

  Context& ctx_;
  const PanelKernels& kernels_;
  const bool integers_;
  const PanelFormat format_;
  const int64_t k_, groups_, panels_, panel_bytes_;
  const bool c_bf16_;
  const int64_t ldc_;
  const bool accumulate_;
};

void PanelMultiplier::run(PanelProductJob* jobs, int64_t num_jobs) {
  Scratch& scratch = ctx_.scratch();
  Scratch::Mark mark(scratch);
  int64_t num_packs = 0, num_items = 0, total_tiles = 0, total_rows = 0;
  for (int64_t j = 0; j < num_jobs; ++j) {
    total_tiles += jobs[j].num_tiles();
    total_rows += jobs[j].rows;
  }
  const int64_t num_threads = ctx_.threads().num_threads();
  const int64_t wanted = num_threads == 1 ? 1 : num_threads * kItemsPerThread;
  const int64_t pairs = div_up(panels_, kPanelTilePanels);
  for (int64_t j = 0; j < num_jobs; ++j) {
    PanelProductJob& job = jobs[j];
    const int64_t most =
        std::max<int64_t>(1, panels_ * panel_bytes_ * job.num_tiles() / kMinItemBytes);
    job.items = std::clamp<int64_t>(div_up(wanted * job.num_tiles(), total_tiles), 1,
                                    std::min(most, pairs));
    job.first_pack = num_packs;
    job.first_item = num_items;
    num_packs += job.num_tiles();
    num_items += job.items;
    job.words = scratch.allocate<int32_t>(job.rows * words(), "panel_words");
    if (!integers_) continue;
    job.corrections = scratch.allocate<int32_t>(job.rows * groups_, "panel_corrections");
    job.scales = scratch.allocate<float>(job.rows * div_up(k_, kScaleTile), "panel_row_scales");
  }
  const auto job_of = [&](int64_t PanelProductJob::*first, int64_t i) -> const PanelProductJob& {
    return *(
        std::upper_bound(jobs, jobs + num_jobs, i,
                         [&](int64_t x, const PanelProductJob& job) { return x < job.*first; }) -
        1);
  };
  const auto pack_one = [&](int64_t i, int) {
    const PanelProductJob& job = job_of(&PanelProductJob::first_pack, i);
    pack(job, i - job.first_pack);
  };
  if (total_rows * k_ <= kPackedAlone) {
    for (int64_t i = 0; i < num_packs; ++i) pack_one(i, 0);
  } else {
    ctx_.threads().parallel_for(num_packs, pack_one);
  }
  ctx_.threads().parallel_for(num_items, [&](int64_t i, int) {
    const PanelProductJob& job = job_of(&PanelProductJob::first_item, i);
    const bool more = job.first_item + job.items > i + 1;
    const PanelProductJob* next = more ? &job : &job + 1 < jobs + num_jobs ? &job + 1 : nullptr;
    const std::byte* b_after =
        next ? next->b + first_panel(*next, i + 1 - next->first_item) * panel_bytes_ : nullptr;
    multiply(job, i - job.first_item, b_after);
  });
}

void PanelMultiplier::pack(const PanelProductJob& job, int64_t tile) const {
  const int64_t begin = tile * kPanelTileRows, rows = job.tile_rows(tile);
  int32_t* out = job.words + begin * words();
  const int64_t slices = div_up(k_, kScaleTile);
  for (int64_t m = 0; m < rows; ++m) {
    const std::byte* row = job.a + (begin + m) * job.a_ld * (integers_ ? 1 : 2);
    if (!integers_ && rows == 1) {
      std::memcpy(out, row, static_cast<size_t>(words() * 4));
      continue;
    }
    if (!integers_) {
      for (int64_t i = 0; i < words(); ++i) std::memcpy(out + i * rows + m, row + i * 4, 4);
      continue;
    }
    kernels_.pack_i8[format_](reinterpret_cast<const int8_t*>(row), k_, rows, out + m,
                              job.corrections + begin * groups_ + m);
    const float* scales = job.a_scales + (begin + m) * job.a_scales_ld;
    float* out_scales = job.scales + begin * slices + m;
    for (int64_t s = 0; s < slices; ++s) out_scales[s * rows] = scales[s];
  }
}

void PanelMultiplier::multiply(const PanelProductJob& job, int64_t item,
                               const std::byte* b_after) const {
  const int64_t begin = first_panel(job, item), end = first_panel(job, item + 1);
  const auto run_tile = (integers_ ? kernels_.of_i8 : kernels_.of_bf16)[format_];
  const int64_t most = job.rows <= kPanelFewRows ? kFewRowsPanels : kPanelTilePanels;
  for (int64_t panel = begin, panels = 0; panel < end; panel += panels) {
    panels = std::min(most, end - panel);
    if (panels == 3) panels = 2;
    for (int64_t tile = 0; tile < job.num_tiles(); ++tile) {
      const int64_t row = tile * kPanelTileRows;
      PanelTile t;
      t.a = job.words + row * words();
      t.a_corrections = integers_ ? job.corrections + row * groups_ : nullptr;
      t.a_scales = integers_ ? job.scales + row * div_up(k_, kScaleTile) : nullptr;
      t.rows = job.tile_rows(tile);
      t.panels = panels;
      t.k = k_;
      t.b = job.b + panel * panel_bytes_;
      t.panel_bytes = panel_bytes_;
      t.b_scales = job.b_scales + panel * groups_ * kPanelRows;
      t.panel_scales = groups_ * kPanelRows;
      t.b_after = panel + panels < end ? job.b + (panel + panels) * panel_bytes_ : b_after;
      t.c = job.c + (row * ldc_ + panel * kPanelRows) * (c_bf16_ ? 2 : 4);
      t.ldc = ldc_;
      t.c_bf16 = c_bf16_;
      t.add_c = accumulate_;
      run_tile(t);
    }
  }
}

// Rows [begin, begin + rows) of a and c, with one matrix of weights.
PanelProductJob job_of(const ScaledView& a, const ScaledView& b, const TensorView& c, int64_t begin,
                       int64_t rows) {
  PanelProductJob job;
  job.a = static_cast<const std::byte*>(a.codes.data) +
          begin * a.codes.stride[0] * dtype_bytes(a.codes.dtype);
  job.a_ld = a.codes.stride[0];
  if (a.grain == ScaleGrain::kRow) {
    job.a_scales = a.scales.as<float>() + begin * a.scales.stride[0];
    job.a_scales_ld = a.scales.stride[0];
  }
  job.b = static_cast<const std::byte*>(b.codes.data);
  job.b_scales = static_cast<const uint16_t*>(b.scales.data);
  job.c = static_cast<std::byte*>(c.data) + begin * c.stride[0] * dtype_bytes(c.dtype);
  job.rows = rows;
  return job;
}

bool is_blocked(const ScaledView& a, const ScaledView& b, int64_t rows) {
  return rows >= kManyRows && a.codes.dtype == DType::kBF16 && b.codes.dtype == DType::kI8;
}
Product blocked_product(const PanelProductJob& job, int64_t n, int64_t ldc, int64_t k) {
  const int64_t groups = div_up(k, panel_group(DType::kI8));
  Product p;
  p.a = job.a;
  p.b = job.b;
  p.c = job.c;
  p.m = job.rows;
  p.n = n;
  p.k = p.ldb = k;
  p.lda = job.a_ld;
  p.ldc = ldc;
  p.b_scales.panels = reinterpret_cast<const bf16*>(job.b_scales);
  p.b_scales.lane_stride = groups * kPanelRows;
  p.b_scales.slice_stride = kPanelRows;
  return p;
}
ProductKind blocked_kind(const TensorView& c, bool accumulate) {
  return {.a_source = kSourceBf16,
          .b_source = kSourceI8Panels,
          .c_bf16 = c.dtype == DType::kBF16,
          .accumulate = accumulate,
          .scaled = true};
}

template <typename Params>
bool supports(const Params& p) {
  return p.b.grain == ScaleGrain::kPanel && panel_has_scales(p.b.codes.dtype) &&
         p.a.codes.dtype != DType::kF32;
}

// One of the products side by side, or the only one.
struct OneProduct {
  ScaledView a, b;
  TensorView c;
};
int64_t num_products(const ScaledGemmParams& p) { return p.c.shape.num_dims == 3 ? p.c.dim(0) : 1; }
OneProduct product(const ScaledGemmParams& p, int64_t i) {
  if (p.c.shape.num_dims == 2) return {p.a, p.b, p.c};
  return {
      {p.a.codes.at(i), {}, p.a.grain}, {p.b.codes.at(i), p.b.scales.at(i), p.b.grain}, p.c.at(i)};
}

// Contracted over the rows of the weights: c = a b.
void multiply_columns(Context& ctx, const ScaledGemmParams& p) {
  constexpr int64_t kRowsAtOnce = 2;
  const int64_t count = num_products(p);
  const OneProduct first = product(p, 0);
  const int64_t m = first.c.dim(0), n = first.c.dim(1), k = first.a.codes.dim(1);
  const PanelFormat format = p.b.codes.dtype == DType::kI4x2 ? kPanelI4 : kPanelI8;
  const int64_t groups = div_up(n, panel_group(p.b.codes.dtype));
  Scratch& scratch = ctx.scratch();
  Scratch::Mark mark(scratch);
  float* a = scratch.allocate<float>(count * m * k, "panel_rows");
  const auto widen_row = [&](int64_t row, int) {
    const OneProduct one = product(p, row / m);
    const bf16* from = one.a.codes.as<bf16>() + row % m * one.a.codes.stride[0];
    for (int64_t l = 0; l < k; ++l) a[row * k + l] = static_cast<float>(from[l]);
  };
  if (count * m * k <= kPackedAlone) {
    for (int64_t row = 0; row < count * m; ++row) widen_row(row, 0);
  } else {
    ctx.threads().parallel_for(count * m, widen_row);
  }
  const int64_t wanted = div_up(ctx.threads().num_threads() * kItemsPerThread, count);
  const int64_t parts = std::clamp<int64_t>(wanted, 1, n / kPanelColumns);
  ctx.threads().parallel_for(count * parts, [&](int64_t item, int) {
    const OneProduct one = product(p, item / parts);
    const int64_t part = item % parts, units = n / kPanelColumns;
    PanelColumns t;
    t.a_ld = k;
    t.panels = k / kPanelRows;
    t.begin = part * units / parts * kPanelColumns;
    t.end = (part + 1) * units / parts * kPanelColumns;
    t.b = one.b.codes.data;
    t.panel_bytes = kPanelRows * (format == kPanelI4 ? n / 2 : n);
    t.b_scales = one.b.scales.data;
    t.panel_scales = groups * kPanelRows;
    t.ldc = one.c.stride[0];
    t.c_bf16 = one.c.dtype == DType::kBF16;
    t.add_c = p.accumulate;
    for (int64_t row = 0; row < m; row += t.rows) {
      t.rows = std::min(kRowsAtOnce, m - row);
      t.a = a + (item / parts * m + row) * k;
      t.c = static_cast<std::byte*>(one.c.data) + row * t.ldc * (t.c_bf16 ? 2 : 4);
      kPanelAvx512Bf16.columns[format](t);
    }
  });
}

}  // namespace

bool panel_gemm_supports(const ScaledGemmParams& p) { return supports(p); }
bool panel_grouped_gemm_supports(const ScaledGroupedGemmParams& p) {
  return supports(p) && p.layout == GemmLayout::kNt;
}

void panel_gemm_avx512bf16(Context& ctx, const ScaledGemmParams& p) {
  if (p.c.shape.num_elements() == 0) return;
  if (p.layout == GemmLayout::kNn) return multiply_columns(ctx, p);
  Scratch::Mark mark(ctx.scratch());
  const int64_t count = num_products(p);
  auto* jobs = ctx.scratch().allocate_structs<PanelProductJob>(count, "panel_jobs");
  for (int64_t i = 0; i < count; ++i) {
    const OneProduct one = product(p, i);
    new (jobs + i) PanelProductJob(job_of(one.a, one.b, one.c, 0, one.c.dim(0)));
  }
  const OneProduct first = product(p, 0);
  const int64_t n = first.c.dim(1), k = first.a.codes.dim(1);
  if (is_blocked(p.a, p.b, first.c.dim(0))) {
    auto* products = ctx.scratch().allocate_structs<Product>(count, "panel_products");
    for (int64_t i = 0; i < count; ++i)
      new (products + i) Product(blocked_product(jobs[i], n, first.c.stride[0], k));
    return multiply(ctx, kGemmAvx512Bf16, blocked_kind(p.c, p.accumulate), products, count);
  }
  PanelMultiplier(ctx, kPanelAvx512Bf16, first.a, first.b, first.c, n, k, p.accumulate)
      .run(jobs, count);
}

void panel_grouped_gemm_avx512bf16(Context& ctx, const ScaledGroupedGemmParams& p) {
  if (p.c.dim(1) == 0) return;
  Scratch::Mark mark(ctx.scratch());
  auto* jobs = ctx.scratch().allocate_structs<PanelProductJob>(p.num_experts, "panel_jobs");
  auto* products = ctx.scratch().allocate_structs<Product>(p.num_experts, "panel_products");
  const int64_t n = p.c.dim(1), k = p.a.codes.dim(1);
  int64_t num_jobs = 0, num_products = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t begin = p.offsets[e], rows = p.offsets[e + 1] - begin;
    if (rows == 0) continue;
    const ScaledView b{p.b.codes.at(e), p.b.scales.at(e), p.b.grain};
    const PanelProductJob job = job_of(p.a, b, p.c, begin, rows);
    if (is_blocked(p.a, p.b, rows)) {
      new (products + num_products++) Product(blocked_product(job, n, p.c.stride[0], k));
    } else {
      new (jobs + num_jobs++) PanelProductJob(job);
    }
  }
  if (num_jobs > 0) {
    PanelMultiplier(ctx, kPanelAvx512Bf16, p.a, p.b, p.c, n, k, p.accumulate).run(jobs, num_jobs);
  }
  if (num_products > 0) {
    multiply(ctx, kGemmAvx512Bf16, blocked_kind(p.c, p.accumulate), products, num_products);
  }
}

bool quantize_i8_supports(const QuantizeParams& p) {
  return p.x.grain == ScaleGrain::kNone && p.y.codes.dtype == DType::kI8 &&
         p.y.grain == ScaleGrain::kRow;
}

void quantize_i8_avx512(Context& ctx, const QuantizeParams& p) {
  const int64_t rows = p.x.codes.dim(0), cols = p.x.codes.dim(1);
  const bool is_bf16 = p.x.codes.dtype == DType::kBF16;
  const auto quantize_row = [&](int64_t row, int) {
    const auto* x = static_cast<const std::byte*>(p.x.codes.data) +
                    row * p.x.codes.stride[0] * (is_bf16 ? 2 : 4);
    int8_t* codes = static_cast<int8_t*>(p.y.codes.data) + row * p.y.codes.stride[0];
    float* scales = p.y.scales.as<float>() + row * p.y.scales.stride[0];
    for (int64_t begin = 0; begin < cols; begin += kScaleTile) {
      scales[begin / kScaleTile] = quantize_i8_group_avx512(x + begin * (is_bf16 ? 2 : 4), is_bf16,
                                                            std::min(kScaleTile, cols - begin),
                                                            p.power_of_two, codes + begin);
    }
  };
  if (rows * cols <= int64_t{32} << 10) {  // done before another thread wakes
    for (int64_t row = 0; row < rows; ++row) quantize_row(row, 0);
  } else {
    ctx.threads().parallel_for(rows, quantize_row);
  }
}

}  // namespace fathom::cpu
