// MLA decoding in its absorbed form: every head of a query attends to the same latents.
//
// The limit. With L keys the cache is L (C + R) elements and each head does L (2 C + R)
// multiply-adds on it: at 128 heads 240 FLOP a byte, bound by the multiplier; at 16 heads or fewer,
// by memory. So the cache is read once for up to 112 heads: a tile of keys is packed twice from the
// first-level cache (by lane for the scores, by k for the sum of latents) and used by all heads of
// the group.
//
// Determinism. Keys are cut into splits of a fixed size, which are summed in parallel and merged in
// ascending order: a query's result depends neither on the threads nor on the other queries.
#include <cmath>
#include <limits>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/attention_rows.h"

namespace fathom::cpu {
namespace {

constexpr int64_t kTileKeys =
    96;  // whole panels of every instruction set; 576 wide, 108 KiB of bf16 packed
// A few thousand keys are enough for several threads; each split costs its sums' way to memory and
// back, 2 KiB a head.
constexpr int64_t kSplitKeys = 4 * kTileKeys;
constexpr int64_t kMaxHeadPanels = 8;
constexpr double kLog2E = 1.4426950408889634;

// Rows that a thread reads next, asked for in equal parts while it multiplies.
class RowsAhead {
 public:
  RowsAhead(const CacheRows& cache, int64_t begin, int64_t end, int64_t num_parts)
      : cache_(cache), row_(begin), end_(end), part_(div_up(end - begin, num_parts)) {}
  void ask() {
    constexpr int64_t kLineBytes = 64;
    for (const int64_t stop = std::min(row_ + part_, end_); row_ < stop; ++row_) {
      for (int64_t at = 0; at < cache_.row_bytes; at += kLineBytes)
        __builtin_prefetch(cache_.row(row_) + at, /*rw=*/0, /*locality=*/2);
    }
  }

 private:
  const CacheRows& cache_;
  int64_t row_;
  const int64_t end_, part_;
};

class Decode {
 public:
  Decode(Context& ctx, const GemmKernels& gemm, const AttentionRows& rows, const MlaDecodeParams& p)
      : ctx_(ctx),
        gemm_(gemm),
        rows_(rows),
        p_(p),
        num_heads_(p.q_BHC.dim(1)),
        latent_(p.q_BHC.dim(2)),
        rope_(p.qpe_BHR.dim(2)),
        bf16_(p.q_BHC.dtype == DType::kBF16),
        scale_log2_(static_cast<float>(p.scale * kLog2E)) {}

  void run();

 private:
  // What a split knows of each head: sums of p_j c_j and p_j under the split's own maximum.
  struct Split {
    float *sums, *max, *total;
  };
  int64_t groups(int64_t elements) const { return div_up(elements, gemm_.k_step); }
  std::byte* row_of(const TensorView& v, int64_t i, int64_t j) const {
    if (v.data == nullptr) return nullptr;
    return static_cast<std::byte*>(v.data) +
           (i * v.stride[0] + j * (v.dim(1) > 1 ? v.stride[1] : 0)) * (bf16_ ? 2 : 4);
  }
  int64_t num_splits(int64_t query) const { return div_up(p_.num_keys[query], kSplitKeys); }
  void attend(Scratch& scratch, int64_t query, int64_t head_begin, int64_t num_heads, int64_t split,
              const Split& out) const;
  void merge(int64_t query, int64_t head, const Split& first) const;

