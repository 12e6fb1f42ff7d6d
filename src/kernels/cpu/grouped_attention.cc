// Grouped-query attention over the paged cache: blocks of consecutive queries of one sequence, with
// all query heads of a key head together, over tiles of keys.
//
// Bytes and operations. Decoding reads 2 K elements a key and key head and does 4 K H / G
// operations on them for H / G query heads: bound by memory. Many new tokens share what is read and
// packed: a block has up to kBlockLanes of (token, query head), and a tile of keys, which is one
// page, is packed once for all of them.
//
// Determinism. Tiles begin at multiples of a page from position 0; splits of a fixed number of
// tiles are summed apart and joined in ascending order. A lane's result depends neither on the
// other lanes of its block, nor on the threads, nor on how the sequence was cut into calls: what it
// does not see adds zeros.
#include "kernels/cpu/grouped_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/attention_rows.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kTileKeys = kCachePageTokens;
constexpr int64_t kSplitKeys = 16 * kTileKeys;
constexpr int64_t kBlockLanes = 112;
constexpr int64_t kWaveFloats = int64_t{1} << 23;  // of partial sums: 32 MiB
constexpr double kLog2E = 1.4426950408889634;
static_assert(kTileKeys % kScoreLanes == 0);

class GroupedDecode {
 public:
  GroupedDecode(Context& ctx, const GemmKernels& gemm, const AttentionRows& rows,
                const GroupedAttentionParams& p)
      : ctx_(ctx),
        gemm_(gemm),
        rows_(rows),
        p_(p),
        num_heads_(p.q_THK.dim(1)),
        width_(p.q_THK.dim(2)),
        group_(num_heads_ / p.num_key_heads),
        bf16_(p.q_THK.dtype == DType::kBF16),
        element_bytes_(bf16_ ? 2 : 4),
        scale_log2_(static_cast<float>(p.scale * kLog2E)) {}

  void run();

 private:
  // Queries [first, first + count) of one sequence, each seeing one key more than the one before.
  struct Block {
    int64_t first, count, num_splits, first_item;
  };
  // What a split knows of each lane: sums of p_j v_j and p_j under the split's own maximum.
  struct Split {
    float *sums, *max, *total;
  };
  struct Workspace {
    Panels queries, weights, keys, values;
    float* scores;
    std::byte* rows;  // of a cache in another format
  };
  int64_t groups(int64_t elements) const { return div_up(elements, gemm_.k_step); }
  std::byte* row_of(const TensorView& v, int64_t token, int64_t head) const {
    return static_cast<std::byte*>(v.data) +
           (token * v.stride[0] + (head == 0 ? 0 : head * v.stride[1])) * element_bytes_;
  }
  int64_t lanes(const Block& block) const { return block.count * group_; }
  bool continues(int64_t token) const;
  int64_t next_block(int64_t first, Block& block) const;
  void run_wave(const Block* blocks, int64_t num_blocks, int64_t num_items);
  void attend(Scratch& scratch, const Block& block, int64_t key_head, int64_t split,
              const Split& out) const;
  void attend_tile(const Block& block, int64_t key_head, int64_t tile, int64_t count,
                   const Workspace& work, const Split& out) const;
  void pack_queries(Scratch& scratch, const Block& block, int64_t key_head,
                    const Panels& out) const;
  void pack_keys(const CacheRows& cache, int64_t key_head, int64_t tile, int64_t count,
                 const Panels& keys, const Workspace& work) const;
  void join(const Block& block, int64_t key_head, int64_t lane, const Split& first) const;

  Context& ctx_;
  const GemmKernels& gemm_;
  const AttentionRows& rows_;
  const GroupedAttentionParams& p_;
  const int64_t num_heads_, width_, group_;
  const bool bf16_;
  const int64_t element_bytes_;
  const float scale_log2_;
};

bool GroupedDecode::continues(int64_t token) const {
  const CacheRows &a = p_.cache_T[token - 1], &b = p_.cache_T[token];
  return a.pages == b.pages && a.offset_bytes == b.offset_bytes &&
         p_.num_keys_T[token] == p_.num_keys_T[token - 1] + 1;
}

// Returns the first token behind it.
int64_t GroupedDecode::next_block(int64_t first, Block& block) const {
  const int64_t num_tokens = p_.q_THK.dim(0);
  const int64_t most = std::max<int64_t>(1, kBlockLanes / group_);
  int64_t end = first + 1;
  while (end < num_tokens && end - first < most && continues(end)) ++end;
  block = {first, end - first, div_up(p_.num_keys_T[end - 1], kSplitKeys), 0};
  return end;
}

void GroupedDecode::run() {
  const int64_t num_tokens = p_.q_THK.dim(0);
  if (num_tokens == 0 || width_ == 0) return;
  Scratch::Mark mark(ctx_.scratch());
  auto* blocks = ctx_.scratch().allocate_structs<Block>(num_tokens, "grouped_blocks");
  for (int64_t token = 0; token < num_tokens;) {
    int64_t num_blocks = 0, num_items = 0, floats = 0;
    while (token < num_tokens && floats < kWaveFloats) {
      Block& block = blocks[num_blocks++];
      token = next_block(token, block);
      block.first_item = num_items;
      num_items += block.num_splits * p_.num_key_heads;
      floats += lanes(block) * block.num_splits * p_.num_key_heads * width_;
    }
    run_wave(blocks, num_blocks, num_items);
  }
}

