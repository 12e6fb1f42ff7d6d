#include "train/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/kernels.h"

namespace fathom {
namespace {

constexpr uint32_t kClassContext = 3, kStateTag = 17, kGradientTag = 18, kWeightTag = 19;

// Blocks travel in messages of about so many elements: whole shards would pass through fresh memory
// several times at every step, these stay in the cache.
constexpr int64_t kMessageElements = 64 * 1024;

// Elements [begin, begin + count) of a dense tensor.
TensorView elements(const TensorView& view, int64_t begin, int64_t count) {
  return TensorView(static_cast<std::byte*>(view.data) + begin * dtype_bytes(view.dtype),
                    view.dtype, Shape{count}, view.name);
}

template <typename F>
void with_master_type(DType dtype, F&& f) {
  if (dtype == DType::kF64) {
    f(double{});
  } else {
    FATHOM_CHECK(dtype == DType::kF32, "gradients in {}", dtype_name(dtype));
    f(float{});
  }
}

}  // namespace

int64_t ShardedOptimizer::Shard::total() const {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

ShardedOptimizer::ShardedOptimizer(const ModelConfig& model, const OptimizerConfig& config,
                                   DType master, DType moments, double average_decay,
                                   const std::vector<ParameterClass>& classes,
                                   const LocalParameters& local, const Communicator& world,
                                   const ParameterDtypes& dtypes, ParameterSet& weights)
    : config_(config),
      master_dtype_(master),
      moments_dtype_(moments),
      average_decay_(average_decay),
      classes_(classes),
      local_(local),
      world_(world),
      dtypes_(dtypes),
      weights_(weights) {
  // Blocks are numbered through the whole model, in the order in which one process adds them up.
  std::unordered_map<std::string, int64_t> first_block;
  for (const ParameterSpec& spec : parameter_specs(model)) {
    first_block[spec.name] = static_cast<int64_t>(block_names_.size());
    if (spec.kind == ParameterKind::kRouterBias) continue;
    const int64_t blocks = (spec.shape.num_elements() + kBlock - 1) / kBlock;
    block_names_.insert(block_names_.end(), static_cast<size_t>(blocks), spec.name);
  }
  for (const LocalParameters::Class& c : local.classes) {
    Shard shard{.group = world.group(c.holders, kClassContext)};
    int64_t total = 0;
    for (int64_t i = c.first; i < c.first + c.count; ++i) {
      const ParameterSpec& spec = local.specs[static_cast<size_t>(i)];
      if (spec.kind == ParameterKind::kRouterBias) continue;
      const int64_t n = spec.shape.num_elements();
      for (int64_t begin = 0; begin < n; begin += kBlock) {
        shard.pieces.push_back(
            {i, begin, std::min(kBlock, n - begin), first_block[spec.name] + begin / kBlock});
      }
      total += n;
    }
    // By where a block begins: neighbours to one rank, and as even as blocks allow.
    shard.counts.assign(c.holders.size(), 0);
    int64_t before = 0;
    for (size_t p = 0; p < shard.pieces.size(); ++p) {
      const auto owner = static_cast<size_t>(before * shard.group.size() / total);
      while (shard.first_pieces.size() <= owner) shard.first_pieces.push_back(p);
      if (static_cast<int>(owner) == shard.group.rank()) {
        if (shard.num_own == 0) shard.first_own = p;
        ++shard.num_own;
      }
      shard.counts[owner] += shard.pieces[p].count;
      before += shard.pieces[p].count;
    }
    shard.first_pieces.resize(c.holders.size() + 1, shard.pieces.size());
    shards_.push_back(std::move(shard));
  }
  state_ = measured_arena("optimizer state", [this](Arena& arena) { allocate(arena); });
}

void ShardedOptimizer::allocate(Arena& arena) {
  for (Shard& shard : shards_) {
    const Shape own{shard.counts[static_cast<size_t>(shard.group.rank())]};
    shard.grad = arena.allocate(master_dtype_, own, "gradient shard");
    shard.master = arena.allocate(master_dtype_, own, "master shard");
    shard.m = arena.allocate(moments_dtype_, own, "first moment shard");
    shard.v = arena.allocate(moments_dtype_, own, "second moment shard");
    if (has_average()) shard.average = arena.allocate(DType::kF32, own, "average shard");
  }
}

int64_t ShardedOptimizer::num_own_elements() const {
  int64_t count = 0;
  for (const Shard& shard : shards_) count += shard.master.dim(0);
  return count;
}

std::vector<ShardedOptimizer::Run> ShardedOptimizer::runs_of(const Shard& shard) const {
  std::vector<Run> runs;
  int64_t begin = 0;
  for (size_t p = shard.first_own; p < shard.first_own + shard.num_own; ++p) {
    const Piece& piece = shard.pieces[p];
    const double decay = weight_decay(config_, local_.specs[static_cast<size_t>(piece.spec)].kind);
    if (runs.empty() || runs.back().weight_decay != decay) runs.push_back({begin, 0, decay});
    runs.back().count += piece.count;
    begin += piece.count;
  }
  return runs;
}

void ShardedOptimizer::set_master(const ParameterSet& local) {
  finish_average();
  for (const Shard& shard : shards_) {
    int64_t at = 0;
    for (size_t p = shard.first_own; p < shard.first_own + shard.num_own; ++p) {
      const Piece& piece = shard.pieces[p];
      const TensorView from = elements(local.view(piece.spec), piece.begin, piece.count);
      FATHOM_CHECK(from.dtype == master_dtype_, "{}", to_string(from));
      std::memcpy(elements(shard.master, at, piece.count).data, from.data,
                  static_cast<size_t>(from.num_bytes()));
      if (has_average()) {
        Context serial(1);
        cast(serial, from, elements(shard.average, at, piece.count));
      }
      at += piece.count;
    }
  }
}

template <typename F>
void ShardedOptimizer::for_messages(const Shard& shard, int owner, F&& f) {
  const auto begin = static_cast<size_t>(owner);
  size_t first = shard.first_pieces[begin];
  while (first < shard.first_pieces[begin + 1]) {
    size_t last = first;
    int64_t count = 0;
    while (last < shard.first_pieces[begin + 1] && (last == first || count < kMessageElements))
      count += shard.pieces[last++].count;
    f(first, last, count);
    first = last;
  }
}

void ShardedOptimizer::reduce(const ParameterSet& gradients) {
  with_master_type(master_dtype_, [&]<typename T>(T) {
    for (const Shard& shard : shards_) {
      const int size = shard.group.size(), own = shard.group.rank();
      const auto pack = [&](size_t first, size_t last, std::vector<T>& to, int64_t count) {
        to.resize(static_cast<size_t>(count));
        T* at = to.data();
        for (size_t p = first; p < last; ++p) {
          const Piece& piece = shard.pieces[p];
          const TensorView from = elements(gradients.view(piece.spec), piece.begin, piece.count);
          std::memcpy(at, from.as<T>(), static_cast<size_t>(from.num_bytes()));
          at += piece.count;
        }
      };
      std::vector<std::vector<T>> parts(static_cast<size_t>(size));
      for (int owner = 0; owner < size; ++owner) {
        if (owner == own) continue;
        for_messages(shard, owner, [&](size_t first, size_t last, int64_t count) {
          pack(first, last, parts[0], count);
          shard.group.send<T>(owner, kGradientTag, parts[0]);
        });
      }
      T* sum = shard.grad.as<T>();
      for_messages(shard, own, [&](size_t first, size_t last, int64_t count) {
        std::vector<std::span<T>> spans;
        for (int r = 0; r < size; ++r) {
          std::vector<T>& part = parts[static_cast<size_t>(r)];
          if (r == own) {
            pack(first, last, part, count);
          } else {
            part.resize(static_cast<size_t>(count));
            shard.group.receive<T>(r, kGradientTag, part);
          }
          spans.push_back(part);
        }
        Communicator::tree_sum<T>(spans);
        std::memcpy(sum, spans[0].data(), spans[0].size_bytes());
        sum += count;
      });
    }
  });
}

double ShardedOptimizer::gradient_norm(Context& ctx) const {
  // Each block has one owner; the others add zeros, which changes no bit.
  std::vector<double> squares(block_names_.size(), 0.0);
  for (const Shard& shard : shards_) {
    int64_t at = 0;
    for (size_t p = shard.first_own; p < shard.first_own + shard.num_own; ++p) {
      const Piece& piece = shard.pieces[p];
      squares[static_cast<size_t>(piece.global)] =
          sum_of_squares(ctx, elements(shard.grad, at, piece.count));
      at += piece.count;
    }
  }
  world_.all_reduce<double>(squares);
  // As one process does it: blocks of a parameter, then parameters.
  double total = 0, of_parameter = 0;
  for (size_t b = 0; b < squares.size(); ++b) {
    if (!std::isfinite(squares[b])) {
      throw NonFiniteError(ErrorKind::kBadInput,
                           fmt::format("the gradient of {} is not finite", block_names_[b]));
    }
    of_parameter += squares[b];
    if (b + 1 == squares.size() || block_names_[b + 1] != block_names_[b]) {
      total += of_parameter;
      of_parameter = 0;
    }
  }
  return std::sqrt(total);
}

void ShardedOptimizer::update(Context& ctx, double norm, double lr, int64_t step) {
  FATHOM_CHECK(std::isfinite(norm), "an update with a gradient norm of {}", norm);
  const double grad_scale = clip_factor(config_, norm);
  finish_average();
  for (Shard& shard : shards_) {
    for (const Run& run : runs_of(shard)) {
      adamw(ctx, {.master = elements(shard.master, run.begin, run.count),
                  .grad = elements(shard.grad, run.begin, run.count),
                  .m = elements(shard.m, run.begin, run.count),
                  .v = elements(shard.v, run.begin, run.count),
                  .lr = lr,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .weight_decay = run.weight_decay,
                  .grad_scale = grad_scale,
                  .step = step});
    }
    gather_weights(ctx, shard);
  }
  begin_average();
}

void ShardedOptimizer::begin_average() {
  if (!has_average()) return;
  averaging_ = std::async(std::launch::async, [this] {
    Context own(1);
    for (const Shard& shard : shards_)
      average_into(own, shard.master, average_decay_, shard.average);
  });
}

void ShardedOptimizer::finish_average() const {
  if (averaging_.valid()) averaging_.get();
}

std::vector<std::byte> ShardedOptimizer::gather(const Shard& shard, const TensorView& own) const {
  const int64_t bytes = dtype_bytes(own.dtype);
  std::vector<int64_t> counts(shard.counts);
  for (int64_t& count : counts) count *= bytes;
  std::vector<std::byte> all(static_cast<size_t>(shard.total() * bytes));
  shard.group.all_gather<std::byte>(
      {static_cast<const std::byte*>(own.data), static_cast<size_t>(own.num_bytes())}, counts, all);
  return all;
}

void ShardedOptimizer::gather_weights(Context& ctx, const Shard& shard) {
  const auto is_scaled = [&](const Piece& piece) { return weights_.is_scaled(piece.spec); };
  // Scales are of tiles, which blocks do not keep to: from the whole master weights.
  if (std::any_of(shard.pieces.begin(), shard.pieces.end(), is_scaled))
    return quantize_weights(ctx, shard);
  const int size = shard.group.size(), own = shard.group.rank();
  const auto part_of = [&](const Piece& piece) {
    return elements(weights_.view(piece.spec), piece.begin, piece.count);
  };
  int64_t at = 0;
  for (size_t p = shard.first_own; p < shard.first_own + shard.num_own; ++p) {
    const Piece& piece = shard.pieces[p];
    cast(ctx, elements(shard.master, at, piece.count), part_of(piece));
    at += piece.count;
  }
  // What the others get is what this rank has: weights, in half the bytes of the master's or less.
  const auto for_parts = [&](size_t first, size_t last, auto&& f) {
    size_t begin = 0;
    for (size_t p = first; p < last; ++p) {
      const TensorView part = part_of(shard.pieces[p]);
      const auto bytes = static_cast<size_t>(part.num_bytes());
      f(begin, static_cast<std::byte*>(part.data), bytes);
      begin += bytes;
    }
    return begin;
  };
  std::vector<std::byte> message;
  const auto make_room = [&](size_t first, size_t last) {
    message.resize(for_parts(first, last, [](size_t, std::byte*, size_t) {}));
  };
  for_messages(shard, own, [&](size_t first, size_t last, int64_t) {
    if (size == 1) return;
    make_room(first, last);
    for_parts(first, last, [&](size_t begin, std::byte* part, size_t bytes) {
      std::memcpy(message.data() + begin, part, bytes);
    });
    for (int r = 0; r < size; ++r) {
      if (r != own) shard.group.send<std::byte>(r, kWeightTag, message);
    }
  });
  for (int r = 0; r < size; ++r) {
    if (r == own) continue;
    for_messages(shard, r, [&](size_t first, size_t last, int64_t) {
      make_room(first, last);
      shard.group.receive<std::byte>(r, kWeightTag, message);
      for_parts(first, last, [&](size_t begin, std::byte* part, size_t bytes) {
        std::memcpy(part, message.data() + begin, bytes);
      });
    });
  }
}

void ShardedOptimizer::quantize_weights(Context& ctx, const Shard& shard) {
  std::vector<std::byte> all = gather(shard, shard.master);
  int64_t at = 0;
  for (const Piece& piece : shard.pieces) {
    const TensorView& weight = weights_.view(piece.spec);
    if (piece.begin == 0) {  // parameters lie there whole, blocks one behind the other
      const TensorView master(all.data() + at * dtype_bytes(master_dtype_), master_dtype_,
                              weight.shape, weight.name);
      if (weights_.is_scaled(piece.spec)) {
        quantize(ctx, {.x = plain_rows(master), .y = weights_.scaled(piece.spec)});
      } else {
        cast(ctx, master, weight);
      }
    }
    at += piece.count;
  }
}

void ShardedOptimizer::refresh_weights(Context& ctx) {
  for (const Shard& shard : shards_) gather_weights(ctx, shard);
}

uint64_t ShardedOptimizer::checksum(const Shard& shard) const {
  uint64_t sum = 0;
  for (const Piece& piece : shard.pieces) {
    if (piece.begin != 0) continue;
    const TensorView& weight = weights_.view(piece.spec);
    sum = XXH3_64bits_withSeed(weight.data, static_cast<size_t>(weight.num_bytes()), sum);
    if (!weights_.is_scaled(piece.spec)) continue;
    const TensorView scales = weights_.scaled(piece.spec).scales;
    sum = XXH3_64bits_withSeed(scales.data, static_cast<size_t>(scales.num_bytes()), sum);
  }
  return sum;
}

std::vector<std::string> ShardedOptimizer::differing_weights(Context& ctx,
                                                             const Shard& shard) const {
  std::vector<std::byte> all = gather(shard, shard.master);
  std::vector<std::string> names;
  int64_t at = 0;
  for (const Piece& piece : shard.pieces) {
    const TensorView& weight = weights_.view(piece.spec);
    if (piece.begin == 0) {
      const ParameterSpec& spec = local_.specs[static_cast<size_t>(piece.spec)];
      const TensorView master(all.data() + at * dtype_bytes(master_dtype_), master_dtype_,
                              weight.shape, weight.name);
      // A set of this one parameter, made from the master weights as the compute copy is.
      ParameterSpec alone = spec;
      alone.packed = false;
      ParameterSet fresh("comparison", {alone}, dtypes_);
      if (fresh.is_scaled(0)) {
        quantize(ctx, {.x = plain_rows(master), .y = fresh.scaled(0)});
      } else {
        cast(ctx, master, fresh.view(0));
      }
      const auto same = [](const TensorView& a, const TensorView& b) {
        return std::memcmp(a.data, b.data, static_cast<size_t>(a.num_bytes())) == 0;
      };
      bool equal = same(weight, fresh.view(0));
      if (equal && fresh.is_scaled(0))
        equal = same(weights_.scaled(piece.spec).scales, fresh.scaled(0).scales);
      if (!equal) names.push_back(spec.name);
    }
    at += piece.count;
  }
  return names;
}

void ShardedOptimizer::compare_copies(Context& ctx) const {
  std::string found;  // by this rank, of itself
  int64_t differ = 0;
  for (const Shard& shard : shards_) {
    if (shard.group.size() == 1) continue;
    const uint64_t own = checksum(shard);
    std::vector<uint64_t> sums(static_cast<size_t>(shard.group.size()));
    const std::vector<int64_t> ones(sums.size(), 1);
    shard.group.all_gather<uint64_t>(std::span<const uint64_t>(&own, 1), ones, sums);
    if (std::count(sums.begin(), sums.end(), own) == static_cast<int64_t>(sums.size())) continue;
    differ = 1;
    for (const std::string& name : differing_weights(ctx, shard))
      found += fmt::format("{}rank {}: {}", found.empty() ? "" : ", ", world_.rank(), name);
  }
  if (world_.all_reduce_one(differ) == 0) return;
  std::string all;
  for (const std::string& text : world_.gather_text(found)) {
    if (!text.empty()) all += (all.empty() ? "" : ", ") + text;
  }
  throw CommError(fmt::format(
      "copies of the weights differ, and these are not what the optimizer gave out: {}; nothing "
      "was updated (a bit flipped in memory: check that machine, then --resume)",
      all));
}

const TensorView& ShardedOptimizer::state(const Shard& shard, Kind kind) const {
  switch (kind) {
    case Kind::kMaster:
      return shard.master;
    case Kind::kFirstMoment:
      return shard.m;
    case Kind::kSecondMoment:
      return shard.v;
    case Kind::kAverage:
      return shard.average;
  }
  return shard.master;
}

TensorPortion ShardedOptimizer::own_portion(Kind kind) const {
  finish_average();
  TensorPortion portion;
  for (const Shard& shard : shards_) {
    const DType dtype = state(shard, kind).dtype;
    std::vector<std::byte> all = gather(shard, state(shard, kind));
    int64_t at = 0;
    bool any = false;
    for (const Piece& piece : shard.pieces) {
      const ParameterSpec& spec = local_.specs[static_cast<size_t>(piece.spec)];
      // As blocks are spread: by where it begins.
      if (piece.begin == 0 && at * shard.group.size() / shard.total() == shard.group.rank()) {
        portion.tensors.emplace_back(all.data() + at * dtype_bytes(dtype), dtype, spec.shape,
                                     weights_.view(piece.spec).name);
        any = true;
      }
      at += piece.count;
    }
    if (any) portion.bytes.push_back(std::move(all));
  }
  return portion;
}

void ShardedOptimizer::take(Kind kind, const TensorSource& source) {
  finish_average();
  for (const Shard& shard : shards_) {
    const TensorView& own = state(shard, kind);
    const int64_t bytes = dtype_bytes(own.dtype);
    int64_t at = 0;
    for (size_t p = shard.first_own; p < shard.first_own + shard.num_own; ++p) {
      const Piece& piece = shard.pieces[p];
      const ParameterSpec& spec = local_.specs[static_cast<size_t>(piece.spec)];
      std::memcpy(static_cast<std::byte*>(own.data) + at * bytes,
                  source(spec.name, own.dtype, spec.shape) + piece.begin * bytes,
                  static_cast<size_t>(piece.count * bytes));
      at += piece.count;
    }
  }
}

void ShardedOptimizer::collect(Kind kind, ParameterSet* all) const {
  finish_average();
  std::vector<std::vector<std::byte>> mine;  // of the classes whose first holder this rank is
  for (const Shard& shard : shards_) {
    std::vector<std::byte> bytes = gather(shard, state(shard, kind));
    if (shard.group.rank() != 0) continue;
    if (world_.rank() == 0) {
      mine.push_back(std::move(bytes));
    } else {
      world_.send<std::byte>(0, kStateTag, bytes);
    }
  }
  if (world_.rank() != 0) return;
  size_t next_own = 0;
  for (const ParameterClass& c : classes_) {
    int64_t num_bytes = 0;
    for (const int64_t i : c.specs) {
      if (all->spec(i).kind != ParameterKind::kRouterBias) num_bytes += all->view(i).num_bytes();
    }
    std::vector<std::byte> bytes(static_cast<size_t>(num_bytes));
    if (c.holders[0] == 0) {
      bytes = std::move(mine[next_own++]);
      FATHOM_CHECK_EQ(static_cast<int64_t>(bytes.size()), num_bytes);
    } else {
      world_.receive<std::byte>(c.holders[0], kStateTag, bytes);
    }
    const std::byte* at = bytes.data();
    for (const int64_t i : c.specs) {
      if (all->spec(i).kind == ParameterKind::kRouterBias) continue;
      const TensorView& view = all->view(i);
      std::memcpy(view.data, at, static_cast<size_t>(view.num_bytes()));
      at += view.num_bytes();
    }
  }
}

void ShardedOptimizer::spread(Kind kind, const ParameterSet* all) {
  finish_average();
  if (world_.rank() == 0) {
    for (const ParameterClass& c : classes_) {
      std::vector<std::byte> bytes;
      for (const int64_t i : c.specs) {
        if (all->spec(i).kind == ParameterKind::kRouterBias) continue;
        const auto* data = static_cast<const std::byte*>(all->view(i).data);
        bytes.insert(bytes.end(), data, data + all->view(i).num_bytes());
      }
      for (const int holder : c.holders) world_.send<std::byte>(holder, kStateTag, bytes);
    }
  }
  for (const Shard& shard : shards_) {
    const TensorView& own = state(shard, kind);
    std::vector<std::byte> bytes(static_cast<size_t>(shard.total() * dtype_bytes(own.dtype)));
    world_.receive<std::byte>(0, kStateTag, bytes);
    int64_t before = 0;
    for (int r = 0; r < shard.group.rank(); ++r) before += shard.counts[static_cast<size_t>(r)];
    std::memcpy(own.data, bytes.data() + before * dtype_bytes(own.dtype),
                static_cast<size_t>(own.num_bytes()));
  }
}

}  // namespace fathom