  Context& ctx_;
  const GemmKernels& gemm_;
  const AttentionRows& rows_;
  const MlaDecodeParams& p_;
  const int64_t num_heads_, latent_, rope_;
  const bool bf16_;
  const float scale_log2_;
};

void Decode::run() {
  const int64_t num_queries = p_.q_BHC.dim(0);
  if (num_queries == 0 || num_heads_ == 0 || latent_ == 0) return;
  Scratch::Mark mark(ctx_.scratch());
  int64_t* first_split = ctx_.scratch().allocate<int64_t>(num_queries + 1, "decode_first_split");
  first_split[0] = 0;
  for (int64_t b = 0; b < num_queries; ++b) first_split[b + 1] = first_split[b] + num_splits(b);
  const int64_t total_splits = first_split[num_queries];

  // As many heads together as leave work for every thread, in equal groups: each packs the keys.
  const int64_t head_panels = div_up(num_heads_, gemm_.mr),
                num_threads = ctx_.threads().num_threads();
  const int64_t wanted_groups = std::clamp(div_up(num_threads * 2, total_splits),
                                           div_up(head_panels, kMaxHeadPanels), head_panels);
  const int64_t group_heads = div_up(num_heads_, wanted_groups),
                num_groups = div_up(num_heads_, group_heads);

  const Split all{
      ctx_.scratch().allocate<float>(total_splits * num_heads_ * latent_, "decode_sums"),
      ctx_.scratch().allocate<float>(total_splits * num_heads_, "decode_max"),
      ctx_.scratch().allocate<float>(total_splits * num_heads_, "decode_total")};
  const auto split_at = [&](int64_t split, int64_t head) {
    const int64_t i = split * num_heads_ + head;
    return Split{all.sums + i * latent_, all.max + i, all.total + i};
  };
  ctx_.threads().parallel_for(total_splits * num_groups, [&](int64_t item, int thread_idx) {
    const int64_t split = item / num_groups, head = item % num_groups * group_heads;
    const int64_t query =
        std::upper_bound(first_split, first_split + num_queries + 1, split) - first_split - 1;
    attend(ctx_.thread_scratch(thread_idx), query, head, std::min(group_heads, num_heads_ - head),
           split - first_split[query], split_at(split, head));
  });
  ctx_.threads().parallel_for(num_queries * num_heads_, [&](int64_t i, int) {
    const int64_t query = i / num_heads_, head = i % num_heads_;
    merge(query, head, split_at(first_split[query], head));
  });
}

void Decode::attend(Scratch& scratch, int64_t query, int64_t head_begin, int64_t num_heads,
                    int64_t split, const Split& out) const {
  Scratch::Mark mark(scratch);
  const CacheRows& cache = p_.cache[query];
  const int64_t key_groups = groups(latent_) + groups(rope_);
  const int64_t begin = split * kSplitKeys, end = std::min(begin + kSplitKeys, p_.num_keys[query]);
  const Panels queries =
      allocate_panels(scratch, gemm_.mr, key_groups, num_heads, "decode_queries");
  const Panels weights =
      allocate_panels(scratch, gemm_.mr, groups(kTileKeys), num_heads, "decode_weights");
  float* scores = scratch.allocate<float>(num_heads * kTileKeys, "decode_scores");
  // A tile crosses pages, and its rows may be codes: it is copied together first.
  const int64_t width = latent_ + rope_, element_bytes = bf16_ ? 2 : 4;
  auto* rows = reinterpret_cast<std::byte*>(
      scratch.allocate<uint8_t>(kTileKeys * width * element_bytes, "decode_rows"));
  const Panels all_keys = allocate_panels(scratch, gemm_.nr, key_groups, kTileKeys, "decode_keys");
  const Panels latents =
      allocate_panels(scratch, gemm_.nr, groups(kTileKeys), latent_, "decode_latents");
  pack_panels(gemm_, {row_of(p_.q_BHC, query, head_begin), p_.q_BHC.stride[1], bf16_, true},
              latent_, queries);
  pack_panels(gemm_, {row_of(p_.qpe_BHR, query, head_begin), p_.qpe_BHR.stride[1], bf16_, true},
              rope_, queries, groups(latent_));
  std::fill_n(out.sums, num_heads * latent_, 0.0f);
  std::fill_n(out.max, num_heads, -std::numeric_limits<float>::infinity());
  std::fill_n(out.total, num_heads, 0.0f);
  for (int64_t tile = begin; tile < end; tile += kTileKeys) {
    const int64_t count = std::min(kTileKeys, end - tile);
    for (int64_t i = 0; i < count; ++i) {
      std::byte* row = rows + i * width * element_bytes;
      read_latent_row(cache.dtype, cache.row(tile + i), latent_, rope_, p_.q_BHC.dtype, row,
                      row + latent_ * element_bytes);
    }
    Panels keys = all_keys;
    keys.lanes = count;
    pack_panels(gemm_, {rows, width, bf16_, true}, latent_, keys);
    pack_panels(gemm_, {rows + latent_ * element_bytes, width, bf16_, true}, rope_, keys,
                groups(latent_));
    pack_panels(gemm_, {rows, width, bf16_, false}, count, latents);
    // Behind the split's last tile comes, probably, a split that the other threads leave.
    const int64_t next = tile + kTileKeys < end ? tile + kTileKeys
                                                : begin + ctx_.threads().num_threads() * kSplitKeys;
    RowsAhead ahead(cache, next, std::clamp(p_.num_keys[query], next, next + kTileKeys),
                    keys.num_panels() + latents.num_panels());
    for (int64_t key_panel = 0; key_panel < keys.num_panels(); ++key_panel) {
      ahead.ask();
      for (int64_t panel = 0; panel < queries.num_panels(); ++panel) {
        multiply_panel(gemm_, queries, panel, 0, keys, key_panel, 0, key_groups,
                       scores + panel * gemm_.mr * kTileKeys + key_panel * gemm_.nr, kTileKeys,
                       false);
      }
    }
    for (int64_t h = 0; h < num_heads; ++h) {
      const float shrink = rows_.softmax(scores + h * kTileKeys, 0, count, kTileKeys, scale_log2_,
                                         out.max + h, out.total + h);
      if (shrink != 1.0f) rows_.scale(out.sums + h * latent_, shrink, latent_);
    }
    pack_panels(gemm_, {scores, kTileKeys, false, true}, count, weights);
    for (int64_t column = 0; column < latents.num_panels(); ++column) {
      ahead.ask();
      for (int64_t panel = 0; panel < weights.num_panels(); ++panel) {
        multiply_panel(gemm_, weights, panel, 0, latents, column, 0, groups(count),
                       out.sums + panel * gemm_.mr * latent_ + column * gemm_.nr, latent_, true);
      }
    }
  }
}

// Sums the splits of a query under their common maximum, in ascending order, into the first's sums.
void Decode::merge(int64_t query, int64_t head, const Split& first) const {
  const int64_t splits = num_splits(query);
  float max = first.max[0];
  for (int64_t s = 1; s < splits; ++s) max = std::max(max, first.max[s * num_heads_]);
  float total = 0;
  for (int64_t s = 0; s < splits; ++s) {
    const float factor = std::exp2(first.max[s * num_heads_] - max);
    total += factor * first.total[s * num_heads_];
    float* sums = first.sums + s * num_heads_ * latent_;
    if (s > 0) {
      rows_.add_scaled(sums, factor, first.sums, latent_);
    } else if (factor != 1.0f) {
      rows_.scale(sums, factor, latent_);
    }
  }
  rows_.store(first.sums, 1.0f / total, row_of(p_.ctx_BHC, query, head), bf16_, latent_);
}

}  // namespace

bool mla_decode_supports(const MlaDecodeParams& p) {
  return p.q_BHC.dtype == DType::kF32 || p.q_BHC.dtype == DType::kBF16;
}
bool mla_decode_bf16_supports(const MlaDecodeParams& p) { return p.q_BHC.dtype == DType::kBF16; }

void mla_decode_avx2(Context& ctx, const MlaDecodeParams& p) {
  Decode(ctx, kGemmAvx2, kAttentionRowsAvx2, p).run();
}
void mla_decode_avx512(Context& ctx, const MlaDecodeParams& p) {
  Decode(ctx, kGemmAvx512, kAttentionRowsAvx512, p).run();
}
void mla_decode_avx512bf16(Context& ctx, const MlaDecodeParams& p) {
  Decode(ctx, kGemmAvx512Bf16, kAttentionRowsAvx512, p).run();
}

}  // namespace fathom::cpu
