// Perplexity against the definition, computed in double from the model's own logits.
#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "eval/texts.h"
#include "tests/tiny_model.h"

namespace fathom {
namespace {

class Perplexity : public testing::Test {
 protected:
  Perplexity() : config_(testing_models::tiny_config()) {
    config_.num_nextn_predict_layers = 0;
    model_ = std::make_unique<Model>(config_, kPolicyFp32);
    initialize_parameters(config_, 5, model_->weights());
  }

  // [tokens, vocabulary], each row computed as a whole.
  std::vector<float> logits_of(const Model& model, const std::vector<int32_t>& tokens) {
    const auto S = static_cast<int64_t>(tokens.size()), V = config_.vocab_size;
    std::vector<float> logits(static_cast<size_t>(S * V));
    TrainingPass pass(model, 1, S);
    pass.logits(ctx_, {.num_rows = 1, .context = S, .row_length = S, .tokens = tokens.data()},
                TensorView(logits.data(), DType::kF32, Shape{S, V}, "logits"), {});
    return logits;
  }
  std::vector<double> log_probabilities(const float* logits) const {
    const auto V = static_cast<size_t>(config_.vocab_size);
    double sum = 0;
    for (size_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[v]));
    std::vector<double> result(logits, logits + V);
    for (double& x : result) x -= std::log(sum);
    return result;
  }

  // -log p of each token but the first.
  std::vector<double> losses(const std::vector<int32_t>& tokens) {
    const std::vector<float> logits = logits_of(*model_, tokens);
    const auto V = static_cast<size_t>(config_.vocab_size);
    std::vector<double> result;
    for (size_t t = 0; t + 1 < tokens.size(); ++t)
      result.push_back(-log_probabilities(&logits[t * V])[static_cast<size_t>(tokens[t + 1])]);
    return result;
  }

