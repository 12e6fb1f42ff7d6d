// Folders with weights in int8, 4 bits and FP8, as inference uses them: kept in their format, in
// the mapped files; and what is wrong with them named.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "ckpt/convert_folder.h"
#include "ckpt/fit.h"
#include "ckpt/load_model.h"
#include "ckpt/panel_tensors.h"
#include "ckpt/safetensors.h"
#include "core/integer.h"
#include "eval/perplexity.h"
#include "infer/engine.h"
#include "infer/generate.h"
#include "infer/latent_cache.h"
#include "model/linear.h"
#include "tests/tiny_model.h"

namespace fathom {
namespace {

ModelConfig panel_config() {
  ModelConfig c = testing_models::tiny_config();
  c.vocab_size = 80;
  c.hidden_size = 160;  // a group of 128 and a short one
  c.num_attention_heads = 2;
  c.q_lora_rank = 64;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  c.intermediate_size = 96;
  c.moe_intermediate_size = 32;
  c.num_hidden_layers = 3;
  c.first_k_dense_replace = 1;
  // Every token visits every expert: no choice of experts falls on the other side of a tie.
  c.n_routed_experts = c.num_experts_per_tok = 12;
  c.n_group = c.topk_group = 1;
  c.initializer_range = 0.06;
  c.max_position_embeddings = 1024;
  return c;
}

class WeightFormats : public testing::Test {
 protected:
  WeightFormats() {
    files_.remove_all(root_);
    files_.make_directories(root_);
    config_ = panel_config();
    ParameterSet weights("source", parameter_specs(config_), kPolicyBf16.weight_dtypes());
    initialize_parameters(config_, 7, weights);
    save_hf_folder(files_, plain_, config_, weights);
    tokens_ = testing_models::random_tokens(24, config_.vocab_size, 3);
  }
  ~WeightFormats() override { files_.remove_all(root_); }

  std::string quantised(FolderFormat format) {
    const std::string folder = root_ + (format == FolderFormat::kInt8      ? "/int8"
                                        : format == FolderFormat::kInt4    ? "/int4"
                                        : format == FolderFormat::kAllInt4 ? "/int4-all"
                                                                           : "/fp8");
    convert_folder(ctx_, files_, plain_, folder, format);
    return folder;
  }

  // Logits of all positions of one row, in fp32.
  std::vector<float> logits(const Model& model) {
    const auto S = static_cast<int64_t>(tokens_.size()), V = model.config().vocab_size;
    std::vector<float> out(static_cast<size_t>(S * V));
    TrainingPass pass(model, 1, S);
    pass.logits(ctx_, {.num_rows = 1, .context = S, .row_length = S, .tokens = tokens_.data()},
                TensorView(out.data(), DType::kF32, Shape{S, V}, "logits"), {});
    return out;
  }
  static double difference(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += d * d;
    }
    return std::sqrt(sum / static_cast<double>(a.size()));
  }
  std::unique_ptr<Model> open(const std::string& folder, bool map = true,
                              const Policy& policy = kPolicyBf16) {
    return load_for_inference(ctx_, files_, folder, policy, 0,
                              {.load = {.skip_mtp = true}, .map = map}, &report_);
  }
  std::unique_ptr<Model> open_fp32(const std::string& folder) {
    return load_model(ctx_, files_, folder, kPolicyFp32, 0, {.skip_mtp = true});
  }

