// Quantisation against torch (tests/golden/fp8.safetensors, made by tools/make_fp8_golden.py):
// codes and scales equal bit for bit, at every instruction-set level; and folders in DeepSeek's FP8
// layout.
#include <cstring>

#include "ckpt/convert_folder.h"
#include "ckpt/safetensors.h"
#include "core/integer.h"
#include "kernels/scaled.h"
#include "model/linear.h"

namespace fathom {
namespace {

std::string golden(std::string_view name) { return fmt::format("{}/{}", FATHOM_GOLDEN_DIR, name); }

// A tensor of a file, with memory of its own.
struct Loaded {
  Loaded(const SafetensorsReader& file, const std::string& name)
      : entry(*file.find(name)),
        arena("golden", round_up(entry.num_bytes(), int64_t{64})),
        view(arena.allocate(entry.dtype, entry.shape, entry.name.c_str())) {
    std::memcpy(view.data, file.bytes(entry), static_cast<size_t>(entry.num_bytes()));
  }
  const SafetensorsEntry& entry;
  Arena arena;
  TensorView view;
};

bool same_bytes(const TensorView& a, const TensorView& b) {
  return a.shape == b.shape && a.dtype == b.dtype &&
         std::memcmp(a.data, b.data, static_cast<size_t>(a.num_bytes())) == 0;
}

void expect_torch(const SafetensorsReader& file, const std::string& source,
                  const std::string& codes, const std::string& scales, ScaleGrain grain,
                  bool power_of_two) {
  Loaded x(file, source), want_codes(file, codes), want_scales(file, scales);
  for (const IsaLevel level : supported_isa_levels()) {
    Context ctx(2, level);
    Arena memory("quantised", 1 << 20);
    const ScaledView y{memory.allocate(DType::kE4M3, want_codes.view.shape, "codes"),
                       memory.allocate(DType::kF32, want_scales.view.shape, "scales"), grain};
    quantize(ctx, {.x = plain_rows(x.view), .y = y, .power_of_two = power_of_two});
    EXPECT_TRUE(same_bytes(y.codes, want_codes.view)) << source << " " << isa_name(level);
    EXPECT_TRUE(same_bytes(y.scales, want_scales.view)) << source << " " << isa_name(level);
    static_cast<uint8_t*>(y.codes.data)[0] ^= 1;
    EXPECT_FALSE(same_bytes(y.codes, want_codes.view)) << "the comparison cannot see";
  }
}

TEST(QuantizeGolden, WeightsHaveTorchsBits) {
  const SafetensorsReader file(local_file_system(), golden("fp8.safetensors"));
  for (const char* name : {"w128x128", "w140x200", "w1x1", "zeros"}) {
    const std::string weight = std::string("weight.") + name;
    expect_torch(file, weight + ".source", weight + ".codes", weight + ".scale_inv",
                 ScaleGrain::kBlock, false);
    Loaded codes(file, weight + ".codes"), scales(file, weight + ".scale_inv"),
        want(file, weight + ".bf16");
    Context ctx(1);
    Arena memory("dequantised", 1 << 20);
    const TensorView values = memory.allocate(DType::kBF16, want.view.shape, "values");
    dequantize(ctx, {.x = {codes.view, scales.view, ScaleGrain::kBlock}, .y = values});
    EXPECT_TRUE(same_bytes(values, want.view)) << name;
  }
}

TEST(QuantizeGolden, ActivationTilesHaveTorchsBits) {
  const SafetensorsReader file(local_file_system(), golden("fp8.safetensors"));
  expect_torch(file, "tile.source", "tile.codes", "tile.scale", ScaleGrain::kRow, false);
  expect_torch(file, "tile.source", "tile.pow2_codes", "tile.pow2_scale", ScaleGrain::kRow, true);
}

class ConvertFolder : public testing::Test {
 protected:
  ConvertFolder() { files_.remove_all(out_); }
  ~ConvertFolder() override { files_.remove_all(out_), files_.remove_all(out_ + "2"); }
  FileSystem& files_ = local_file_system();
  Context ctx_{2};
  std::string out_ = testing::TempDir() + "fathom_convert_" +
                     testing::UnitTest::GetInstance()->current_test_info()->name();
};

// Published FP8 to bf16 and to FP8 again: DeepSeek's own bits both times.
TEST_F(ConvertFolder, PublishedFp8ThereAndBack) {
  const std::string source = golden("models/fp8_v3");
  const ConvertReport to_fp8 = convert_folder(ctx_, files_, source, out_, FolderFormat::kFp8Block);
  EXPECT_EQ(to_fp8.num_quantised, 0) << "what is FP8 stays as it is";
  EXPECT_EQ(to_fp8.bytes_before, to_fp8.bytes_after);
  const CheckpointReader before(files_, source), after(files_, out_);
  ASSERT_EQ(before.tensors().size(), after.tensors().size());
  for (const auto& [name, stored] : before.tensors()) {
    const StoredTensor& copy = *after.find(name);
    ASSERT_EQ(stored.entry->dtype, copy.entry->dtype) << name;
    EXPECT_EQ(std::memcmp(stored.shard->bytes(*stored.entry), copy.shard->bytes(*copy.entry),
                          static_cast<size_t>(stored.entry->num_bytes())),
              0)
        << name;
  }
  const ConvertReport to_bf16 = convert_folder(ctx_, files_, out_, out_ + "2", FolderFormat::kBf16);
  EXPECT_GT(to_bf16.num_dequantised, 20);
  const CheckpointReader plain(files_, out_ + "2");
  EXPECT_EQ(plain.config().fp8_block_rows, 0);
  // The same weights as reading the FP8 folder into bf16.
  const ModelConfig config = before.config();
  ParameterSet a("a", parameter_specs(config), kPolicyBf16.weight_dtypes()),
      b("b", parameter_specs(config), kPolicyBf16.weight_dtypes());
  load_weights(ctx_, before, a);
  load_weights(ctx_, plain, b);
  for (int64_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(same_bytes(a.view(i), b.view(i))) << a.spec(i).name;
}

// bf16 to FP8: what the model quantises when it loads for FP8 products, and every key that
// config.json had.
TEST_F(ConvertFolder, QuantisesAsTheModelDoes) {
  std::string source;
  for (const std::string& name : files_.list(golden("models"))) {
    const std::string folder = golden("models/" + name);
    if (!files_.info(folder + "/model.safetensors").exists) continue;
    const CheckpointReader reader(files_, folder);
    if (reader.config().fp8_block_rows == 0 && reader.config().q_lora_rank > 0) source = folder;
  }
  ASSERT_FALSE(source.empty());
  const ConvertReport report = convert_folder(ctx_, files_, source, out_, FolderFormat::kFp8Block);
  EXPECT_GT(report.num_quantised, 10);
  EXPECT_LT(report.bytes_after, report.bytes_before);
  const CheckpointReader plain(files_, source), fp8(files_, out_);
  EXPECT_EQ(fp8.config().fp8_block_rows, 128);
  const LoadOptions options{.allow_missing_mtp = true};
  const ModelConfig config = config_to_load(plain, options);
  ParameterSet a("a", parameter_specs(config), kPolicyFp8.weight_dtypes()),
      b("b", parameter_specs(config), kPolicyFp8.weight_dtypes());
  const LoadReport quantised = load_weights(ctx_, plain, a, options),
                   read = load_weights(ctx_, fp8, b, options);
  EXPECT_EQ(quantised.num_dequantised + read.num_dequantised, 0);
  for (int64_t i = 0; i < a.size(); ++i) {
    if (!a.is_scaled(i)) continue;
    EXPECT_TRUE(same_bytes(a.scaled(i).codes, b.scaled(i).codes)) << a.spec(i).name;
    EXPECT_TRUE(same_bytes(a.scaled(i).scales, b.scaled(i).scales)) << a.spec(i).name;
  }
}

TEST_F(ConvertFolder, StoppedOrRefusedLeavesNothing) {
  int asked = 0;
  const ConvertReport stopped =
      convert_folder(ctx_, files_, golden("models/fp8_v3"), out_, FolderFormat::kBf16,
                     {.should_stop = [&] { return ++asked > 5; }});
  EXPECT_EQ(stopped.num_tensors, 0);
  EXPECT_FALSE(files_.info(out_).exists);
  EXPECT_THROW(convert_folder(ctx_, files_, golden("no such"), out_, FolderFormat::kBf16), Error);
  EXPECT_FALSE(files_.info(out_).exists);
}

}  // namespace
}  // namespace fathom
