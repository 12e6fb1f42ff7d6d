// Blocked matrix products (Goto & van de Geijn 2008), dense and grouped.
//
// The limit. A product of m, n, k does 2 m n k operations on 2 (m k + k n) bytes of bf16 and 2..4 m
// n of output; at m = 4096, n = 1024, k = 512 that is 300 FLOP a byte, so the multiplier bounds it:
// one 512-bit FMA (32 FLOP) or VDPBF16PS (64 FLOP) a cycle, measured 117 and 234 GFLOP/s a core
// at 3.66 GHz. Below about 16 rows the weights bound it: each is read once from memory for 2 m
// operations.
//
// The plan. Of each product the smaller operand is packed once, in parallel, and shared by all
// threads; the other is cut into blocks of panels, and the thread that takes a block packs it, k
// block by k block, into its own second-level cache and multiplies it with all of the shared
// operand. While tiles multiply they ask the second-level cache for what is packed next, so that
// packing does not wait for memory. Up to kStreamRows rows (decoding) the weights are not packed at
// all where the instruction set has a kernel that reads them as they lie; it sums in the same
// order, so that a token's result does not depend on how many others are in the batch. Rejected:
// always packing b first, which reads weights twice when there are few rows; dot products along k
// for a single row, whose order of summation would be another one.
//
// A list of products (experts) becomes batches of jobs that share one packing loop and one
// multiplying loop, so that ragged experts balance across threads without a barrier between them.
#include "kernels/cpu/gemm_blocked.h"

#include <algorithm>

#include "core/integer.h"

namespace fathom::cpu {
namespace {

// One own block is at most 8 x 14 rows or 4 x 32 columns, and as much of kBlockK of them as the
// second-level cache holds beside what they are multiplied with.
constexpr int64_t kMaxBlockRows = 112, kMaxBlockCols = 128;
constexpr int64_t kMaxBlockBytes = 384 << 10;
// Jobs of a batch beyond one for each product: large products are cut into several.
constexpr int64_t kMoreJobs = 3;
constexpr int64_t kItemsPerThread = 12;
constexpr int64_t kLineBytes = 64;
// Less than this is packed by the caller: handing it out costs more.
constexpr int64_t kHandedOutPackBytes = 16 << 10;

// One side of a product: its lanes are the rows of a or the columns of b.
struct Side {
  const std::byte* data = nullptr;
  int64_t ld = 0;
  int64_t first_lane = 0;  // of the product: where this side begins
  int64_t lanes = 0;
  int64_t width = 0;  // of a panel
  bool k_contiguous = false;
  Source source = kSourceF32;
  ScaleGrid scales;

  int64_t num_panels() const { return div_up(lanes, width); }
  const void* at(int64_t lane, int64_t k) const {
    if (is_panels(source)) return data + (lane * ld + k * kSourcePanelRows) * source_bytes(source);
    return data + (k_contiguous ? lane * ld + k : k * ld + lane) * source_bytes(source);
  }
};

// A product, or some shared lanes of it.
struct Job {
  const Product* product = nullptr;
  Side own, shared;
  bool b_shared = false;
  void (*stream)(const GemmStream& s) = nullptr;  // for a few rows: b is not packed
  std::byte* packed = nullptr;
  float* packed_scales = nullptr;
  int64_t shared_panels = 0;
  int64_t block_panels = 0;  // own panels of an item
  // From here on blocks are small, so that threads end together.
  int64_t first_small_block = 0, small_block_panels = 1;
  int64_t num_blocks = 0;
  int64_t first_item = 0, first_pack = 0;

  // The first own panel of a block, that of block num_blocks being behind the last.
  int64_t block_begin(int64_t block) const {
    const int64_t small = std::max<int64_t>(0, block - first_small_block);
    return std::min((block - small) * block_panels + small * small_block_panels, own.num_panels());
  }
};

class Multiplier {
 public:
  Multiplier(Context& ctx, const GemmKernels& kernels, const ProductKind& kind)
      : ctx_(ctx), kernels_(kernels), kind_(kind), k_step_shift_(kernels.k_step == 2 ? 1 : 0) {}

  void run(const Product* products, int64_t num_products);