void GroupedDecode::run_wave(const Block* blocks, int64_t num_blocks, int64_t num_items) {
  Scratch::Mark mark(ctx_.scratch());
  int64_t* first_lane = ctx_.scratch().allocate<int64_t>(num_items + 1, "grouped_first_lane");
  int32_t* block_of = ctx_.scratch().allocate<int32_t>(num_items, "grouped_block_of");
  first_lane[0] = 0;
  for (int64_t b = 0, item = 0; b < num_blocks; ++b) {
    for (int64_t i = 0; i < blocks[b].num_splits * p_.num_key_heads; ++i, ++item) {
      block_of[item] = static_cast<int32_t>(b);
      first_lane[item + 1] = first_lane[item] + lanes(blocks[b]);
    }
  }
  const int64_t num_lanes = first_lane[num_items];
  const Split all{ctx_.scratch().allocate<float>(num_lanes * width_, "grouped_sums"),
                  ctx_.scratch().allocate<float>(num_lanes, "grouped_max"),
                  ctx_.scratch().allocate<float>(num_lanes, "grouped_total")};
  const auto split_at = [&](int64_t lane) {
    return Split{all.sums + lane * width_, all.max + lane, all.total + lane};
  };
  // Items of a block go by key head, then by split.
  ctx_.threads().parallel_for(num_items, [&](int64_t item, int thread_idx) {
    const Block& block = blocks[block_of[item]];
    const int64_t i = item - block.first_item;
    attend(ctx_.thread_scratch(thread_idx), block, i / block.num_splits, i % block.num_splits,
           split_at(first_lane[item]));
  });
  ctx_.threads().parallel_for(num_items, [&](int64_t item, int) {
    const Block& block = blocks[block_of[item]];
    const int64_t i = item - block.first_item;
    if (i % block.num_splits != 0) return;
    for (int64_t lane = 0; lane < lanes(block); ++lane)
      join(block, i / block.num_splits, lane, split_at(first_lane[item] + lane));
  });
}

// Lanes are (token, query head of the group), copied side by side first.
void GroupedDecode::pack_queries(Scratch& scratch, const Block& block, int64_t key_head,
                                 const Panels& out) const {
  Scratch::Mark mark(scratch);
  const int64_t row_bytes = width_ * element_bytes_;
  auto* rows = reinterpret_cast<std::byte*>(
      scratch.allocate<uint8_t>(lanes(block) * row_bytes, "grouped_query_rows"));
  for (int64_t lane = 0; lane < lanes(block); ++lane) {
    std::memcpy(rows + lane * row_bytes,
                row_of(p_.q_THK, block.first + lane / group_, key_head * group_ + lane % group_),
                static_cast<size_t>(row_bytes));
  }
  pack_panels(gemm_, {rows, width_, bf16_, true}, width_, out);
}

void GroupedDecode::attend(Scratch& scratch, const Block& block, int64_t key_head, int64_t split,
                           const Split& out) const {
  Scratch::Mark mark(scratch);
  const int64_t num_lanes = lanes(block);
  const Workspace work{
      .queries = allocate_panels(scratch, gemm_.mr, groups(width_), num_lanes, "grouped_queries"),
      .weights =
          allocate_panels(scratch, gemm_.mr, groups(kTileKeys), num_lanes, "grouped_weights"),
      .keys = allocate_panels(scratch, gemm_.nr, groups(width_), kTileKeys, "grouped_keys"),
      .values = allocate_panels(scratch, gemm_.nr, groups(kTileKeys), width_, "grouped_values"),
      .scores = scratch.allocate<float>(num_lanes * kTileKeys, "grouped_scores"),
      .rows = reinterpret_cast<std::byte*>(
          scratch.allocate<uint8_t>(kTileKeys * 2 * width_ * element_bytes_, "grouped_rows"))};
  pack_queries(scratch, block, key_head, work.queries);
  std::fill_n(out.sums, num_lanes * width_, 0.0f);
  std::fill_n(out.max, num_lanes, -std::numeric_limits<float>::infinity());
  std::fill_n(out.total, num_lanes, 0.0f);
  const int64_t begin = split * kSplitKeys;
  const int64_t end = std::min(begin + kSplitKeys, p_.num_keys_T[block.first + block.count - 1]);
  for (int64_t tile = begin; tile < end; tile += kTileKeys)
    attend_tile(block, key_head, tile, std::min(kTileKeys, end - tile), work, out);
}

