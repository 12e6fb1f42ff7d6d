#include "core/tensor.h"

#include <numeric>

#include "core/arena.h"
#include "core/integer.h"

namespace fathom {
namespace {

TEST(TensorView, SlicesPointWhereTheyShould) {
  std::vector<float> data(2 * 3 * 4);
  std::iota(data.begin(), data.end(), 0.0f);
  const TensorView x(data.data(), DType::kF32, Shape{2, 3, 4}, "x");
  EXPECT_TRUE(x.contiguous());
  EXPECT_EQ(x.num_elements(), 24);
  EXPECT_EQ(x.num_bytes(), 96);
  EXPECT_EQ(x.at(1).at(2).as<float>()[3], 23);
  EXPECT_EQ(x.rows(1, 1).as<float>()[0], 12);
  const TensorView middle = x.columns(1, 2);
  EXPECT_FALSE(middle.contiguous());
  EXPECT_EQ(middle.at(1).at(1).as<float>()[0], 17);
  EXPECT_EQ(x.reshaped(Shape{6, 4}).at(5).as<float>()[0], 20);
  const TensorView matrix = middle.as_matrix();  // rows stay four apart
  EXPECT_EQ(matrix.shape, (Shape{6, 2}));
  EXPECT_EQ(matrix.at(4).as<float>()[1], 18);
  EXPECT_EQ(to_string(x), "x f32[2, 3, 4]");
  EXPECT_EQ(x.rows(2, 0).num_elements(), 0);
}

TEST(TensorView, RefusesWhatIsOutside) {
  float data[6] = {};
  const TensorView x(data, DType::kF32, Shape{2, 3}, "weights");
  EXPECT_THROW(x.rows(1, 2), CheckFailure);
  EXPECT_THROW(x.rows(-1, 1), CheckFailure);
  EXPECT_THROW(x.columns(3, 1), CheckFailure);
  EXPECT_THROW(x.at(2), CheckFailure);
  EXPECT_THROW(x.reshaped(Shape{4}), CheckFailure);
  EXPECT_THROW(x.columns(0, 2).reshaped(Shape{4}), CheckFailure);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1}), CheckFailure);
  try {
    x.as<double>();
    ADD_FAILURE();
  } catch (const CheckFailure& failure) {
    EXPECT_NE(std::string(failure.what()).find("tensor 'weights' is f32, not f64"),
              std::string::npos);
  }
  // Rows that are not evenly spaced cannot be a matrix.
  std::vector<float> big(24);
  EXPECT_THROW(
      TensorView(big.data(), DType::kF32, Shape{2, 3, 4}, "y").at(0).rows(0, 3).at(0).as<double>(),
      CheckFailure);
  TensorView gap(big.data(), DType::kF32, Shape{2, 3, 4}, "gap");
  gap.shape.dim[1] = 2;
  EXPECT_THROW(gap.as_matrix(), CheckFailure);
}

TEST(Arena, MeasuresThenHoldsExactlyThat) {
  std::vector<TensorView> views;
  int runs = 0;
  const Arena arena = measured_arena("test", [&](Arena& a) {
    ++runs;
    views = {a.allocate(DType::kU8, Shape{3}, "a"), a.allocate(DType::kF32, Shape{5}, "b"),
             a.allocate(DType::kF32, Shape{2, 2}, "c", /*packed=*/true),
             a.allocate(DType::kF64, Shape{0}, "empty")};
  });
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(arena.used_bytes(), arena.capacity_bytes());
  EXPECT_EQ(arena.used_bytes(), 128);  // 64 for a, then 36 bytes, then the aligned empty one
  for (const TensorView& view : views) {
    EXPECT_FALSE(view.empty());
    const auto* bytes = static_cast<const uint8_t*>(view.data);
    for (int64_t i = 0; i < view.num_bytes(); ++i) EXPECT_EQ(bytes[i], 0);
  }
  EXPECT_EQ(reinterpret_cast<uintptr_t>(views[1].data) % kTensorAlignBytes, 0u);
  EXPECT_EQ(static_cast<float*>(views[1].data) + 5, views[2].data);  // packed: no gap
}

TEST(Arena, RefusesMoreThanWasMeasured) {
  Arena arena("small", 64);
  EXPECT_NE(arena.allocate(DType::kF32, Shape{16}, "x").data, nullptr);
  EXPECT_THROW(arena.allocate(DType::kF32, Shape{1}, "y"), CheckFailure);
  const Arena none("empty", 0);
  EXPECT_EQ(none.capacity_bytes(), 0);
  EXPECT_THROW(Arena("huge", int64_t{1} << 60), Error);  // out of memory is not a bug
}

TEST(Scratch, MarksGiveMemoryBackInOrder) {
  Scratch scratch;
  float* first = scratch.allocate<float>(10, "first");
  float* second = nullptr;
  {
    const Scratch::Mark mark(scratch);
    second = scratch.allocate<float>(10, "second");
    EXPECT_NE(first, second);
  }
  EXPECT_EQ(scratch.allocate<float>(10, "third"), second);
}

TEST(Scratch, GrowsOnceAndThenStays) {
  Scratch scratch;
  int64_t capacity = 0;
  float* expected = nullptr;
  for (int step = 0; step < 5; ++step) {
    const Scratch::Mark mark(scratch);
    scratch.allocate<float>(100'000, "small");
    float* big = scratch.allocate<float>(3'000'000, "big");
    for (int64_t i = 0; i < 3'000'000; i += 4096) big[i] = 1;
    if (step == 0) {
      capacity = scratch.capacity_bytes();
      expected = big;
    }
    EXPECT_EQ(scratch.capacity_bytes(), capacity);
    EXPECT_EQ(big, expected);
  }
  EXPECT_NE(scratch.allocate(DType::kF32, Shape{0}, "empty").data, nullptr);
}

TEST(Scratch, LiveTensorsNeverOverlap) {
  Scratch scratch;
  std::vector<TensorView> live;
  for (int64_t n : {1, 1'000'000, 3, 2'000'000, 5, 17}) {
    live.push_back(scratch.allocate(DType::kU8, Shape{n}, "x"));
    std::fill_n(static_cast<uint8_t*>(live.back().data), n, static_cast<uint8_t>(live.size()));
  }
  for (size_t i = 0; i < live.size(); ++i) {
    const auto* bytes = static_cast<const uint8_t*>(live[i].data);
    for (int64_t k = 0; k < live[i].num_bytes(); ++k) ASSERT_EQ(bytes[k], i + 1);
  }
}

TEST(Integer, NarrowAndMultiplyFailLoudly) {
  EXPECT_EQ(narrow<int32_t>(int64_t{-5}), -5);
  EXPECT_THROW(narrow<int32_t>(int64_t{1} << 31), CheckFailure);
  EXPECT_THROW(narrow<uint32_t>(int64_t{-1}), CheckFailure);
  EXPECT_THROW(narrow<int32_t>(uint32_t{0x80000000u}), CheckFailure);
  EXPECT_EQ(checked_mul(int64_t{1} << 31, int64_t{1} << 31), int64_t{1} << 62);
  EXPECT_THROW(checked_mul(int64_t{1} << 32, int64_t{1} << 31), CheckFailure);
  EXPECT_EQ(div_up(0, 128), 0);
  EXPECT_EQ(div_up(129, 128), 2);
  EXPECT_EQ(round_up(129, 64), 192);
}

}  // namespace
}  // namespace fathom
