// Folders: every golden checkpoint of transformers loads strictly and survives a round trip bit for
// bit; FP8 dequantises as torch does; each way to be incomplete is an error.
#include "ckpt/hf_folder.h"

#include <cstring>
#include <functional>
#include <limits>

#include "ckpt/convert.h"
#include "core/json.h"
#include "core/random.h"
#include "model/config_json.h"

namespace fathom {
namespace {

constexpr ParameterDtypes kAllF32{DType::kF32, DType::kF32};
constexpr ParameterDtypes kAllBf16{DType::kBF16, DType::kBF16};

std::string golden_folder(const std::string& name) {
  return std::string(FATHOM_GOLDEN_DIR) + "/models/" + name;
}

std::vector<std::string> golden_models() {
  std::vector<std::string> names;
  for (const std::string& name : local_file_system().list(golden_folder(""))) {
    if (local_file_system().info(golden_folder(name) + "/model.safetensors").exists)
      names.push_back(name);
  }
  return names;
}

class HfFolder : public testing::Test {
 protected:
  HfFolder() {
    directory_ = testing::TempDir() + "fathom_hf_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    files_.remove_all(directory_);
    files_.make_directories(directory_);
  }
  ~HfFolder() override { files_.remove_all(directory_); }

  ParameterSet load(const std::string& folder, ParameterDtypes dtypes,
                    const LoadOptions& options = {}) {
    CheckpointReader reader(files_, folder);
    ParameterSet parameters("test", parameter_specs(config_to_load(reader, options)), dtypes);
    report_ = load_weights(ctx_, reader, parameters, options);
    return parameters;
  }
  std::string load_error(const std::string& folder, const LoadOptions& options = {}) {
    try {
      load(folder, kAllF32, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_status(), 1);
      return error.what();
    }
    return "no error";
  }

  // Copies a golden into a folder of our own, with its tensors changed by `edit`.
  struct Tensor {
    DType dtype;
    Shape shape;
    std::string bytes;
  };
  using Tensors = std::map<std::string, Tensor>;
  std::string edited(const std::string& golden, const std::function<void(Tensors&, Json&)>& edit) {
    const std::string folder = join_path(directory_, "edited");
    files_.make_directories(folder);
    Json config = parse_json(files_.read_all(golden_folder(golden) + "/config.json"), golden);
    Tensors tensors;
    {
      SafetensorsReader reader(files_, golden_folder(golden) + "/model.safetensors");
      for (const SafetensorsEntry& e : reader.entries()) {
        tensors[e.name] = {e.dtype, e.shape,
                           std::string(reinterpret_cast<const char*>(reader.bytes(e)),
                                       static_cast<size_t>(e.num_bytes()))};
      }
    }
    edit(tensors, config);
    write_file_atomically(files_, join_path(folder, "config.json"), config.dump());
    std::vector<TensorView> views;
    for (auto& [name, tensor] : tensors) {
      views.emplace_back(tensor.bytes.data(), tensor.dtype, tensor.shape, name.c_str());
    }
    write_safetensors(files_, join_path(folder, "model.safetensors"), views);
    return folder;
  }