 private:
  Side side(const Product& p, bool is_b) const;
  Job make_job(const Product& p, int64_t shared_lane) const;
  void (*stream_of(const Product& p) const)(const GemmStream& s);
  // Of a tile: asked for at every one, so without a division.
  int64_t groups(int64_t k) const { return (k + kernels_.k_step - 1) >> k_step_shift_; }
  int64_t panel_bytes(const Side& s, int64_t k) const {
    return s.width * (groups(k) << k_step_shift_) * kernels_.packed_bytes;
  }
  // Tiles read a thread's own block where it lies: it is not packed. (What all threads share is: it
  // passes through the first-level cache once for every block, faster as one run of memory.)
  bool own_is_ready(const Job& job) const {
    return kernels_.takes_panels && job.own.source == kSourceBf16Panels && !kind_.scaled;
  }
  void pack(const Side& s, int64_t panel, int64_t k_begin, int64_t k_count, std::byte* out) const;
  // Scales of a panel for the slices of k elements.
  int64_t panel_scales(const Side& s, int64_t k) const {
    return kind_.scaled ? s.width * div_up(k, kSliceK) : 0;
  }
  void pack_scales(const Side& s, int64_t panel, int64_t k_begin, int64_t k_count,
                   float* out) const;
  // Where a shared panel's block of k lies.
  std::byte* shared_panel(const Job& job, int64_t panel, int64_t k_begin, int64_t k_count) const {
    return job.packed + panel_bytes(job.shared, k_begin) * job.shared_panels +
           panel_bytes(job.shared, k_count) * panel;
  }
  void run_batch(Job* jobs, int64_t num_jobs);
  void pack_shared(const Job& job, int64_t panel) const;
  Ask ask_for(const Side& s, int64_t panel_begin, int64_t panel_end, int64_t k_begin,
              int64_t k_count, int64_t num_tiles) const;
  void run_item(const Job& job, int64_t block, int thread_idx) const;
  void run_stream(const Job& job, int64_t item, const void* next_rows, int thread_idx) const;
  void run_tile(const Job& job, int64_t own_panel, const void* own, const float* own_scales,
                int64_t shared_panel_idx, int64_t k_begin, int64_t k_count, float* partial,
                int64_t partial_own, int64_t partial_shared, int64_t ld_partial, Ask* ask) const;

