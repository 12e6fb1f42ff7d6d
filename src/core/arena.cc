#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "core/integer.h"

namespace fathom {

Arena::Arena(std::string name, int64_t capacity_bytes)
    : name_(std::move(name)), capacity_(capacity_bytes) {
  const int64_t mapped = std::max<int64_t>(capacity_bytes, 1);
  void* memory = mmap(nullptr, static_cast<size_t>(mapped), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail(ErrorKind::kIo, "out of memory: {} needs {} bytes", name_, capacity_bytes);
  }
  madvise(memory, static_cast<size_t>(mapped), MADV_HUGEPAGE);
  block_ = std::unique_ptr<std::byte, Unmap>(static_cast<std::byte*>(memory), Unmap{mapped});
}

void Arena::Unmap::operator()(std::byte* p) const { munmap(p, static_cast<size_t>(bytes)); }

TensorView Arena::allocate(DType dtype, Shape shape, const char* tensor_name, bool packed) {
  const int64_t begin = packed ? used_ : round_up(used_, kTensorAlignBytes);
  const int64_t end = begin + shape.num_elements() * dtype_bytes(dtype);
  if (!measuring()) {
    FATHOM_CHECK_LE(end, capacity_, "arena '{}', tensor '{}' {}", name_, tensor_name,
                    to_string(shape));
  }
  used_ = end;
  return TensorView(measuring() ? nullptr : block_.get() + begin, dtype, shape, tensor_name);
}

TensorView Scratch::allocate(DType dtype, Shape shape, const char* tensor_name) {
  const int64_t bytes =
      round_up(std::max<int64_t>(shape.num_elements(), 1) * dtype_bytes(dtype), kTensorAlignBytes);
  while (chunk_ < chunks_.size() && used_ + bytes > chunks_[chunk_].bytes) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const int64_t grown = chunks_.empty() ? int64_t{1} << 20 : 2 * chunks_.back().bytes;
    add_chunk(std::max(bytes, grown));
    used_ = 0;
  }
  std::byte* data = chunks_[chunk_].memory.get() + used_;
  used_ += bytes;
  return TensorView(data, dtype, shape, tensor_name);
}

void Scratch::add_chunk(int64_t bytes) {
  const int64_t size = round_up(bytes, int64_t{1} << 16);
  auto* memory = static_cast<std::byte*>(
      ::operator new[](static_cast<size_t>(size), std::align_val_t{kTensorAlignBytes}));
  chunks_.push_back({std::unique_ptr<std::byte[], Free>(memory), size});
}

void Scratch::reserve(int64_t bytes) {
  if (capacity_bytes() < bytes) add_chunk(bytes);
}

int64_t Scratch::capacity_bytes() const {
  int64_t total = 0;
  for (const Chunk& chunk : chunks_) total += chunk.bytes;
  return total;
}

}  // namespace fathom
