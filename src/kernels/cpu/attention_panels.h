// Packed operands of attention's small products. Every instruction set packs 32-bit words (a float,
// or a pair of bf16), so a panel's address does not depend on it.
#pragma once

#include <algorithm>

#include "core/arena.h"
#include "core/integer.h"
#include "kernels/cpu/gemm_kernels.h"

namespace fathom::cpu {

// Rows or columns of one operand in panels of `width` lanes, each [groups][width] words.
struct Panels {
  std::byte* data = nullptr;
  int64_t width = 0, groups = 0, lanes = 0;

  int64_t num_panels() const { return div_up(lanes, width); }
  std::byte* at(int64_t panel, int64_t group = 0) const {
    return data + (panel * groups + group) * width * 4;
  }
};

inline Panels allocate_panels(Scratch& scratch, int64_t width, int64_t groups, int64_t lanes,
                              const char* name) {
  Panels p{nullptr, width, groups, lanes};
  p.data = reinterpret_cast<std::byte*>(
      scratch.allocate<uint8_t>(p.num_panels() * groups * width * 4, name));
  return p;
}

// Source elements: (lane, k) at data[lane * ld + k] when k_contiguous, else data[k * ld + lane].
struct PanelSource {
  const void* data = nullptr;
  int64_t ld = 0;
  bool bf16 = false;
  bool k_contiguous = true;
};

// Packs k elements of all lanes to the groups from `first_group` on.
inline void pack_panels(const GemmKernels& kernels, const PanelSource& source, int64_t k,
                        const Panels& out, int64_t first_group = 0) {
  const PackFunction pack =
      (source.k_contiguous ? kernels.pack_k_contiguous : kernels.pack_lane_contiguous)[source.bf16];
  const int64_t lane_bytes = (source.bf16 ? 2 : 4) * (source.k_contiguous ? source.ld : 1);
  for (int64_t panel = 0; panel < out.num_panels(); ++panel) {
    const int64_t lane = panel * out.width;
    pack(static_cast<const std::byte*>(source.data) + lane * lane_bytes, source.ld,
         std::min(out.width, out.lanes - lane), k, out.width, out.at(panel, first_group));
  }
}

// c[rows of a panel, columns of a panel] (+)= over `groups` groups of both.
inline void multiply_panel(const GemmKernels& kernels, const Panels& a, int64_t a_panel,
                           int64_t a_group, const Panels& b, int64_t b_panel, int64_t b_group,
                           int64_t groups, float* c, int64_t ldc, bool add) {
  GemmTile t;
  t.a = a.at(a_panel, a_group);
  t.b = b.at(b_panel, b_group);
  t.k_groups = groups;
  t.rows = std::min(a.width, a.lanes - a_panel * a.width);
  t.cols = std::min(b.width, b.lanes - b_panel * b.width);
  t.c = c;
  t.ldc = ldc;
  t.add_c = add;
  kernels.tile(t);
}

}  // namespace fathom::cpu