  Context& ctx_;
  const GemmKernels& kernels_;
  const ProductKind kind_;
  const int k_step_shift_;  // k_step is 1 or 2
};

Side Multiplier::side(const Product& p, bool is_b) const {
  Side s;
  s.data = static_cast<const std::byte*>(is_b ? p.b : p.a);
  s.ld = is_b ? p.ldb : p.lda;
  s.lanes = is_b ? p.n : p.m;
  s.width = is_b ? kernels_.nr : kernels_.mr;
  s.k_contiguous = is_b ? kind_.layout == GemmLayout::kNt : kind_.layout != GemmLayout::kTn;
  s.source = is_b ? kind_.b_source : kind_.a_source;
  s.scales = is_b ? p.b_scales : p.a_scales;
  return s;
}

// The kernel that reads b where it lies, if there is one for this product.
void (*Multiplier::stream_of(const Product& p) const)(const GemmStream& s) {
  if (kernels_.stream == nullptr || p.m > kStreamRows || kind_.layout != GemmLayout::kNt)
    return nullptr;
  if (kind_.b_source == kSourceBf16Panels) return kernels_.stream->bf16_panels;
  if (!kind_.scaled) {
    return kind_.b_source == kSourceF32    ? kernels_.stream->f32
           : kind_.b_source == kSourceBf16 ? kernels_.stream->bf16
                                           : nullptr;
  }
  return kind_.b_source == kSourceE4m3         ? kernels_.stream->e4m3
         : kind_.b_source == kSourceE5m2       ? kernels_.stream->e5m2
         : kind_.b_source == kSourceE4m3Panels ? kernels_.stream->e4m3_panels
                                               : nullptr;
}

// The job of a product's shared lanes from `shared_lane` on, as many as one job holds.
Job Multiplier::make_job(const Product& p, int64_t shared_lane) const {
  Job job;
  job.product = &p;
  job.stream = stream_of(p);
  job.b_shared = job.stream == nullptr && p.n <= p.m;
  job.own = side(p, !job.b_shared);
  job.shared = side(p, job.b_shared);
  if (job.stream != nullptr) job.shared.width = p.m;
  const int64_t max_panels =
      std::max<int64_t>(1, std::min(kind_.batch_panel_bytes, kind_.job_panel_bytes) /
                               std::max<int64_t>(1, panel_bytes(job.shared, p.k)));
  job.shared.data = static_cast<const std::byte*>(job.shared.at(shared_lane, 0));
  job.shared.first_lane = shared_lane;
  job.shared.lanes = std::min(job.shared.lanes - shared_lane, max_panels * job.shared.width);
  return job;
}

void Multiplier::run(const Product* products, int64_t num_products) {
  Scratch::Mark mark(ctx_.scratch());
  const int64_t max_jobs = num_products + kMoreJobs;
  Job* jobs = ctx_.scratch().allocate_structs<Job>(max_jobs, "gemm_jobs");
  int64_t num_jobs = 0, batch_bytes = 0;
  for (int64_t i = 0; i < num_products; ++i) {
    const Product& p = products[i];
    if (p.m == 0 || p.n == 0) continue;
    if (p.k == 0 && kind_.accumulate) continue;
    for (int64_t lane = 0, lanes = stream_of(p) || p.m < p.n ? p.m : p.n; lane < lanes;) {
      const Job job = make_job(p, lane);
      const int64_t bytes = job.shared.num_panels() * panel_bytes(job.shared, p.k);
      if (num_jobs == max_jobs || (num_jobs > 0 && batch_bytes + bytes > kind_.batch_panel_bytes)) {
        run_batch(jobs, num_jobs);
        num_jobs = batch_bytes = 0;
      }
      new (jobs + num_jobs++) Job(job);
      batch_bytes += bytes;
      lane += job.shared.lanes;
    }
  }
  if (num_jobs > 0) run_batch(jobs, num_jobs);
}

void Multiplier::run_batch(Job* jobs, int64_t num_jobs) {
  Scratch::Mark mark(ctx_.scratch());
  int64_t total_work = 0;  // own panels, weighted by the shared panels that each is multiplied with
  for (int64_t j = 0; j < num_jobs; ++j)
    total_work += jobs[j].own.num_panels() * jobs[j].shared.num_panels();
  const int num_threads = ctx_.threads().num_threads();
  const int64_t item_work =
      num_threads == 1 ? total_work : div_up(total_work, num_threads * kItemsPerThread);
  int64_t num_items = 0, num_packs = 0, pack_bytes = 0;
  for (int64_t j = 0; j < num_jobs; ++j) {
    Job& job = jobs[j];
    job.shared_panels = job.shared.num_panels();
    const int64_t k = job.product->k, own_panels = job.own.num_panels(),
                  shared_panels = job.shared_panels;
    int64_t max_block = (job.b_shared ? kMaxBlockRows : kMaxBlockCols) / job.own.width;
    if (job.stream == nullptr && k > 0) {
      max_block = std::clamp<int64_t>(kMaxBlockBytes / panel_bytes(job.own, std::min(k, kBlockK)),
                                      1, max_block);
    }
    const int64_t block = std::clamp<int64_t>(item_work / shared_panels, 1, max_block);
    job.num_blocks = div_up(own_panels, block);
    job.block_panels = div_up(own_panels, job.num_blocks);
    job.num_blocks = div_up(own_panels, job.block_panels);
    job.first_small_block = job.num_blocks;
    if (num_threads > 1 && j == num_jobs - 1 && job.block_panels > 1) {
      const int64_t num_last = std::min<int64_t>(job.num_blocks, num_threads);
      job.first_small_block = job.num_blocks - num_last;
      job.small_block_panels = div_up(job.block_panels, 4);
      job.num_blocks =
          job.first_small_block +
          div_up(own_panels - job.first_small_block * job.block_panels, job.small_block_panels);
    }
    job.first_item = num_items;
    job.first_pack = num_packs;
    num_items += job.num_blocks;
    num_packs += shared_panels;
    const int64_t job_bytes = shared_panels * panel_bytes(job.shared, k);
    pack_bytes += job_bytes;
    job.packed = reinterpret_cast<std::byte*>(
        ctx_.scratch().allocate<uint8_t>(job_bytes, "gemm_shared_panels"));
    if (kind_.scaled) {
      job.packed_scales = ctx_.scratch().allocate<float>(
          shared_panels * panel_scales(job.shared, k), "gemm_shared_scales");
    }
  }
  const auto job_of = [&](int64_t Job::*first, int64_t index) -> const Job& {
    return *(std::upper_bound(jobs, jobs + num_jobs, index,
                              [&](int64_t i, const Job& job) { return i < job.*first; }) -
             1);
  };
  const auto pack_one = [&](int64_t i, int) {
    const Job& job = job_of(&Job::first_pack, i);
    pack_shared(job, i - job.first_pack);
  };
  if (pack_bytes < kHandedOutPackBytes) {
    for (int64_t i = 0; i < num_packs; ++i) pack_one(i, 0);
  } else {
    ctx_.threads().parallel_for(num_packs, pack_one);
  }
  // What a thread that streams b reads next, probably: the item that the others leave it.
  const auto rows_of = [&](int64_t i) -> const void* {
    if (i >= num_items) return nullptr;
    const Job& job = job_of(&Job::first_item, i);
    return job.own.at(job.block_begin(i - job.first_item) * job.own.width, 0);
  };
  ctx_.threads().parallel_for(num_items, [&](int64_t i, int thread_idx) {
    const Job& job = job_of(&Job::first_item, i);
    job.stream != nullptr
        ? run_stream(job, i - job.first_item, rows_of(i + num_threads), thread_idx)
        : run_item(job, i - job.first_item, thread_idx);
  });
}

void Multiplier::pack(const Side& s, int64_t panel, int64_t k_begin, int64_t k_count,
                      std::byte* out) const {
  const int64_t lane = panel * s.width, lanes = std::min(s.width, s.lanes - lane);
  const PackFunction function =
      (s.k_contiguous ? kernels_.pack_k_contiguous : kernels_.pack_lane_contiguous)[s.source];
  function(s.at(lane, k_begin), s.ld, lanes, k_count, s.width, out);
}

// [slices][width]; lanes that do not exist get 0.
void Multiplier::pack_scales(const Side& s, int64_t panel, int64_t k_begin, int64_t k_count,
                             float* out) const {
  const ScaleGrid& grid = s.scales;
  const int64_t lane = panel * s.width, lanes = std::min(s.width, s.lanes - lane);
  const int64_t first_lane = grid.first_lane + s.first_lane + lane;
  const int64_t slice_begin = k_begin / kSliceK, slice_end = div_up(k_begin + k_count, kSliceK);
  for (int64_t slice = slice_begin; slice < slice_end; ++slice, out += s.width) {
    if (grid.panels != nullptr) {
      const bf16* scales = grid.panels + slice * grid.slice_stride;
      for (int64_t i = 0; i < lanes; ++i) {
        const int64_t of = first_lane + i;
        out[i] = static_cast<float>(
            scales[of / kSourcePanelRows * grid.lane_stride + of % kSourcePanelRows]);
      }
      std::fill(out + lanes, out + s.width, 0.0f);
      continue;
    }
    if (grid.data == nullptr) {
      std::fill_n(out, s.width, 1.0f);
      continue;
    }
    const float* row = grid.data + slice * grid.slice_stride;
    const int64_t begin = first_lane / grid.lanes_per_scale * grid.lane_stride;
    if ((first_lane + lanes - 1) / grid.lanes_per_scale * grid.lane_stride == begin) {
      std::fill_n(out, s.width, row[begin]);
      continue;
    }
    for (int64_t i = 0; i < lanes; ++i)
      out[i] = row[(first_lane + i) / grid.lanes_per_scale * grid.lane_stride];
    std::fill(out + lanes, out + s.width, 0.0f);
  }
}

void Multiplier::pack_shared(const Job& job, int64_t panel) const {
  const int64_t k = job.product->k;
  for (int64_t k_begin = 0; k_begin < k; k_begin += kBlockK) {
    const int64_t k_count = std::min(kBlockK, k - k_begin);
    pack(job.shared, panel, k_begin, k_count, shared_panel(job, panel, k_begin, k_count));
  }
  if (kind_.scaled)
    pack_scales(job.shared, panel, 0, k, job.packed_scales + panel * panel_scales(job.shared, k));
}

// The lines of some panels' elements, to be asked for in the course of num_tiles tiles.
Ask Multiplier::ask_for(const Side& s, int64_t panel_begin, int64_t panel_end, int64_t k_begin,
                        int64_t k_count, int64_t num_tiles) const {
  const int64_t lane = panel_begin * s.width;
  const int64_t lanes = std::min(panel_end * s.width, s.lanes) - lane;
  if (lanes <= 0 || k_count <= 0) return {};
  // A panel's k are one run of memory.
  const int64_t together = is_panels(s.source) ? kSourcePanelRows : 1;
  const int64_t num_rows = s.k_contiguous ? div_up(lanes, together) : k_count;
  const int64_t row_bytes = (s.k_contiguous ? k_count * together : lanes) * source_bytes(s.source);
  Ask ask;
  ask.row = static_cast<const char*>(s.at(lane, k_begin));
  const auto in_line = static_cast<int64_t>(reinterpret_cast<uintptr_t>(ask.row) % kLineBytes);
  ask.row -= in_line;
  ask.ld_bytes = s.ld * together * source_bytes(s.source);
  ask.row_lines = div_up(in_line + row_bytes, kLineBytes);
  ask.lines_left = num_rows * ask.row_lines;
  const int64_t turns = num_tiles * div_up(k_count, kernels_.k_step * kAskGroups);
  ask.lines_per_turn = div_up(ask.lines_left, turns);
  return ask;
}

// One block of own panels times all shared panels.
void Multiplier::run_item(const Job& job, int64_t block, int thread_idx) const {
  Scratch& scratch = ctx_.thread_scratch(thread_idx);
  Scratch::Mark mark(scratch);
  const int64_t k = job.product->k;
  const int64_t own_begin = job.block_begin(block), own_end = job.block_begin(block + 1);
  const int64_t own_lanes = (own_end - own_begin) * job.own.width;
  const int64_t shared_lanes = job.shared_panels * job.shared.width;
  const bool own_ready = own_is_ready(job);
  std::byte* own = own_ready
                       ? nullptr
                       : reinterpret_cast<std::byte*>(scratch.allocate<uint8_t>(
                             (own_end - own_begin) * panel_bytes(job.own, std::min(k, kBlockK)),
                             "gemm_own_panels"));
  const int64_t block_scales = panel_scales(job.own, std::min(k, kBlockK));
  float* own_scales = kind_.scaled ? scratch.allocate<float>((own_end - own_begin) * block_scales,
                                                             "gemm_own_scales")
                                   : nullptr;
  const bool needs_partial = kind_.c_bf16 && k > kBlockK;
  float* partial = needs_partial
                       ? scratch.allocate<float>(own_lanes * shared_lanes, "gemm_partial_sums")
                       : nullptr;
  const int64_t ld_partial = job.b_shared ? shared_lanes : own_lanes;

  Ask ask;
  const auto tile = [&](int64_t o, int64_t s, int64_t k_begin, int64_t k_count,
                        int64_t own_panel_bytes) {
    const void* own_panel = own_ready ? job.own.at(o * job.own.width, k_begin)
                                      : own + (o - own_begin) * own_panel_bytes;
    run_tile(job, o, own_panel, own_scales + (o - own_begin) * block_scales, s, k_begin, k_count,
             partial, (o - own_begin) * job.own.width, s * job.shared.width, ld_partial, &ask);
  };
  // k = 0 still has to write zeros.
  for (int64_t k_begin = 0; k_begin == 0 || k_begin < k; k_begin += kBlockK) {
    const int64_t k_count = std::min(kBlockK, k - k_begin);
    const int64_t own_panel_bytes = panel_bytes(job.own, k_count);
    // What this thread probably packs next: the next block of k, or the first of a later item.
    const int64_t num_tiles = (own_end - own_begin) * job.shared_panels;
    const int64_t k_next = k_begin + k_count;
    if (k_next < k) {
      ask = ask_for(job.own, own_begin, own_end, k_next, std::min(kBlockK, k - k_next), num_tiles);
    } else {
      const int64_t next = block + ctx_.threads().num_threads();
      ask = next < job.num_blocks
                ? ask_for(job.own, job.block_begin(next), job.block_begin(next + 1), 0,
                          std::min(kBlockK, k), num_tiles)
                : Ask{};
    }
    const bool few_shared =
        job.shared_panels <= 2;  // use the own panel while it is in the first-level cache
    for (int64_t o = own_begin; o < own_end; ++o) {
      if (!own_ready) pack(job.own, o, k_begin, k_count, own + (o - own_begin) * own_panel_bytes);
      if (kind_.scaled)
        pack_scales(job.own, o, k_begin, k_count, own_scales + (o - own_begin) * block_scales);
      if (!few_shared) continue;
      for (int64_t s = 0; s < job.shared_panels; ++s) tile(o, s, k_begin, k_count, own_panel_bytes);
    }
    if (few_shared) continue;
    for (int64_t s = 0; s < job.shared_panels; ++s) {
      for (int64_t o = own_begin; o < own_end; ++o) tile(o, s, k_begin, k_count, own_panel_bytes);
    }
  }
}

// One block of b's panels, read where they lie, times all rows.
void Multiplier::run_stream(const Job& job, int64_t item, const void* next_rows,
                            int thread_idx) const {
  Scratch& scratch = ctx_.thread_scratch(thread_idx);
  Scratch::Mark mark(scratch);
  const Product& p = *job.product;
  const int64_t begin = job.block_begin(item), end = job.block_begin(item + 1);
  float* scales = kind_.scaled
                      ? scratch.allocate<float>(panel_scales(job.own, p.k), "gemm_own_scales")
                      : nullptr;
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t lane = panel * job.own.width;
    if (kind_.scaled) pack_scales(job.own, panel, 0, p.k, scales);
    GemmStream s;
    s.a = job.packed;
    s.rows = p.m;
    s.b = job.own.at(lane, 0);
    s.ldb = job.own.ld;
    s.lanes = std::min(job.own.width, job.own.lanes - lane);
    s.k = p.k;
    s.lanes_after = std::min(end * job.own.width, job.own.lanes) - lane - s.lanes;
    s.next_rows = next_rows;
    s.a_scales = job.packed_scales;
    s.b_scales = scales;
    s.c = static_cast<std::byte*>(p.c) + lane * (kind_.c_bf16 ? 2 : 4);
    s.ldc = p.ldc;
    s.c_bf16 = kind_.c_bf16;
    s.add_c = kind_.accumulate;
    job.stream(s);
  }
}

void Multiplier::run_tile(const Job& job, int64_t own_panel, const void* own,
                          const float* own_scales, int64_t shared_panel_idx, int64_t k_begin,
                          int64_t k_count, float* partial, int64_t partial_own,
                          int64_t partial_shared, int64_t ld_partial, Ask* ask) const {
  const Product& p = *job.product;
  const std::byte* shared = shared_panel(job, shared_panel_idx, k_begin, k_count);
  const int64_t own_lane = own_panel * job.own.width,
                own_lanes = std::min(job.own.width, job.own.lanes - own_lane);
  const int64_t part_lane = shared_panel_idx * job.shared.width;
  const int64_t shared_lanes = std::min(job.shared.width, job.shared.lanes - part_lane);
  const int64_t shared_lane = job.shared.first_lane + part_lane;
  const int64_t row = job.b_shared ? own_lane : shared_lane,
                col = job.b_shared ? shared_lane : own_lane;

  GemmTile t;
  t.a = job.b_shared ? own : shared;
  t.b = job.b_shared ? shared : own;
  t.k_groups = groups(k_count);
  t.rows = job.b_shared ? own_lanes : shared_lanes;
  t.cols = job.b_shared ? shared_lanes : own_lanes;
  t.ldc = p.ldc;
  if (own_is_ready(job)) {
    t.b_group_bytes = kSourcePanelRows * kernels_.k_step * source_bytes(job.own.source);
    t.b_vector_bytes = kSourcePanelRows * job.own.ld * source_bytes(job.own.source);
  }
  t.ask = ask;
  const bool first = k_begin == 0, last = k_begin + k_count >= p.k;
  if (partial == nullptr) {
    t.c = static_cast<std::byte*>(p.c) + (row * p.ldc + col) * (kind_.c_bf16 ? 2 : 4);
    t.c_bf16 = kind_.c_bf16;
    t.add_c = kind_.accumulate || !first;
  } else {
    float* sums = partial + (job.b_shared ? partial_own * ld_partial + partial_shared
                                          : partial_shared * ld_partial + partial_own);
    // Blocks between the first and the last add to the sums, which a scaled tile starts from.
    t.init = first || (kind_.scaled && !last) ? nullptr : sums;
    t.ld_init = ld_partial;
    t.c = last ? static_cast<void*>(static_cast<uint16_t*>(p.c) + row * p.ldc + col) : sums;
    t.c_bf16 = last;
    t.add_c = last ? kind_.accumulate : kind_.scaled && !first;
    if (!last) t.ldc = ld_partial;
  }
  if (!kind_.scaled) return kernels_.tile(t);
  const float* shared_scales = job.packed_scales +
                               shared_panel_idx * panel_scales(job.shared, p.k) +
                               k_begin / kSliceK * job.shared.width;
  t.a_scales = job.b_shared ? own_scales : shared_scales;
  t.b_scales = job.b_shared ? shared_scales : own_scales;
  kernels_.scaled_tile(t);
}

}  // namespace

void multiply(Context& ctx, const GemmKernels& kernels, const ProductKind& kind,
              const Product* products, int64_t num_products) {
  Multiplier(ctx, kernels, kind).run(products, num_products);
}

}  // namespace fathom::cpu
