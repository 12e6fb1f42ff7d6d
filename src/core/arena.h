// Memory by lifetime. An Arena is one block of zeroed memory for things that live equally long
// (parameters, gradients, optimizer state, saved activations); its size is measured first by
// running the same allocation code against a measuring arena, then allocated once. A Scratch is a
// stack of temporary tensors with marks; it grows in the first step and allocates nothing after.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/tensor.h"

namespace fathom {

inline constexpr int64_t kTensorAlignBytes = 64;

class Arena {
 public:
  // Measures: allocate() returns views without memory and only counts.
  explicit Arena(std::string name) : name_(std::move(name)) {}
  // Holds `capacity_bytes`, all zero.
  Arena(std::string name, int64_t capacity_bytes);

  bool measuring() const { return block_ == nullptr; }
  // A contiguous tensor, aligned to kTensorAlignBytes unless it must follow the previous one
  // without a gap (`packed`: for tensors that are also used fused with their neighbour).
  TensorView allocate(DType dtype, Shape shape, const char* tensor_name, bool packed = false);

  const std::string& name() const { return name_; }
  int64_t used_bytes() const { return used_; }
  int64_t capacity_bytes() const { return capacity_; }

 private:
  struct Unmap {
    int64_t bytes;
    void operator()(std::byte* p) const;
  };
  std::string name_;
  std::unique_ptr<std::byte, Unmap> block_{nullptr, Unmap{0}};
  int64_t capacity_ = 0;
  int64_t used_ = 0;
};

// Runs `allocate_all(arena)` twice: once to measure, once for real. Returns the arena that holds
// it.
template <typename F>
Arena measured_arena(const std::string& name, F&& allocate_all) {
  Arena measure(name);
  allocate_all(measure);
  Arena arena(name, measure.used_bytes());
  allocate_all(arena);
  return arena;
}

class Scratch {
 public:
  // Memory is handed back in reverse order, when the mark goes out of scope.
  class Mark {
   public:
    explicit Mark(Scratch& scratch)
        : scratch_(scratch), chunk_(scratch.chunk_), used_(scratch.used_) {}
    ~Mark() {
      scratch_.chunk_ = chunk_;
      scratch_.used_ = used_;
    }
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    Scratch& scratch_;
    size_t chunk_;
    int64_t used_;
  };

  // Contents are not initialised.
  TensorView allocate(DType dtype, Shape shape, const char* tensor_name);
  template <typename T>
  T* allocate(int64_t count, const char* tensor_name) {
    return allocate(dtype_of<T>, Shape{count}, tensor_name).template as<T>();
  }
  // For objects that need no destructor; the caller constructs them.
  template <typename T>
  T* allocate_structs(int64_t count, const char* name) {
    static_assert(alignof(T) <= kTensorAlignBytes && std::is_trivially_destructible_v<T>);
    return reinterpret_cast<T*>(allocate<uint8_t>(count * static_cast<int64_t>(sizeof(T)), name));
  }
  int64_t capacity_bytes() const;
  // So much in one piece, if there is less: what is allocated piece by piece leaves gaps. Memory
  // that is never written to is never taken from the system.
  void reserve(int64_t bytes);

 private:
  void add_chunk(int64_t bytes);
  struct Free {
    void operator()(std::byte* p) const {
      ::operator delete[](p, std::align_val_t{kTensorAlignBytes});
    }
  };
  struct Chunk {
    std::unique_ptr<std::byte[], Free> memory;
    int64_t bytes;
  };
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;
  int64_t used_ = 0;  // in the current chunk
};

}  // namespace fathom