// A tile is one page, read where it lies, or copied together in the format of the queries.
void GroupedDecode::pack_keys(const CacheRows& cache, int64_t key_head, int64_t tile, int64_t count,
                              const Panels& keys, const Workspace& work) const {
  const int64_t all_keys = p_.num_key_heads * width_;
  const std::byte *key = nullptr, *value = nullptr;
  int64_t ld = 0;
  if (cache.dtype == p_.q_THK.dtype) {
    key = cache.row(tile) + key_head * width_ * element_bytes_;
    value = key + all_keys * element_bytes_;
    ld = cache.row_bytes / element_bytes_;
  } else {
    ld = 2 * width_;
    key = work.rows;
    value = key + width_ * element_bytes_;
    const int64_t cached_bytes = dtype_bytes(cache.dtype);
    for (int64_t i = 0; i < count; ++i) {
      const std::byte* row = cache.row(tile + i) + key_head * width_ * cached_bytes;
      std::byte* pair = work.rows + i * ld * element_bytes_;
      read_latent_row(cache.dtype, row, width_, 0, p_.q_THK.dtype, pair, nullptr);
      read_latent_row(cache.dtype, row + all_keys * cached_bytes, width_, 0, p_.q_THK.dtype,
                      pair + width_ * element_bytes_, nullptr);
    }
  }
  pack_panels(gemm_, {key, ld, bf16_, true}, width_, keys);
  pack_panels(gemm_, {value, ld, bf16_, false}, count, work.values);
}

void GroupedDecode::attend_tile(const Block& block, int64_t key_head, int64_t tile, int64_t count,
                                const Workspace& work, const Split& out) const {
  Panels keys = work.keys;
  keys.lanes = count;
  pack_keys(p_.cache_T[block.first], key_head, tile, count, keys, work);
  const auto visible = [&](int64_t lane) {
    return std::clamp<int64_t>(p_.num_keys_T[block.first + lane / group_] - tile, 0, count);
  };
  for (int64_t panel = 0; panel < work.queries.num_panels(); ++panel) {
    const int64_t first = panel * gemm_.mr;
    const int64_t last = std::min(first + gemm_.mr, work.queries.lanes) - 1;
    if (visible(last) == 0) continue;  // nor do those before it see a key of this tile
    float* scores = work.scores + first * kTileKeys;
    for (int64_t key_panel = 0; key_panel < keys.num_panels(); ++key_panel) {
      multiply_panel(gemm_, work.queries, panel, 0, keys, key_panel, 0, groups(width_),
                     scores + key_panel * gemm_.nr, kTileKeys, false);
    }
    for (int64_t lane = first; lane <= last; ++lane) {
      const float shrink = rows_.softmax(work.scores + lane * kTileKeys, 0, visible(lane),
                                         kTileKeys, scale_log2_, out.max + lane, out.total + lane);
      if (shrink != 1.0f) rows_.scale(out.sums + lane * width_, shrink, width_);
    }
    gemm_.pack_k_contiguous[false](scores, kTileKeys, last + 1 - first, count, gemm_.mr,
                                   work.weights.at(panel));
    for (int64_t column = 0; column < work.values.num_panels(); ++column) {
      multiply_panel(gemm_, work.weights, panel, 0, work.values, column, 0, groups(count),
                     out.sums + first * width_ + column * gemm_.nr, width_, true);
    }
  }
}

// The splits that the lane sees, in ascending order, each under the greater of the two maxima.
void GroupedDecode::join(const Block& block, int64_t key_head, int64_t lane,
                         const Split& first) const {
  const int64_t token = block.first + lane / group_;
  const int64_t num_splits = div_up(p_.num_keys_T[token], kSplitKeys), step = lanes(block);
  float max = first.max[0], total = first.total[0];
  for (int64_t s = 1; s < num_splits; ++s) {
    const float split_max = first.max[s * step], new_max = std::max(max, split_max);
    const float before = std::exp2(max - new_max), now = std::exp2(split_max - new_max);
    if (before != 1.0f) rows_.scale(first.sums, before, width_);
    rows_.add_scaled(first.sums + s * step * width_, now, first.sums, width_);
    total = total * before + first.total[s * step] * now;
    max = new_max;
  }
  rows_.store(first.sums, 1.0f / total, row_of(p_.o_THK, token, key_head * group_ + lane % group_),
              bf16_, width_);
}

}  // namespace

bool grouped_attention_supports(const GroupedAttentionParams& p) {
  return p.q_THK.dtype == DType::kF32 || p.q_THK.dtype == DType::kBF16;
}
bool grouped_attention_bf16_supports(const GroupedAttentionParams& p) {
  return p.q_THK.dtype == DType::kBF16;
}

void grouped_attention_avx2(Context& ctx, const GroupedAttentionParams& p) {
  GroupedDecode(ctx, kGemmAvx2, kAttentionRowsAvx2, p).run();
}
void grouped_attention_avx512(Context& ctx, const GroupedAttentionParams& p) {
  GroupedDecode(ctx, kGemmAvx512, kAttentionRowsAvx512, p).run();
}
void grouped_attention_avx512bf16(Context& ctx, const GroupedAttentionParams& p) {
  GroupedDecode(ctx, kGemmAvx512Bf16, kAttentionRowsAvx512, p).run();
}

}  // namespace fathom::cpu