  ModelConfig config_;
  Context ctx_{2};
  std::unique_ptr<Model> model_;
};

TEST_F(Perplexity, IsTheMeanOfEachTokensLossOverWindows) {
  const auto tokens = [&](int64_t count, uint64_t seed) {
    return testing_models::random_tokens(count, config_.vocab_size, seed);
  };
  // Shorter than a call, as long as a window, longer than windows and calls, and too short.
  const std::vector<std::vector<int32_t>> documents = {
      tokens(2, 1), tokens(100, 2), tokens(230, 3), tokens(1, 4), {}, tokens(205, 5)};
  for (const int64_t window : {101, 200}) {
    double sum = 0, early = 0;
    int64_t count = 0, num_early = 0;
    for (const std::vector<int32_t>& document : documents) {
      const auto size = static_cast<int64_t>(document.size());
      for (int64_t begin = 0; begin + 1 < size; begin += window - 1) {
        const std::vector<int32_t> part(document.begin() + begin,
                                        document.begin() + std::min(size, begin + window));
        const std::vector<double> loss = losses(part);
        for (size_t i = 0; i < loss.size(); ++i) {
          sum += loss[i];
          ++count;
          if (i + 1 < 64) early += loss[i], ++num_early;
        }
      }
    }
    ASSERT_EQ(count, 1 + 99 + 229 + 204);
    const PerplexityResult result = perplexity(
        ctx_, *model_, documents,
        {.window_tokens = window, .cache_dtype = DType::kF32, .position_borders = {64, window}});
    EXPECT_EQ(result.num_tokens, count);
    // fp32 sums of a few thousand terms of order 1.
    EXPECT_NEAR(result.loss_sum, sum, 1e-4 * static_cast<double>(count));
    EXPECT_NEAR(result.perplexity(), std::exp(sum / static_cast<double>(count)), 1e-2);
    ASSERT_EQ(result.ranges.size(), 2u);
    EXPECT_EQ(result.ranges[0].num_tokens, num_early);
    EXPECT_NEAR(result.ranges[0].loss_sum, early, 1e-4 * static_cast<double>(num_early));
    EXPECT_EQ(result.ranges[0].num_tokens + result.ranges[1].num_tokens, count);
    // Negative control: another window sees other contexts.
    const PerplexityResult other =
        perplexity(ctx_, *model_, documents, {.window_tokens = 50, .cache_dtype = DType::kF32});
    EXPECT_EQ(other.num_tokens, count);
    EXPECT_GT(std::fabs(other.loss_sum - sum), 1e-3 * static_cast<double>(count));
  }
}

TEST_F(Perplexity, DistanceToAnotherModelIsAsDefined) {
  Model other(config_, kPolicyFp32);
  initialize_parameters(config_, 6, other.weights());
  const std::vector<std::vector<int32_t>> documents = {
      testing_models::random_tokens(90, config_.vocab_size, 1),
      testing_models::random_tokens(250, config_.vocab_size, 2)};
  const int64_t window = 250;
  const auto V = static_cast<size_t>(config_.vocab_size);
  PerplexityResult::Divergence want;
  for (const std::vector<int32_t>& document : documents) {
    const std::vector<float> logits = logits_of(*model_, document),
                             reference = logits_of(other, document);
    for (size_t t = 0; t + 1 < document.size(); ++t) {
      const std::vector<double> q = log_probabilities(&logits[t * V]),
                                p = log_probabilities(&reference[t * V]);
      double kl = 0;
      for (size_t v = 0; v < V; ++v) {
        kl += std::exp(p[v]) * (p[v] - q[v]);
        want.largest_logit_difference =
            std::max(want.largest_logit_difference,
                     std::fabs(static_cast<double>(logits[t * V + v] - reference[t * V + v])));
      }
      want.kl_sum += kl;
      want.largest_kl = std::max(want.largest_kl, kl);
      want.reference_loss_sum -= p[static_cast<size_t>(document[t + 1])];
      want.num_changed_choices += std::max_element(p.begin(), p.end()) - p.begin() !=
                                  std::max_element(q.begin(), q.end()) - q.begin();
    }
  }
  const auto distance_to = [&](const Model& reference) {
    return perplexity(
        ctx_, *model_, documents,
        {.window_tokens = window, .cache_dtype = DType::kF32, .reference = &reference});
  };
  const PerplexityResult result = distance_to(other);
  ASSERT_EQ(result.num_tokens, 89 + 249);
  const PerplexityResult::Divergence& found = result.divergence;
  EXPECT_NEAR(found.kl_sum, want.kl_sum, 1e-5 * want.kl_sum);
  EXPECT_NEAR(found.largest_kl, want.largest_kl, 1e-4 * want.largest_kl);
  EXPECT_NEAR(found.largest_logit_difference, want.largest_logit_difference, 1e-4);
  EXPECT_NEAR(found.reference_loss_sum, want.reference_loss_sum, 1e-4 * want.reference_loss_sum);
  EXPECT_EQ(found.num_changed_choices, want.num_changed_choices);
  EXPECT_GT(want.num_changed_choices, 100);
  // The model's own loss is what it is without a reference, and its distance to itself is nothing.
  const PerplexityResult itself = distance_to(*model_);
  EXPECT_EQ(itself.loss_sum, result.loss_sum);
  EXPECT_EQ(itself.divergence.reference_loss_sum, result.loss_sum);
  EXPECT_EQ(itself.divergence.kl_sum, 0);
  EXPECT_EQ(itself.divergence.largest_logit_difference, 0);
  EXPECT_EQ(itself.divergence.num_changed_choices, 0);

  ModelConfig narrow = config_;
  narrow.vocab_size -= 1;
  const Model foreign(narrow, kPolicyFp32);
  EXPECT_THROW(distance_to(foreign), Error);
}

TEST_F(Perplexity, RefusesWhatCannotBe) {
  EXPECT_THROW(perplexity(ctx_, *model_, {}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1}}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1, 2, 67}}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1, -1}}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1, 2}}, {.window_tokens = 1}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1, 2}}, {.window_tokens = 1000}), Error);
  EXPECT_THROW(perplexity(ctx_, *model_, {{1, 2}}, {.position_borders = {8, 8}}), Error);
}

TEST(Texts, AreFilesOrLinesAndErrorsNameTheLine) {
  FileSystem& files = local_file_system();
  const std::string folder = testing::TempDir() + "fathom_texts";
  files.remove_all(folder);
  files.make_directories(folder);
  write_file_atomically(files, folder + "/a.txt", "one\ntwo\n");
  write_file_atomically(files, folder + "/b.jsonl",
                        "{\"text\": \"three\"}\n\n{\"text\": \"\"}\n{\"text\": \"fo\\u0075r\"}\n");
  EXPECT_EQ(read_texts(files, folder), (std::vector<std::string>{"one\ntwo\n", "three", "four"}));
  const auto failure = [&](const std::string& text) -> std::string {
    write_file_atomically(files, folder + "/c.jsonl", text);
    try {
      read_texts(files, folder + "/c.jsonl");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(failure("{\"text\": \"x\"}\n{\"txt\": 1}\n").find("c.jsonl:2"), std::string::npos);
  EXPECT_NE(failure("{\"text\": 3}\n").find("a string"), std::string::npos);
  EXPECT_NE(failure("[1]\n").find("an object"), std::string::npos);
  EXPECT_NE(failure("").find("no text"), std::string::npos);
  files.remove_all(folder);
}

}  // namespace
}  // namespace fathom
