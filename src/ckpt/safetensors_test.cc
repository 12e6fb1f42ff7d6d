// safetensors: files of the original library, our own, and broken ones.
#include "ckpt/safetensors.h"

#include <cstring>
#include <limits>

#include "core/arena.h"
#include "core/faulty_file.h"

namespace fathom {
namespace {

class Safetensors : public testing::Test {
 protected:
  Safetensors() {
    directory_ = testing::TempDir() + "fathom_safetensors_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    files_.remove_all(directory_);
    files_.make_directories(directory_);
  }
  ~Safetensors() override { files_.remove_all(directory_); }

  std::string path(const std::string& name = "t.safetensors") const {
    return join_path(directory_, name);
  }

  FileSystem& files_ = local_file_system();
  std::string directory_;
};

// A file from its header text and data bytes.
std::string file_of(const std::string& header, int64_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  for (int64_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::string parse_error_of(const std::string& file) {
  try {
    parse_safetensors(std::as_bytes(std::span(file)), "t.safetensors");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(Safetensors, EachBrokenFileIsOneClearError) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(parse_error_of(file_of(good, 8)), "no error");
  const auto with = [](const std::string& entry) { return "{\"a\":{" + entry + "}}"; };
  const struct {
    std::string file;
    const char* expected;
  } cases[] = {
      {"", "header length: found a file of 0 bytes, expected at least 8"},
      {"1234567", "found a file of 7 bytes"},
      {file_of(good, 8).substr(0, 30), "is the file truncated?"},
      {file_of(good, 7), "a.data_offsets: found end 8, expected at most 7, the end of the file"},
      {file_of(good, 9), "data: found 1 bytes behind the last tensor, expected none"},
      {std::string(16, '\xff'), "header length: found 18446744073709551615"},
      {file_of("", 0), "header: found no object"},
      {file_of(" {}", 0), "header: found no object"},
      {file_of("{", 0), "not valid JSON"},
      {file_of(with(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), 8),
       "a.dtype: found string \"F31\", expected one of F64, F32"},
      {file_of(with(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), 8),
       "a.dtype: found number 32"},
      {file_of(with(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8),
       "a.data_offsets: found 8 bytes, expected 12 for F32 [3]"},
      {file_of(with(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), 8),
       "a.shape: found number 2"},
      {file_of(with(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8),
       "a.shape: found number -2"},
      {file_of(with(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8),
       "a.shape: found number 2.0"},
      {file_of(with(R"("dtype":"F32","shape":[1,1,1,1,2],"data_offsets":[0,8])"), 8),
       "a.shape: found 5 dimensions"},
      {file_of(with(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0),
       "a size below 2^63 bytes"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8),
       "a.data_offsets: found [8, 0]"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8),
       "a.data_offsets: found an array"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), 8),
       "a.data_offsets: found an array"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12),
       "a.data_offsets: found begin 4, expected 0 (there is a hole before it)"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"), 8),
       "a.data_offsets: found number 18446744073709551615"},
      {file_of(with(R"("dtype":"F32","shape":[2])"), 8), "a.data_offsets: found nothing"},
      {file_of(with(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"), 8),
       "a: found the key \"x\""},
      {file_of(R"({"a":3})", 0), "a: found number 3"},
      {file_of(R"({"__metadata__":{"k":3}})", 0),
       "__metadata__.k: found number 3, expected a string"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
           2),
       "a: found the key twice"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
           3),
       "b.data_offsets: found begin 1, expected 2 (it overlaps the tensor before)"},
  };
  for (const auto& bad : cases) {
    const std::string message = parse_error_of(bad.file);
    EXPECT_NE(message.find(bad.expected), std::string::npos) << bad.expected << "\n  " << message;
    EXPECT_EQ(message.find("t.safetensors"), 0u) << message;
  }
}

TEST_F(Safetensors, EveryPrefixOfAFileIsRefused) {
  const std::string file =
      file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   )", 3);
  for (size_t n = 0; n < file.size(); ++n)
    EXPECT_NE(parse_error_of(file.substr(0, n)), "no error") << n;
  EXPECT_EQ(parse_error_of(file), "no error");
}

TEST_F(Safetensors, ReadsTheOriginalLibrarysFile) {
  // Made by the safetensors library from torch's casts of one fp32 list.
  SafetensorsReader reader(files_, join_path(FATHOM_GOLDEN_DIR, "fp8.safetensors"));
  const TensorView values = reader.view(reader.at("cast.values"));
  const auto stored = [&](const char* name, DType dtype) {
    const TensorView view = reader.view(reader.at(name));
    EXPECT_EQ(view.dtype, dtype);
    EXPECT_TRUE(view.shape == values.shape);
    return view;
  };
  const TensorView as_e4m3 = stored("cast.e4m3", DType::kE4M3),
                   as_e5m2 = stored("cast.e5m2", DType::kE5M2);
  const TensorView as_bf16 = stored("cast.bf16", DType::kBF16),
                   as_fp16 = stored("cast.fp16", DType::kF16);
  ASSERT_GT(values.num_elements(), 1000);
  for (int64_t i = 0; i < values.num_elements(); ++i) {
    const float value = values.as<float>()[i];
    ASSERT_EQ(e4m3(value).bits, as_e4m3.as<e4m3>()[i].bits) << value;
    ASSERT_EQ(bf16(value).bits, as_bf16.as<bf16>()[i].bits) << value;
    ASSERT_EQ(fp16(value).bits, as_fp16.as<fp16>()[i].bits) << value;
    if (std::fabs(value) <= 57344.0f) {  // beyond, torch's e5m2 overflows and ours saturates
      ASSERT_EQ(e5m2(value).bits, as_e5m2.as<e5m2>()[i].bits) << value;
    }
  }
}

TEST_F(Safetensors, RoundTripOfEveryTypeAndShape) {
  std::vector<std::byte> bytes(256);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(3 * i + 1);
  const std::vector<TensorView> tensors = {
      {bytes.data(), DType::kU8, Shape{3}, "u8"},
      {bytes.data(), DType::kF64, Shape{2, 2}, "f64"},
      {bytes.data(), DType::kF32, Shape{}, "scalar"},
      {bytes.data(), DType::kBF16, Shape{1, 2, 3, 4}, "bf16"},
      {bytes.data(), DType::kF16, Shape{5}, "f16"},
      {bytes.data(), DType::kE4M3, Shape{7}, "e4m3"},
      {bytes.data(), DType::kE5M2, Shape{1}, "e5m2"},
      {bytes.data(), DType::kUE8M0, Shape{2}, "ue8m0"},
      {bytes.data(), DType::kI64, Shape{3}, "i64"},
      {bytes.data(), DType::kI32, Shape{3}, "i32"},
      {bytes.data(), DType::kF32, Shape{0, 4}, "empty"},
      {bytes.data(), DType::kF32, Shape{2}, "name \"with\" quotes\n"},
  };
  write_safetensors(files_, path(), tensors, {{"format", "pt"}, {"k", "\"v\""}});
  write_safetensors(files_, path("again"), tensors, {{"format", "pt"}, {"k", "\"v\""}});
  EXPECT_EQ(files_.read_all(path()), files_.read_all(path("again")));
  EXPECT_FALSE(files_.info(path() + ".tmp").exists);

  SafetensorsReader reader(files_, path());
  EXPECT_EQ(reader.entries().size(), tensors.size());
  EXPECT_EQ(reader.metadata().at("k"), "\"v\"");
  for (const TensorView& tensor : tensors) {
    const SafetensorsEntry& entry = reader.at(tensor.name);
    EXPECT_EQ(entry.offset % dtype_bytes(entry.dtype), 0);
    const TensorView read = reader.view(entry);
    EXPECT_EQ(read.dtype, tensor.dtype) << tensor.name;
    EXPECT_TRUE(read.shape == tensor.shape) << tensor.name;
    EXPECT_EQ(std::memcmp(read.data, tensor.data, static_cast<size_t>(tensor.num_bytes())), 0)
        << tensor.name;
    reader.forget(entry);
    EXPECT_EQ(std::memcmp(read.data, tensor.data, static_cast<size_t>(tensor.num_bytes())), 0)
        << "after forget";
  }
  EXPECT_EQ(reader.find("absent"), nullptr);
  EXPECT_THROW(reader.at("absent"), Error);
}

TEST_F(Safetensors, WriterConvertsInPieces) {
  // More than one piece of the writer's conversion buffer.
  const int64_t count = (int64_t{1} << 18) * 2 + 5;
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(i) * 0.37f - 1000.0f;
  SafetensorsWriter writer(files_, path(), {{"x", DType::kBF16, Shape{count}}});
  writer.write(TensorView(values.data(), DType::kF32, Shape{count}, "x"));
  writer.finish();
  EXPECT_EQ(files_.info(path()).bytes, writer.file_bytes());
  SafetensorsReader reader(files_, path());
  const bf16* stored = reader.view(reader.at("x")).as<bf16>();
  for (int64_t i = 0; i < count; ++i)
    ASSERT_EQ(stored[i].bits, bf16(values[static_cast<size_t>(i)]).bits) << i;

  std::vector<double> back(static_cast<size_t>(count), std::numeric_limits<double>::quiet_NaN());
  reader.read_converted(reader.at("x"), TensorView(back.data(), DType::kF64, Shape{count}, "back"));
  for (int64_t i = 0; i < count; ++i)
    ASSERT_EQ(back[static_cast<size_t>(i)], static_cast<double>(static_cast<float>(stored[i])));
}

TEST_F(Safetensors, ReadsUnalignedTensorsByCopyOnly) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"I64","shape":[1],"data_offsets":[1,9]}})";
  write_file_atomically(files_, path(), file_of(header, 9));
  SafetensorsReader reader(files_, path());
  const SafetensorsEntry& b = reader.at("b");
  EXPECT_NE(b.offset % 8, 0);
  EXPECT_THROW(reader.view(b), Error);
  EXPECT_EQ(reader.read_int64(b).at(0), 0x0807060504030201);
}