  FileSystem& files_ = local_file_system();
  Context ctx_{2};
  std::string directory_;
  LoadReport report_;
};

void expect_same_bits(const ParameterSet& a, const ParameterSet& b) {
  ASSERT_EQ(a.size(), b.size());
  for (int64_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a.view(i).num_bytes(), b.view(i).num_bytes());
    ASSERT_EQ(
        std::memcmp(a.view(i).data, b.view(i).data, static_cast<size_t>(a.view(i).num_bytes())), 0)
        << a.spec(i).name;
  }
}

TEST_F(HfFolder, EveryGoldenLoadsAndComesBackBitForBit) {
  const std::vector<std::string> names = golden_models();
  ASSERT_GE(names.size(), 9u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const ParameterSet parameters = load(golden_folder(name), kAllF32);
    const ModelConfig config = CheckpointReader(files_, golden_folder(name)).config();
    EXPECT_EQ(static_cast<size_t>(report_.num_parameters_loaded), parameter_specs(config).size());
    EXPECT_TRUE(report_.ignored.empty());
    EXPECT_EQ(report_.copies.size(), 2 * static_cast<size_t>(config.num_nextn_predict_layers));

    const std::string saved = join_path(directory_, name);
    save_hf_folder(files_, saved, config, parameters, {.dtype = DType::kF32});
    expect_same_bits(parameters, load(saved, kAllF32));
    // Tensor by tensor, what lies on disk is what the other library wrote.
    if (config.fp8_block_rows > 0) continue;
    SafetensorsReader theirs(files_, golden_folder(name) + "/model.safetensors");
    SafetensorsReader ours(files_, join_path(saved, "model.safetensors"));
    ASSERT_EQ(ours.entries().size(), theirs.entries().size());
    for (const SafetensorsEntry& entry : theirs.entries()) {
      ASSERT_EQ(ours.at(entry.name).dtype, entry.dtype);
      ASSERT_EQ(std::memcmp(ours.bytes(ours.at(entry.name)), theirs.bytes(entry),
                            static_cast<size_t>(entry.num_bytes())),
                0)
          << entry.name;
    }
  }
}

TEST_F(HfFolder, SavingTwiceGivesTheSameBytes) {
  const ParameterSet parameters = load(golden_folder("v3_base"), kAllF32);
  const ModelConfig config = CheckpointReader(files_, golden_folder("v3_base")).config();
  const SaveOptions options{
      .dtype = DType::kBF16, .max_shard_bytes = 4000, .extra_files = {{"tokenizer.json", "{}"}}};
  save_hf_folder(files_, join_path(directory_, "a"), config, parameters, options);
  save_hf_folder(files_, join_path(directory_, "b"), config, parameters, options);
  const std::vector<std::string> names = files_.list(join_path(directory_, "a"));
  EXPECT_EQ(names, files_.list(join_path(directory_, "b")));
  EXPECT_GT(names.size(), 6u);
  for (const std::string& name : names) {
    EXPECT_EQ(files_.read_all(join_path(directory_, "a/" + name)),
              files_.read_all(join_path(directory_, "b/" + name)))
        << name;
  }
  EXPECT_EQ(files_.read_all(join_path(directory_, "a/tokenizer.json")), "{}");
}

TEST_F(HfFolder, ShardsHoldEverythingOnceAndRespectTheLimit) {
  const ParameterSet parameters = load(golden_folder("v3_base"), kAllF32);
  const ModelConfig config = CheckpointReader(files_, golden_folder("v3_base")).config();
  const std::string folder = join_path(directory_, "sharded");
  save_hf_folder(files_, folder, config, parameters,
                 {.dtype = DType::kF32, .max_shard_bytes = 5000});
  CheckpointReader reader(files_, folder);
  EXPECT_GT(reader.num_shards(), 3);
  for (const std::string& name : files_.list(folder)) {
    if (!name.ends_with(".safetensors")) continue;
    SafetensorsReader shard(files_, join_path(folder, name));
    int64_t total = 0;
    for (const SafetensorsEntry& entry : shard.entries()) total += entry.num_bytes();
    EXPECT_TRUE(total <= 5000 || shard.entries().size() == 1) << name;
  }
  const Json index =
      parse_json(files_.read_all(join_path(folder, "model.safetensors.index.json")), "index");
  int64_t total = 0;
  for (const auto& [name, stored] : reader.tensors()) total += stored.entry->num_bytes();
  EXPECT_EQ(index["metadata"]["total_size"], total);
  expect_same_bits(parameters, load(folder, kAllF32));
}

TEST_F(HfFolder, StoredTypesRoundToNearestEven) {
  const ParameterSet exact = load(golden_folder("v3_base"), kAllF32);
  const ParameterSet rounded = load(golden_folder("v3_base"), kAllBf16);
  EXPECT_EQ(report_.num_converted, rounded.size());
  for (int64_t i = 0; i < exact.size(); ++i) {
    for (int64_t k = 0; k < exact.view(i).num_elements(); ++k) {
      ASSERT_EQ(rounded.view(i).as<bf16>()[k].bits, bf16(exact.view(i).as<float>()[k]).bits)
          << exact.spec(i).name;
    }
  }
  // Saved in bf16 and read in fp32: the same values; the router bias keeps its 32 bits.
  const ModelConfig config = CheckpointReader(files_, golden_folder("v3_base")).config();
  const std::string folder = join_path(directory_, "bf16");
  save_hf_folder(files_, folder, config, exact, {.dtype = DType::kBF16});
  EXPECT_EQ(CheckpointReader(files_, folder).config().torch_dtype, "bfloat16");
  const ParameterSet back = load(folder, kAllF32);
  for (int64_t i = 0; i < exact.size(); ++i) {
    const bool bias = exact.spec(i).kind == ParameterKind::kRouterBias;
    for (int64_t k = 0; k < exact.view(i).num_elements(); ++k) {
      const float value = exact.view(i).as<float>()[k];
      ASSERT_EQ(back.view(i).as<float>()[k], bias ? value : static_cast<float>(bf16(value)));
    }
  }
}

TEST_F(HfFolder, DequantisedBlocksAreTorchsBits) {
  SafetensorsReader golden(files_, std::string(FATHOM_GOLDEN_DIR) + "/fp8.safetensors");
  int64_t num_weights = 0, num_ragged = 0;
  for (const SafetensorsEntry& listed : golden.entries()) {
    if (listed.name.rfind("weight.", 0) != 0 || !listed.name.ends_with(".codes")) continue;
    const std::string name = listed.name.substr(7, listed.name.size() - 13);
    ++num_weights;
    const SafetensorsEntry& codes = golden.at("weight." + name + ".codes");
    const SafetensorsEntry& scales = golden.at("weight." + name + ".scale_inv");
    const TensorView expected = golden.view(golden.at("weight." + name + ".bf16"));
    const auto count = static_cast<size_t>(codes.shape.num_elements());
    std::vector<bf16> direct(count, bf16(std::numeric_limits<float>::quiet_NaN()));
    dequantize_blocks(golden.bytes(codes), golden.bytes(scales), 128, 128, false,
                      TensorView(direct.data(), DType::kBF16, codes.shape, "direct"));
    EXPECT_EQ(std::memcmp(direct.data(), expected.data, count * sizeof(bf16)), 0) << name;
    std::vector<float> through(count, std::numeric_limits<float>::quiet_NaN());
    dequantize_blocks(golden.bytes(codes), golden.bytes(scales), 128, 128, true,
                      TensorView(through.data(), DType::kF32, codes.shape, "through"));
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(through[i], static_cast<float>(expected.as<bf16>()[i])) << name << i;
    // A block border in the wrong place shows.
    if (codes.shape[0] > 128 && codes.shape[1] > 128) {
      ++num_ragged;
      dequantize_blocks(golden.bytes(codes), golden.bytes(scales), 127, 128, false,
                        TensorView(direct.data(), DType::kBF16, codes.shape, "wrong"));
      EXPECT_NE(std::memcmp(direct.data(), expected.data, count * sizeof(bf16)), 0);
    }
  }
  EXPECT_GE(num_weights, 3);
  EXPECT_GE(num_ragged, 1);
}

TEST_F(HfFolder, Fp8CheckpointLoads) {
  const ParameterSet parameters = load(golden_folder("fp8_v3"), kAllF32);
  EXPECT_GT(report_.num_dequantised, 30);
  EXPECT_EQ(report_.copies.size(), 2u);
  EXPECT_EQ(report_.tensors_by_dtype.at("F8_E4M3"), report_.num_dequantised);
  // One tensor by hand: rows and columns beyond 128 use the second scale.
  SafetensorsReader raw(files_, golden_folder("fp8_v3") + "/model.safetensors");
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const SafetensorsEntry& codes = raw.at(name);
  const TensorView scales = raw.view(raw.at(name + "_scale_inv"));
  ASSERT_EQ(codes.shape, (Shape{136, 136}));
  for (int64_t r = 0; r < 136; ++r) {
    for (int64_t c = 0; c < 136; ++c) {
      e4m3 code;
      std::memcpy(&code, raw.bytes(codes) + r * 136 + c, 1);
      const float scale = scales.as<float>()[(r >= 128 ? 2 : 0) + (c >= 128 ? 1 : 0)];
      ASSERT_EQ(parameters[name].as<float>()[r * 136 + c], static_cast<float>(code) * scale);
    }
  }
}

TEST_F(HfFolder, ExpectedNamesOfDeepSeekV3AreThePublishedOnes) {
  const std::string path = std::string(FATHOM_SOURCE_DIR) + "/configs/models/deepseek-v3.json";
  const auto expected = expected_tensors(parse_config_json(files_.read_all(path), path));
  EXPECT_EQ(expected.size(), 91'991u);
  // The published index states total_size 688,574,839,360: FP8 weights, fp32 scales and router
  // bias, bf16 for the rest.
  int64_t total = 0;
  for (const auto& [name, want] : expected) {
    const bool wide =
        want.role == ExpectedTensor::Role::kScale || name.ends_with("e_score_correction_bias");
    total += want.shape.num_elements() * (wide ? 4 : want.may_be_fp8 ? 1 : 2);
  }
  EXPECT_EQ(total, 688'574'839'360);
}

TEST_F(HfFolder, NothingMayMissOrBeLeftOver) {
  const std::string norm = "model.norm.weight";
  const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
  const struct {
    const char* golden;
    std::function<void(Tensors&, Json&)> edit;
    const char* expected;
  } cases[] = {
      {"v3_base", [&](Tensors& t, Json&) { t.erase(norm); }, "1 missing: model.norm.weight"},
      {"v3_base", [&](Tensors& t, Json&) { t.erase(bias); },
       "1 missing: model.layers.1.mlp.gate.e_score_correction_bias"},
      {"v3_base", [&](Tensors& t, Json&) { t["model.extra"] = t[norm]; },
       "1 unexpected: model.extra"},
      {"v3_base", [&](Tensors& t, Json&) { t["model.layers.0.self_attn.q_proj.weight"] = t[norm]; },
       "1 unexpected"},
      {"v3_base",
       [&](Tensors& t, Json&) {
         t[norm].shape = Shape{12, 2};
       },
       "1 malformed: model.norm.weight: found [12, 2], expected [24]"},
      {"v3_base", [&](Tensors& t, Json&) { t[norm].dtype = DType::kI32; },
       "model.norm.weight: found I32, expected F32, BF16 or F16"},
      {"v3_base",
       [&](Tensors& t, Json&) {
         for (int i = 0; i < 7; ++i) t["extra" + std::to_string(i)] = t[norm];
       },
       "7 unexpected: extra0, extra1, extra2, extra3, extra4, and 2 more"},
      {"v3_base", [&](Tensors&, Json& c) { c["num_hidden_layers"] = 4; },
       "missing: model.layers.3.input_layernorm.weight"},
      {"v3_base", [&](Tensors&, Json& c) { c["num_nextn_predict_layers"] = 1; },
       "no tensor of the MTP modules is stored: num_nextn_predict_layers is 1"},
      {"v3_base", [&](Tensors& t, Json&) { t["lm_head.weight_scale_inv"] = t[norm]; },
       "1 unexpected: lm_head.weight_scale_inv"},
      {"v3_tied",
       [&](Tensors& t, Json&) {
         t["lm_head.weight"] = t["model.embed_tokens.weight"];
         t["lm_head.weight"].bytes[0] ^= 1;
       },
       "lm_head.weight: found another value at element 0, expected the same bits"},
      {"mtp_d1",
       [&](Tensors& t, Json&) { t["model.layers.2.shared_head.head.weight"].bytes[9] ^= 1; },
       "model.layers.2.shared_head.head.weight: found another value at element 2"},
      {"mtp_d1", [&](Tensors& t, Json&) { t.erase("model.layers.2.embed_tokens.weight"); },
       "1 missing: model.layers.2.embed_tokens.weight"},
      {"fp8_v3", [&](Tensors& t, Json&) { t.erase("model.layers.0.mlp.up_proj.weight_scale_inv"); },
       "1 missing: model.layers.0.mlp.up_proj.weight_scale_inv"},
      {"fp8_v3",
       [&](Tensors& t, Json&) {
         t["model.layers.0.mlp.up_proj.weight_scale_inv"].shape = Shape{4, 1};
       },
       "model.layers.0.mlp.up_proj.weight_scale_inv: found [4, 1], expected [2, 2]"},
      {"fp8_v3", [&](Tensors&, Json& c) { c.erase("quantization_config"); },
       "config.json has no quantization_config"},
      {"fp8_v3",
       [&](Tensors& t, Json&) {
         Tensor& head = t["lm_head.weight"];
         head.dtype = DType::kE4M3;
         head.bytes.resize(head.bytes.size() / 2);
       },
       "lm_head.weight: found F8_E4M3"},
  };
  for (const auto& bad : cases) {
    const std::string message = load_error(edited(bad.golden, bad.edit));
    EXPECT_NE(message.find(bad.expected), std::string::npos) << bad.expected << "\n  " << message;
  }
  EXPECT_EQ(load_error(edited("v3_base", [](Tensors&, Json&) {})), "no error");
}

TEST_F(HfFolder, NonFiniteParametersAreNamed) {
  const float poison[] = {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()};
  for (const float value : poison) {
    const std::string folder = edited("v3_base", [&](Tensors& t, Json&) {
      std::memcpy(t["model.layers.1.mlp.experts.3.up_proj.weight"].bytes.data() + 4 * 5, &value, 4);
    });
    EXPECT_NE(load_error(folder).find("model.layers.1.mlp.experts.3.up_proj.weight: found a value "
                                      "that is not finite (element 5)"),
              std::string::npos);
    EXPECT_EQ(load_error(folder, {.check_finite = false}), "no error");
  }
}

TEST_F(HfFolder, DerivedBuffersAreIgnoredAndReported) {
  const std::string name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  const auto with_buffer = [&](int64_t size) {
    return edited("v3_base", [&](Tensors& t, Json&) {
      t[name] = {DType::kF32, Shape{size}, std::string(static_cast<size_t>(4 * size), '\0')};
    });
  };
  load(with_buffer(4), kAllF32);
  EXPECT_EQ(report_.ignored, std::vector<std::string>{name});
  EXPECT_NE(load_error(with_buffer(5)).find("1 unexpected"), std::string::npos);
}

TEST_F(HfFolder, MtpModulesCanBeLeftOut) {
  const ParameterSet whole = load(golden_folder("mtp_d1"), kAllF32);
  const ParameterSet main_model = load(golden_folder("mtp_d1"), kAllF32, {.skip_mtp = true});
  EXPECT_LT(main_model.size(), whole.size());
  EXPECT_FALSE(report_.ignored.empty());
  for (int64_t i = 0; i < main_model.size(); ++i) {
    const TensorView same = whole[main_model.spec(i).name];
    ASSERT_EQ(
        std::memcmp(main_model.view(i).data, same.data, static_cast<size_t>(same.num_bytes())), 0);
  }
  const std::string without =
      edited("v3_base", [](Tensors&, Json& c) { c["num_nextn_predict_layers"] = 1; });
  const LoadOptions allow{.allow_missing_mtp = true};
  EXPECT_EQ(load_error(without, allow), "no error");
  EXPECT_EQ(config_to_load(CheckpointReader(files_, without), allow).num_nextn_predict_layers, 0);
  // Half a module is never right.
  const std::string half =
      edited("mtp_d1", [](Tensors& t, Json&) { t.erase("model.layers.2.enorm.weight"); });
  EXPECT_NE(load_error(half, allow).find("1 missing: model.layers.2.enorm.weight"),
            std::string::npos);
}

TEST_F(HfFolder, BrokenFoldersAreNamed) {
  const ParameterSet parameters = load(golden_folder("v3_base"), kAllF32);
  const ModelConfig config = CheckpointReader(files_, golden_folder("v3_base")).config();
  const std::string folder = join_path(directory_, "sharded");
  const auto write = [&] {
    save_hf_folder(files_, folder, config, parameters,
                   {.dtype = DType::kF32, .max_shard_bytes = 9000});
  };
  const std::string index_path = join_path(folder, "model.safetensors.index.json");
  const auto edit_index = [&](const std::function<void(Json&)>& edit) {
    write();
    Json index = parse_json(files_.read_all(index_path), "index");
    edit(index);
    write_file_atomically(files_, index_path, index.dump());
  };
  const auto expect = [&](const std::string& part) {
    const std::string message = load_error(folder);
    EXPECT_NE(message.find(part), std::string::npos) << part << "\n  " << message;
  };
  expect("found nothing, expected a model folder");
  write();
  const std::string first = files_.list(folder)[2];
  ASSERT_EQ(first.substr(0, 12), "model-00001-");
  files_.remove_all(join_path(folder, first));
  expect(first + ": found no such file");
  write();
  files_.truncate(join_path(folder, first), files_.info(join_path(folder, first)).bytes - 1);
  expect("is the file truncated?");
  edit_index([](Json& index) {
    index["weight_map"]["model.absent"] = index["weight_map"]["model.norm.weight"];
  });
  expect("model.absent: found no such tensor");
  edit_index([](Json& index) { index["weight_map"].erase("model.norm.weight"); });
  expect(
      "model.norm.weight: found a tensor in this shard, expected none of this name in the index");
  edit_index([&](Json& index) { index["weight_map"]["model.norm.weight"] = first; });
  expect("model.norm.weight: found no such tensor");
  edit_index([](Json& index) { index["weight_map"]["model.norm.weight"] = "../x.safetensors"; });
  expect("expected a plain file name");
  edit_index([](Json& index) { index["weight_map"]["model.norm.weight"] = 3; });
  expect("weight_map.model.norm.weight: found number 3");
  edit_index([](Json& index) { index.erase("weight_map"); });
  expect("weight_map: found nothing");
  write();
  files_.remove_all(index_path);
  expect("found no weights, expected model.safetensors or model.safetensors.index.json");
  write();
  write_safetensors(files_, join_path(folder, "model.safetensors"), {});
  expect("found a file that the index does not name");
  write();
  files_.remove_all(join_path(folder, "config.json"));
  expect("config.json: cannot open");
}

TEST_F(HfFolder, LoadingDoesNotDependOnThreads) {
  const std::string folder = golden_folder("fp8_v3");
  CheckpointReader reader(files_, folder);
  const auto specs = parameter_specs(reader.config());
  ParameterSet one("one", specs, kAllBf16), four("four", specs, kAllBf16);
  Context single(1), many(4);
  load_weights(single, reader, one);
  load_weights(many, reader, four);
  expect_same_bits(one, four);
}

}  // namespace
}  // namespace fathom