  // The error of opening a folder, or of computing with it.
  std::string failure(const std::string& folder) {
    try {
      const auto model = open(folder);
      logits(*model);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  FileSystem& files_ = local_file_system();
  Context ctx_{2};
  std::string root_ = testing::TempDir() + "fathom_weight_formats_" +
                      testing::UnitTest::GetInstance()->current_test_info()->name();
  std::string plain_ = root_ + "/plain";
  ModelConfig config_;
  std::vector<int32_t> tokens_;
  LoadReport report_;
};

TEST_F(WeightFormats, AreUsedWhereTheyLie) {
  for (const FolderFormat format : {FolderFormat::kInt8, FolderFormat::kInt4,
                                    FolderFormat::kAllInt4, FolderFormat::kFp8Block}) {
    const std::string folder = quantised(format);
    const auto model = open(folder);
    const ParameterSet& weights = model->weights();
    int64_t num_kept = 0;
    for (int64_t i = 0; i < weights.size(); ++i) {
      const ParameterSpec& spec = weights.spec(i);
      const bool kv_b = spec.name.ends_with("kv_b_proj.weight");
      const bool kept = format == FolderFormat::kFp8Block ? spec.fp8_in_published && !kv_b
                                                          : may_lie_in_panels(spec);
      EXPECT_EQ(weights.is_scaled(i), kept) << spec.name;
      EXPECT_TRUE(weights.is_mapped(i) || !kept) << spec.name;
      num_kept += kept ? 1 : 0;
    }
    EXPECT_GT(num_kept, 80);
    EXPECT_GT(report_.num_mapped, num_kept);  // embedding and other bf16 ones too
    // The same bits from copies in memory.
    const auto copied = open(folder, /*map=*/false);
    EXPECT_EQ(report_.num_mapped, 0);
    EXPECT_EQ(logits(*model), logits(*copied));
    // And plain bf16 folders are mapped whole, but for what is kept in fp32.
    const auto plain = open(plain_);
    EXPECT_LT(plain->weights().num_bytes(), 64 * 1024);
  }
}

// For long use weights of bf16 and of FP8 are brought into panels: the same bits as from the mapped
// rows, also decoding over the cache, and only what products read that way moves.
TEST_F(WeightFormats, LoadedPanelsChangeNoBit) {
  if (!has_loaded_panels(ctx_.isa())) GTEST_SKIP() << "no products for them here";
  const auto plain = open(plain_);
  const auto panels = load_for_inference(ctx_, files_, plain_, kPolicyBf16, 0,
                                         {.load = {.skip_mtp = true}, .panels = true});
  EXPECT_GT(panels->weights().num_bytes(), 10 * plain->weights().num_bytes());
  for (int64_t i = 0; i < panels->weights().size(); ++i) {
    const std::string& name = panels->weights().spec(i).name;
    if (name.starts_with("model.embed_tokens")) {
      EXPECT_TRUE(panels->weights().is_mapped(i)) << name;
    }
    if (name.ends_with("o_proj.weight") || name.ends_with("kv_b_proj.weight") ||
        name.starts_with("lm_head")) {
      EXPECT_FALSE(panels->weights().is_mapped(i)) << name;
    }
  }
  EXPECT_EQ(panels->parameters().head.grain, ScaleGrain::kPanel);
  EXPECT_EQ(logits(*plain), logits(*panels));
  const auto decode = [&](const Model& model) {
    const int64_t V = config_.vocab_size;
    LatentCache cache(CacheLayout::of(config_, DType::kBF16), 8);
    std::vector<float> all(static_cast<size_t>(8 * V), NAN);
    for (int64_t t = 0; t < 8; ++t) {
      SequenceInput input = cache.input(std::span(tokens_).subspan(static_cast<size_t>(t), 1));
      input.num_logits = 1;
      forward_cached(ctx_, model, cache.layout(), std::span(&input, 1),
                     {TensorView(all.data() + t * V, DType::kF32, Shape{1, V}, "logits")});
      cache.advance(1);
    }
    return all;
  };
  EXPECT_EQ(decode(*plain), decode(*panels));
  EXPECT_FALSE(
      panels->weights().transposed_keys("model.layers.0.self_attn.kv_b_proj.weight").empty());
  const std::string fp8 = quantised(FolderFormat::kFp8Block);
  const auto blocks = open(fp8);
  const auto block_panels = load_for_inference(ctx_, files_, fp8, kPolicyBf16, 0,
                                               {.load = {.skip_mtp = true}, .panels = true});
  const int64_t scaled = [&] {
    int64_t count = 0;
    for (int64_t i = 0; i < block_panels->weights().size(); ++i) {
      if (!block_panels->weights().is_scaled(i)) continue;
      EXPECT_FALSE(block_panels->weights().is_mapped(i)) << block_panels->weights().spec(i).name;
      EXPECT_EQ(block_panels->weights().scaled(i).grain, ScaleGrain::kBlockPanel);
      ++count;
    }
    return count;
  }();
  EXPECT_GT(scaled, 80);
  EXPECT_EQ(logits(*blocks), logits(*block_panels));
  EXPECT_EQ(decode(*blocks), decode(*block_panels));
  // What is stored in codes stays where it is mapped.
  const std::string int8 = quantised(FolderFormat::kInt8);
  const auto codes = load_for_inference(ctx_, files_, int8, kPolicyBf16, 0,
                                        {.load = {.skip_mtp = true}, .panels = true});
  EXPECT_EQ(logits(*codes), logits(*open(int8)));
}

// What `inspect --here` says before anything is loaded is what loading then takes, to the byte.
TEST_F(WeightFormats, PredictedMemoryIsWhatLoadingAllocates) {
  for (const std::string& folder :
       {plain_, quantised(FolderFormat::kInt8), quantised(FolderFormat::kInt4),
        quantised(FolderFormat::kAllInt4), quantised(FolderFormat::kFp8Block)}) {
    for (const bool panels : {false, true}) {
      const InferenceFit fit = inference_fit(files_, folder, kPolicyBf16, {.panels = panels});
      const auto model =
          load_for_inference(ctx_, files_, folder, kPolicyBf16, 0, {.panels = panels});
      const ParameterSet& weights = model->weights();
      int64_t mapped = 0;
      for (int64_t i = 0; i < weights.size(); ++i) {
        if (!weights.is_mapped(i)) continue;
        mapped += weights.view(i).num_bytes();
        if (weights.is_scaled(i)) mapped += weights.scaled(i).scales.num_bytes();
      }
      EXPECT_EQ(fit.own_bytes, weights.num_bytes()) << folder << panels;
      EXPECT_EQ(fit.mapped_bytes, mapped) << folder << panels;
      EXPECT_EQ(fit.panels, panels && has_loaded_panels(ctx_.isa()));
      const bool keys = fit.weight_bytes.contains("transposed keys");
      const bool codes = folder.find("/int") != std::string::npos;  // read by head as they lie
      EXPECT_EQ(keys, fit.panels && !codes) << folder;
      // Panels that would take too much of a small machine are not made.
      EXPECT_FALSE(
          inference_fit(files_, folder, kPolicyBf16, {.panels = panels, .available_bytes = 1})
              .panels &&
          !codes);
    }
  }
}

// Kept codes compute what the values that they stand for compute: within a small multiple of what
// bf16 activations cost the plain model, whose products round in the same places.
TEST_F(WeightFormats, ComputeWithTheValuesThatTheyStandFor) {
  const std::vector<float> plain_fp32 = logits(*open_fp32(plain_));
  const double bf16_error = difference(logits(*open(plain_)), plain_fp32);
  for (const FolderFormat format : {FolderFormat::kInt8, FolderFormat::kInt4,
                                    FolderFormat::kAllInt4, FolderFormat::kFp8Block}) {
    const std::string folder = quantised(format);
    const std::vector<float> kept = logits(*open(folder)), values = logits(*open_fp32(folder));
    RecordProperty("kept_over_bf16_percent",
                   static_cast<int>(100 * difference(kept, values) / bf16_error));
    EXPECT_LE(difference(kept, values), 2 * bf16_error) << folder;
    // Negative control: the weights before quantisation are another model.
    if (format == FolderFormat::kInt4) {
      EXPECT_GT(difference(kept, plain_fp32), 3 * bf16_error);
    }
    if (format == FolderFormat::kFp8Block) continue;
    // Inputs in int8 are another approximation of the same.
    const std::vector<float> a8 = logits(*open(folder, true, kPolicyInt8Inputs));
    EXPECT_NE(a8, kept);
    EXPECT_LE(difference(a8, values), 12 * bf16_error) << folder;
  }
}

// What each format costs against bf16 on a fixed text: thresholds about twice what was found.
TEST_F(WeightFormats, StayWithinTheirDistanceOfBf16) {
  const std::vector<std::vector<int32_t>> text = {
      testing_models::random_tokens(600, config_.vocab_size, 4)};
  const auto reference = open(plain_);
  double before = 0;
  for (const auto& [format, most] : {std::pair{FolderFormat::kInt8, 3e-4},
                                     {FolderFormat::kFp8Block, 4e-3},
                                     {FolderFormat::kInt4, 0.025},
                                     {FolderFormat::kAllInt4, 0.03}}) {
    const auto model = open(quantised(format));
    const PerplexityResult result =
        perplexity(ctx_, *model, text, {.window_tokens = 300, .reference = reference.get()});
    const double kl = result.divergence.kl_sum / static_cast<double>(result.num_tokens);
    std::printf("KL %.3g nats a token, %lld of %lld first choices changed, logits by %.3g\n", kl,
                static_cast<long long>(result.divergence.num_changed_choices),
                static_cast<long long>(result.num_tokens),
                result.divergence.largest_logit_difference);
    EXPECT_LT(kl, most);
    EXPECT_GT(kl, before) << "fewer bits cost more";
    before = kl;
  }
}

TEST_F(WeightFormats, GenerateGreedilyAsTheCopiedModelDoes) {
  for (const FolderFormat format : {FolderFormat::kInt8, FolderFormat::kInt4,
                                    FolderFormat::kAllInt4, FolderFormat::kFp8Block}) {
    const std::string folder = quantised(format);
    std::vector<std::vector<int32_t>> answers;
    for (const bool map : {true, false}) {
      const auto model = open(folder, map);
      const GenerateOptions greedy{.max_tokens = 20, .sampling = {.temperature = 0}};
      answers.push_back(generate(ctx_, *model, tokens_, greedy).tokens);
    }
    EXPECT_EQ(answers[0].size(), 20u);
    EXPECT_EQ(answers[0], answers[1]);
  }
}

// Panels read back into bf16, into another format of panels, and by their own values.
TEST_F(WeightFormats, ConvertIntoOneAnother) {
  const std::string int8 = quantised(FolderFormat::kInt8), back = root_ + "/back";
  const ConvertReport report = convert_folder(ctx_, files_, int8, back, FolderFormat::kBf16);
  EXPECT_GT(report.num_dequantised, 80);
  const CheckpointReader panels(files_, int8), plain(files_, back);
  EXPECT_FALSE(plain.config().weight_panels);
  ParameterSet a("a", parameter_specs(config_), kPolicyBf16.weight_dtypes()),
      b("b", parameter_specs(config_), kPolicyBf16.weight_dtypes());
  load_weights(ctx_, panels, a);
  load_weights(ctx_, plain, b);
  for (int64_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(
        std::memcmp(a.view(i).data, b.view(i).data, static_cast<size_t>(a.view(i).num_bytes())), 0)
        << a.spec(i).name;
  }
  const ConvertReport smaller =
      convert_folder(ctx_, files_, int8, root_ + "/smaller", FolderFormat::kInt4);
  EXPECT_LT(smaller.bytes_after, smaller.bytes_before);
  EXPECT_EQ(logits(*open(root_ + "/smaller")).size(), tokens_.size() * 80);
}

TEST_F(WeightFormats, LoadingSaysHowFarItIs) {
  for (const std::string& folder :
       {plain_, quantised(FolderFormat::kInt8), quantised(FolderFormat::kFp8Block)}) {
    for (const bool map : {true, false}) {
      int64_t last = 0, all = 0;
      InferenceOptions options{.load = {.skip_mtp = true}, .map = map};
      options.load.progress = [&](int64_t done, int64_t total) {
        EXPECT_GT(done, last);
        last = done;
        all = total;
      };
      LoadReport report;
      load_for_inference(ctx_, files_, folder, kPolicyBf16, 0, options, &report);
      EXPECT_GT(all, 0) << folder;  // what is kept in fp32 is copied always
      EXPECT_EQ(last, all) << folder;
      EXPECT_EQ(report.copied_bytes, all) << folder;
      EXPECT_EQ(report.mapped_bytes > 0, map) << folder;
      EXPECT_GT(report.resident_share, 0.9) << folder;  // it was just written
    }
  }
}

// A step's temporaries fit into what is reserved for them in one piece, and told beforehand.
TEST_F(WeightFormats, AStepTakesNoMoreThanWasReserved) {
  const std::vector<int32_t> prompt = testing_models::random_tokens(600, config_.vocab_size, 8);
  for (const std::string& folder :
       {plain_, quantised(FolderFormat::kInt8), quantised(FolderFormat::kInt4),
        quantised(FolderFormat::kFp8Block)}) {
    for (const bool panels : {false, true}) {
      const auto model = load_for_inference(ctx_, files_, folder, kPolicyBf16, 0,
                                            {.load = {.skip_mtp = true}, .panels = panels});
      Context ctx(2);
      Engine engine(*model, {.cache_tokens = 1024, .prefill_tokens = 512, .max_draft = 0});
      Request request;
      request.prompt = prompt;
      request.max_tokens = 3;
      engine.submit(std::move(request));
      engine.run_until_idle(ctx);
      const int64_t reserved = step_scratch_bytes(config_, kPolicyBf16,
                                                  {.num_tokens = 512,
                                                   .context_tokens = engine.max_request_tokens(),
                                                   .scaled_weights = true});
      EXPECT_EQ(ctx.scratch().capacity_bytes(), round_up(reserved, int64_t{1} << 16))
          << folder << " " << panels;
    }
  }
}

// kv_b_proj is read as a whole by the expanded form of attention, and by head, its key rows
// contracted, by the absorbed one: both mean the same weights.
TEST_F(WeightFormats, BothFormsOfAttentionReadTheSameWeights) {
  const std::vector<int32_t> prompt = testing_models::random_tokens(150, config_.vocab_size, 9);
  const auto logprobs = [&](const Model& model, bool expanded) {
    Engine engine(model, {.cache_tokens = 256, .max_draft = 0, .expanded_prefill = expanded});
    std::vector<float> all;
    Request request;
    request.prompt = prompt;
    request.max_tokens = 0;
    request.prompt_logprobs = true;
    request.on_event = [&](const RequestEvent& event) {
      for (const GeneratedToken& token : event.prompt_logprobs)
        all.push_back(static_cast<float>(token.logprob));
      return true;
    };
    engine.submit(std::move(request));
    engine.run_until_idle(ctx_);
    EXPECT_EQ(all.size(), prompt.size());
    return std::vector<float>(all.begin() + 1, all.end());  // nothing predicts the first
  };
  const auto plain = open(plain_);
  const std::vector<float> plain_expanded = logprobs(*plain, true);
  const double rounding = difference(plain_expanded, logprobs(*plain, false));
  EXPECT_GT(rounding, 0);
  for (const FolderFormat format :
       {FolderFormat::kInt8, FolderFormat::kInt4, FolderFormat::kAllInt4}) {
    const auto model = open(quantised(format));
    const std::vector<float> expanded = logprobs(*model, true);
    EXPECT_LE(difference(expanded, logprobs(*model, false)), 2 * rounding);
    // Negative control: other weights are further away.
    if (format == FolderFormat::kAllInt4) {
      EXPECT_GT(difference(expanded, plain_expanded), 4 * rounding);
    }
  }
}

// A copy of a folder with one tensor left out, or replaced by what `edit` makes of its item.
void copy_with(FileSystem& files, const std::string& from, const std::string& to,
               const std::string& name, const std::function<bool(SafetensorsItem&)>& edit) {
  std::filesystem::remove_all(to);
  std::filesystem::copy(from, to);
  const SafetensorsReader reader(files, from + "/model.safetensors");
  std::vector<SafetensorsItem> items;
  for (const SafetensorsEntry& entry : reader.entries()) {
    SafetensorsItem item{entry.name, entry.dtype, entry.shape};
    if (entry.name != name || edit(item)) items.push_back(item);
  }
  files.remove_all(to + "/model.safetensors");
  SafetensorsWriter writer(files, to + "/model.safetensors", items);
  std::vector<std::byte> zeros(1 << 22);
  for (const SafetensorsItem& item : writer.items()) {
    const SafetensorsEntry& entry = reader.at(item.name);
    if (entry.shape == item.shape && entry.dtype == item.dtype) {
      writer.write(TensorView(const_cast<std::byte*>(reader.bytes(entry)), entry.dtype, entry.shape,
                              item.name.c_str()));
    } else {
      writer.write(TensorView(zeros.data(), item.dtype, item.shape, item.name.c_str()));
    }
  }
  writer.finish();
}

TEST_F(WeightFormats, WhatIsWrongWithAFolderIsNamed) {
  const std::string folder = quantised(FolderFormat::kInt8), bad = root_ + "/bad";
  EXPECT_EQ(failure(folder), "");
  const std::string weight = "model.layers.2.mlp.experts.3.down_proj.weight";
  const auto says = [&](const std::string& what, const std::vector<std::string>& parts) {
    const std::string message = failure(bad);
    for (const std::string& part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << what << ": " << message;
  };
  copy_with(files_, folder, bad, weight + "_scale", [](SafetensorsItem&) { return false; });
  says("no scales", {bad, "missing", weight + "_scale"});
  copy_with(files_, folder, bad, weight, [](SafetensorsItem&) { return false; });
  says("no codes", {bad, "missing", weight});
  copy_with(files_, folder, bad, weight, [](SafetensorsItem& item) {
    item.shape.dim[1] -= 1;
    return true;
  });
  says("a shape", {weight, "found I8 [10, 7, 16, 4]", "expected I8 [10, 8, 16, 4]"});
  copy_with(files_, folder, bad, weight, [](SafetensorsItem& item) {
    item.dtype = DType::kU8;
    return true;
  });
  says("4-bit codes of that shape",
       {weight, "found U8 [10, 8, 16, 4]", "expected U8 [10, 4, 16, 4]"});
  copy_with(files_, folder, bad, weight + "_scale", [](SafetensorsItem& item) {
    item.dtype = DType::kF32;
    return true;
  });
  says("scales of fp32", {weight + "_scale", "found F32", "expected BF16"});
  copy_with(files_, folder, bad, weight, [](SafetensorsItem& item) {
    item.dtype = DType::kI32;
    return true;
  });
  says("another dtype", {weight, "malformed", "found [10, 8, 16, 4]", "expected [160, 32]"});

  const auto with_config = [&](const std::string& from, const std::string& to) {
    std::filesystem::remove_all(bad);
    std::filesystem::copy(folder, bad);
    std::string config = files_.read_all(bad + "/config.json");
    const size_t at = config.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    config.replace(at, from.size(), to);
    write_file_atomically(files_, bad + "/config.json", config);
  };
  with_config("\"fathom_panels\"", "\"gptq\"");
  says("another method",
       {"config.json", "quantization_config.quant_method", "gptq", "fathom_panels"});
  with_config("\"version\": \"1\"", "\"version\": \"2\"");
  says("a later version", {"config.json", "quantization_config.version", "\"2\""});
  // A scale that is not a number.
  std::filesystem::remove_all(bad);
  std::filesystem::copy(folder, bad);
  int64_t offset = 0;
  {
    const SafetensorsReader reader(files_, bad + "/model.safetensors");
    offset = reader.at(weight + "_scale").offset;
  }
  std::FILE* file = std::fopen((bad + "/model.safetensors").c_str(), "r+b");
  const uint16_t nan_bits = 0x7fc0;
  std::fseek(file, offset, SEEK_SET);
  std::fwrite(&nan_bits, sizeof(nan_bits), 1, file);
  std::fclose(file);
  says("NaN", {"model.safetensors", weight, "not finite"});
}

// A file that is cut short after the start: an error that names it, and no crash.
TEST_F(WeightFormats, AFileThatShrinksWhileInUseIsAnError) {
  const std::string folder = quantised(FolderFormat::kInt8);
  const std::string path = folder + "/model.safetensors";
  {
    const auto model = open(folder);
    logits(*model);
    std::filesystem::resize_file(path, 64 * 1024);
    try {
      logits(*model);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
    EXPECT_THROW(generate(ctx_, *model, tokens_, {.max_tokens = 2}), Error);
  }
  // The next start sees it at once.
  EXPECT_NE(failure(folder).find("truncated"), std::string::npos);
  // Other models go on.
  EXPECT_EQ(failure(plain_), "");
}

}  // namespace
}  // namespace fathom