TEST_F(Safetensors, IntegersAreNotReadAsNumbersOfAnotherKind) {
  int32_t ids[3] = {5, -7, 9};
  float x[3] = {};
  write_safetensors(
      files_, path(),
      {TensorView(ids, DType::kI32, Shape{3}, "ids"), TensorView(x, DType::kF32, Shape{3}, "x")});
  SafetensorsReader reader(files_, path());
  EXPECT_EQ(reader.read_int64(reader.at("ids")), (std::vector<int64_t>{5, -7, 9}));
  EXPECT_THROW(reader.read_int64(reader.at("x")), Error);
  EXPECT_THROW(reader.read_converted(reader.at("ids"), TensorView(x, DType::kF32, Shape{3}, "x")),
               Error);
}

TEST_F(Safetensors, WriterHoldsItsCallerToTheList) {
  float x[2] = {1, 2};
  const TensorView two(x, DType::kF32, Shape{2}, "x");
  SafetensorsWriter writer(files_, path(),
                           {{"x", DType::kF32, Shape{2}}, {"y", DType::kF32, Shape{1}}});
  writer.write(two);
  EXPECT_THROW(writer.finish(), CheckFailure);  // y is missing
  EXPECT_THROW(writer.write(two), CheckFailure);
  EXPECT_THROW(write_safetensors(files_, path(), {two, two}), CheckFailure);  // one name twice
}

TEST_F(Safetensors, FailedWriteLeavesTheOldFile) {
  float x[2] = {1, 2};
  const std::vector<TensorView> tensors = {TensorView(x, DType::kF32, Shape{2}, "x")};
  write_safetensors(files_, path(), tensors);
  const std::string before = files_.read_all(path());
  x[0] = 7;
  write_safetensors(files_, path("new"), tensors);
  const std::string after = files_.read_all(path("new"));
  ASSERT_NE(before, after);

  FaultyFileSystem faulty(files_);
  int64_t num_old = 0;
  for (int64_t i = 0;; ++i) {
    faulty.fail_at(i, FaultyFileSystem::Fault::kError);
    try {
      write_safetensors(faulty, path(), tensors);
      break;
    } catch (const Error&) {
      const std::string now = files_.read_all(path());
      EXPECT_TRUE(now == before || now == after)
          << "fault " << i;  // after: the fault struck behind the rename
      num_old += now == before ? 1 : 0;
    }
  }
  EXPECT_GE(num_old, 4);  // create, appends, sync and rename at least were seen to fail
  EXPECT_EQ(files_.read_all(path()), after);
}

}  // namespace
}  // namespace fathom
