// Speed of ik_llama.cpp on a GGUF file, in the tests of `fathom bench --model`, as llama_cpp_speed.py
// measures llama.cpp: tokens drawn at random, so that every sequence of a batch has its own experts.
// All that makes the rival fast is on: weights repacked, flash attention, MLA (3), fused experts.
//
//   cmake -B IK/build -S IK -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF && cmake --build IK/build --target llama
//   g++ -O2 -std=c++20 -fopenmp -I IK/include -I IK/ggml/include bench/rivals/ik_llama_speed.cc -o ik_llama_speed IK/build/src/libllama.a IK/build/ggml/src/libggml.a
//   ./ik_llama_speed FILE.gguf [--threads 2 --prompt-tokens 512 --gen-tokens 128 --depth 0 --parallel 1 --repetitions 3]
//
// Prints a JSON list with `test` and `tokens_per_second`.
#include <llama.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int kBatch = 2048;

class Run {
 public:
  Run(const std::string& path, std::map<std::string, int>& options) : options_(options) {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    llama_backend_init();
    auto m = llama_model_default_params();
    m.repack_tensors = true;
    m.use_mmap = false;  // repacking needs memory of its own
    m.mla = 3;
    model_ = llama_model_load_from_file(path.c_str(), m);
    if (model_ == nullptr) fail("cannot load the model");
    auto c = llama_context_default_params();
    const int longest = std::max(options_["prompt-tokens"], options_["depth"] + options_["gen-tokens"] + 1);
    c.n_ctx = static_cast<uint32_t>((longest + 64) * parallel());
    c.n_batch = kBatch;
    c.n_ubatch = 512;
    c.n_seq_max = static_cast<uint32_t>(parallel());
    c.n_threads = c.n_threads_batch = static_cast<uint32_t>(options_["threads"]);
    c.flash_attn = true;
    c.mla_attn = 3;
    c.fused_moe_up_gate = c.fused_up_gate = true;
    context_ = llama_init_from_model(model_, c);
    if (context_ == nullptr) fail("cannot make a context");
    batch_ = llama_batch_init(kBatch, 0, parallel());
    token_ = std::uniform_int_distribution<int>(0, llama_n_vocab(model_) - 1);
  }

  // Tokens a second of one prompt or of decoding.
  double measure(bool prompt) {
    llama_kv_cache_clear(context_);
    if (prompt) {
      const auto begin = std::chrono::steady_clock::now();
      prefill(options_["prompt-tokens"]);
      return parallel() * options_["prompt-tokens"] / since(begin);
    }
    prefill(options_["depth"] + 1);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < options_["gen-tokens"]; ++i) {
      for (int s = 0; s < parallel(); ++s) add(options_["depth"] + 1 + i, s, true);
      decode();
    }
    return parallel() * options_["gen-tokens"] / since(begin);
  }

 private:
  static double since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
  }
  int parallel() const { return options_["parallel"]; }

  void prefill(int length) {
    for (int s = 0; s < parallel(); ++s) {
      for (int i = 0; i < length; ++i) add(i, s, i + 1 == length);
    }
    decode();
  }
  void add(int position, int sequence, bool logits) {
    const int i = batch_.n_tokens++;
    batch_.token[i] = token_(random_);
    batch_.pos[i] = position;
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = sequence;
    batch_.logits[i] = logits;
    if (batch_.n_tokens == kBatch) decode();
  }
  void decode() {
    if (batch_.n_tokens > 0 && llama_decode(context_, batch_) != 0) fail("llama_decode failed");
    llama_synchronize(context_);
    batch_.n_tokens = 0;
  }

  std::map<std::string, int>& options_;
  llama_model* model_;
  llama_context* context_;
  llama_batch batch_;
  std::mt19937 random_{0};
  std::uniform_int_distribution<int> token_;
};

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, int> options = {{"threads", 2}, {"prompt-tokens", 512}, {"gen-tokens", 128}, {"depth", 0}, {"parallel", 1}, {"repetitions", 3}};
  if (argc < 2) return std::fprintf(stderr, "usage: %s FILE.gguf [--threads N ...]\n", argv[0]), 2;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string name = std::string(argv[i]).substr(std::min<size_t>(2, std::string(argv[i]).size()));
    if (!options.contains(name)) return std::fprintf(stderr, "unknown option %s\n", argv[i]), 2;
    options[name] = std::atoi(argv[i + 1]);
  }
  Run run(argv[1], options);
  std::string rows;
  for (const bool prompt : {true, false}) {
    const int count = options[prompt ? "prompt-tokens" : "gen-tokens"];
    if (count == 0) continue;
    run.measure(prompt);
    std::vector<double> speeds;
    for (int i = 0; i < options["repetitions"]; ++i) speeds.push_back(run.measure(prompt));
    std::sort(speeds.begin(), speeds.end());
    if (!rows.empty()) rows += ", ";
    rows += "{\"test\": \"" + std::string(prompt ? "pp" : "tg") + std::to_string(count) + "\", \"tokens_per_second\": " + std::to_string(speeds[speeds.size() / 2]) + "}";
  }
  std::printf("[%s]\n", rows.c_str());
}
