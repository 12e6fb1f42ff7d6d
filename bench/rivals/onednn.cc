// oneDNN's matmul primitive, created once, with weights packed to the layout that it asks for.
// SwiGLU is fused the way the library allows: the gate's product ends in swish and a multiplication
// by the up product, so the loop over experts has three products and no pass of its own.
#include <fmt/format.h>
#include <omp.h>

#include <deque>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "rival.h"

namespace fathom::rivals {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

struct Library {
  explicit Library(int threads) : engine(dnnl::engine::kind::cpu, 0), stream(engine) {
    omp_set_num_threads(threads);
  }
  memory view(const memory::desc& desc, const void* data) const {
    return memory(desc, engine, const_cast<void*>(data));
  }
  dnnl::engine engine;
  mutable dnnl::stream stream;  // the library takes it by plain reference
};

memory::data_type data_type(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// One product whose weights lie in the library's own layout.
class Matmul {
 public:
  Matmul(const Library& library, memory::data_type type, int64_t m, int64_t n, int64_t k,
         bool swish_and_multiply = false)
      : library_(library),
        plain_b_({k, n}, type, Tag::ba),
        desc_(make(library, type, m, n, k, swish_and_multiply)),
        primitive_(desc_) {}

  memory pack(const void* b) const {
    memory packed(desc_.weights_desc(), library_.engine);
    memory plain = library_.view(plain_b_, b);
    dnnl::reorder(plain, packed).execute(library_.stream, plain, packed);
    library_.stream.wait();
    return packed;
  }
  void run(const void* a, const memory& b, void* c, const void* multiply_by = nullptr) {
    std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, library_.view(desc_.src_desc(), a)},
                                              {DNNL_ARG_WEIGHTS, b},
                                              {DNNL_ARG_DST, library_.view(desc_.dst_desc(), c)}};
    if (multiply_by != nullptr) {
      arguments.insert({DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1,
                        library_.view(desc_.dst_desc(), multiply_by)});
    }
    primitive_.execute(library_.stream, arguments);
  }

 private:
  static dnnl::matmul::primitive_desc make(const Library& library, memory::data_type type,
                                           int64_t m, int64_t n, int64_t k,
                                           bool swish_and_multiply) {
    const memory::desc a({m, k}, type, Tag::ab), b({k, n}, type, Tag::any),
        c({m, n}, type, Tag::ab);
    dnnl::primitive_attr attributes;
    if (swish_and_multiply) {
      dnnl::post_ops after;
      after.append_eltwise(1.0f, dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
      after.append_binary(dnnl::algorithm::binary_mul, c);
      attributes.set_post_ops(after);
    }
    return {dnnl::matmul::desc(a, b, c), attributes, library.engine};
  }

  const Library& library_;
  memory::desc plain_b_;
  dnnl::matmul::primitive_desc desc_;
  dnnl::matmul primitive_;
};

std::function<void(int)> prepare_product(const std::shared_ptr<Library>& library,
                                         const Product& p) {
  const auto matmul = std::make_shared<Matmul>(*library, data_type(p.dtype), p.m, p.n, p.k);
  const auto packed = std::make_shared<std::vector<memory>>();
  for (const void* b : p.b) packed->push_back(matmul->pack(b));
  return [=](int copy) {
    matmul->run(p.a, (*packed)[static_cast<size_t>(copy)], p.c);
    library->stream.wait();
  };
}

struct Expert {
  int64_t begin;
  Matmul up, gate, down;
  memory up_weights, gate_weights, down_weights;
};

std::function<void(int)> prepare_experts(const std::shared_ptr<Library>& library,
                                         const Experts& x) {
  const auto copies = std::make_shared<std::vector<std::deque<Expert>>>();
  const auto up_rows =
      std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(x.offsets[0].back() * x.width));
  const auto h_rows = std::make_shared<std::vector<uint16_t>>(up_rows->size());
  for (const std::vector<int64_t>& offsets : x.offsets) {
    std::deque<Expert>& experts = copies->emplace_back();
    for (int64_t e = 0; e < x.num_experts; ++e) {
      const int64_t begin = offsets[static_cast<size_t>(e)],
                    m = offsets[static_cast<size_t>(e) + 1] - begin;
      if (m == 0) continue;
      const auto bf16 = memory::data_type::bf16;
      Expert& expert = experts.emplace_back(Expert{begin,
                                                   {*library, bf16, m, x.width, x.hidden},
                                                   {*library, bf16, m, x.width, x.hidden, true},
                                                   {*library, bf16, m, x.hidden, x.width},
                                                   {},
                                                   {},
                                                   {}});
      const uint16_t* gate = x.gate_up_EXD + e * 2 * x.width * x.hidden;
      expert.gate_weights = expert.gate.pack(gate);
      expert.up_weights = expert.up.pack(gate + x.width * x.hidden);
      expert.down_weights = expert.down.pack(x.down_EDF + e * x.hidden * x.width);
    }
  }
  return [=](int copy) {
    for (Expert& expert : (*copies)[static_cast<size_t>(copy)]) {
      uint16_t* up = up_rows->data() + expert.begin * x.width;
      uint16_t* h = h_rows->data() + expert.begin * x.width;
      const uint16_t* rows = x.x_UD + expert.begin * x.hidden;
      expert.up.run(rows, expert.up_weights, up);
      expert.gate.run(rows, expert.gate_weights, h, up);
      expert.down.run(h, expert.down_weights, x.y_UD + expert.begin * x.hidden);
    }
    library->stream.wait();
  };
}

}  // namespace

Rival onednn(int threads) {
  const auto library = std::make_shared<Library>(threads);
  const dnnl_version_t* version = dnnl::version();
  return {fmt::format("onednn {}.{}.{}", version->major, version->minor, version->patch),
          [library](const Product& p) { return prepare_product(library, p); },
          [library](const Experts& x) { return prepare_experts(library, x); }};
}

}  // namespace fathom::rivals
