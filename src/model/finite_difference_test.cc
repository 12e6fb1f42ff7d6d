// Every module's gradients against central differences of its own loss, in float64: the whole model
// at once, with each switch of the family, and each part of the loss. The loss is a sum of terms
// that reach every module (MLA with and without query compression, dense FFN, router, routed and
// shared experts, norms, embedding, head, MTP, balance loss), and every parameter tensor is probed.
#include <cmath>
#include <functional>
#include <ostream>

#include "core/random.h"
#include "model/model.h"
#include "model/training_pass.h"

namespace fathom {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 23;
  c.hidden_size = 12;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 2;
  c.q_lora_rank = 6;
  c.kv_lora_rank = 5;
  c.qk_nope_head_dim = 4;
  c.qk_rope_head_dim = 4;
  c.v_head_dim = 3;
  c.intermediate_size = 10;
  c.moe_intermediate_size = 4;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 3;
  c.n_group = 4;
  c.topk_group = 2;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 64;
  c.num_nextn_predict_layers = 0;
  return c;
}

struct Case {
  const char* name;
  std::function<void(ModelConfig&)> change;
  LossScales scales;
  bool mask_documents = false;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class FiniteDifference : public testing::TestWithParam<Case> {};

TEST_P(FiniteDifference, EveryParameterTensor) {
  const Case& test = GetParam();
  ModelConfig config = small_config();
  test.change(config);
  Context ctx(1, IsaLevel::kReference);
  Model model(config, kPolicyFp64);
  const Random random(11, RandomPurpose::kTest);
  uint64_t draw = 0;
  for (int64_t i = 0; i < model.weights().size(); ++i) {
    const TensorView& view = model.weights().view(i);
    const ParameterKind kind = model.weights().spec(i).kind;
    for (int64_t j = 0; j < view.num_elements(); ++j) {
      const double z = random.normal(draw++);
      view.as<double>()[j] = kind == ParameterKind::kNorm         ? 1 + 0.2 * z
                             : kind == ParameterKind::kRouterBias ? 0.3 * z
                                                                  : 0.4 * z;
    }
  }
  const int64_t B = 2, S = 7, n = S + 2;
  std::vector<int32_t> tokens(static_cast<size_t>(B * n));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.below(draw++, 23));
  std::vector<uint8_t> is_label(tokens.size(), 1);
  is_label[3] = 0;
  std::vector<int32_t> first_key(static_cast<size_t>(B * S), 0), positions;
  TokenBatch batch{.num_rows = B,
                   .context = S,
                   .row_length = n,
                   .tokens = tokens.data(),
                   .is_label = is_label.data()};
  if (test.mask_documents) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t i = 0; i < S; ++i) {
        first_key[static_cast<size_t>(b * S + i)] = i >= 3 ? 3 : 0;
        positions.push_back(static_cast<int32_t>(i >= 3 ? i - 3 : i));
      }
    }
    batch.first_key = first_key.data();
    batch.positions = positions.data();
  }

  TrainingPass pass(model, B, S);
  const size_t num_counts =
      moe_layers(config).size() * static_cast<size_t>(config.n_routed_experts);
  std::vector<int64_t> counts(num_counts);
  const auto total = [&] {
    counts.assign(num_counts, 0);
    const LossSums sums = pass.forward(ctx, batch, test.scales, counts.data());
    double loss = test.scales.main * sums.main + test.scales.balance * sums.balance;
    for (int64_t k = 0; k < config.num_nextn_predict_layers; ++k)
      loss += test.scales.mtp[k] * sums.mtp[k];
    return loss;
  };
  ParameterSet gradients("gradients", parameter_specs(config), kPolicyFp64.gradient_dtypes());
  pass.forward_backward(ctx, batch, test.scales, gradients);

  total();
  const std::vector<int64_t> routing = counts;
  for (int64_t i = 0; i < model.weights().size(); ++i) {
    if (model.weights().spec(i).kind == ParameterKind::kRouterBias) continue;
    const TensorView& view = model.weights().view(i);
    double norm = 0;
    for (int64_t j = 0; j < view.num_elements(); ++j)
      norm = std::max(norm, std::abs(gradients.view(i).as<double>()[j]));
    const int64_t probes = std::min<int64_t>(view.num_elements(), 4);
    for (int64_t p = 0; p < probes; ++p) {
      // The embedding is probed where tokens are.
      const bool embedding = model.weights().spec(i).name == "model.embed_tokens.weight";
      const int64_t j = embedding ? tokens[static_cast<size_t>(p)] * config.hidden_size + p
                                  : static_cast<int64_t>(random.below(
                                        draw++, static_cast<uint64_t>(view.num_elements())));
      double& weight = view.as<double>()[j];
      const double before = weight;
      // The loss jumps where a token changes its experts: the step shrinks until none does.
      bool rerouted = false;
      const auto at = [&](double step) {
        weight = before + step;
        const double loss = total();
        weight = before;
        rerouted |= counts != routing;
        return loss;
      };
      // Central differences with Richardson's step: the error is O(h^4) plus rounding / h.
      double numeric = 0;
      for (double h : {2e-4, 2e-5}) {
        rerouted = false;
        const double coarse = (at(2 * h) - at(-2 * h)) / (4 * h), fine = (at(h) - at(-h)) / (2 * h);
        numeric = (4 * fine - coarse) / 3;
        if (!rerouted) break;
      }
      ASSERT_FALSE(rerouted) << view.name << "[" << j << "] lies on a routing border";
      const double analytic = gradients.view(i).as<double>()[j];
      // Relative to the tensor's largest gradient; losses of order 10 round at 1e-15 / h.
      EXPECT_LE(std::abs(numeric - analytic), 1e-6 * norm + 3e-11) << view.name << "[" << j << "]";
    }
  }
}

const LossScales kMain{.main = 0.1};
LossScales scales_with(double mtp1, double mtp2, double balance, bool from_routing = false,
                       bool batch_wise = false) {
  LossScales s{.main = 0.1,
               .balance = balance,
               .balance_from_routing = from_routing,
               .balance_batch_wise = batch_wise};
  s.mtp[0] = mtp1;
  s.mtp[1] = mtp2;
  return s;
}

INSTANTIATE_TEST_SUITE_P(
    Switches, FiniteDifference,
    testing::Values(
        Case{"V3", [](ModelConfig&) {}, kMain},
        Case{"NoQueryCompression", [](ModelConfig& c) { c.q_lora_rank = 0; }, kMain},
        Case{"SoftmaxGroupLimited",
             [](ModelConfig& c) {
               c.scoring_func = ScoringFunc::kSoftmax;
               c.topk_method = TopkMethod::kGroupLimitedGreedy;
               c.norm_topk_prob = false;
               c.routed_scaling_factor = 16;
             },
             kMain},
        Case{"SoftmaxNormalised",
             [](ModelConfig& c) {
               c.scoring_func = ScoringFunc::kSoftmax;
               c.topk_method = TopkMethod::kGreedy;
             },
             kMain},
        Case{"SigmoidNotNormalised", [](ModelConfig& c) { c.norm_topk_prob = false; }, kMain},
        Case{"TwoSharedExperts", [](ModelConfig& c) { c.n_shared_experts = 2; }, kMain},
        Case{"NoSharedExperts", [](ModelConfig& c) { c.n_shared_experts = 0; }, kMain},
        Case{"AllDense", [](ModelConfig& c) { c.first_k_dense_replace = 3; }, kMain},
        Case{"TiedHead", [](ModelConfig& c) { c.tie_word_embeddings = true; }, kMain},
        Case{"Yarn",
             [](ModelConfig& c) {
               c.rope_scaling = {.type = RopeType::kYarn,
                                 .factor = 40,
                                 .mscale = 0.7,
                                 .mscale_all_dim = 1,
                                 .original_max_position_embeddings = 8};
             },
             kMain},
        Case{"MaskedDocuments", [](ModelConfig&) {}, kMain, true},
        Case{"SequenceBalance", [](ModelConfig&) {}, scales_with(0, 0, 0.5)},
        Case{"BatchBalanceFromRouting", [](ModelConfig&) {}, scales_with(0, 0, 0.5, true, true)},
        Case{"SoftmaxBalance",
             [](ModelConfig& c) {
               c.scoring_func = ScoringFunc::kSoftmax;
               c.topk_method = TopkMethod::kGreedy;
             },
             scales_with(0, 0, 0.5)},
        Case{"Mtp1", [](ModelConfig& c) { c.num_nextn_predict_layers = 1; },
             scales_with(0.05, 0, 0.1)},
        Case{"Mtp2", [](ModelConfig& c) { c.num_nextn_predict_layers = 2; },
             scales_with(0.05, 0.07, 0.1)},
        Case{"Mtp2OnlyDeepest", [](ModelConfig& c) { c.num_nextn_predict_layers = 2; },
             scales_with(0, 0.07, 0)},
        Case{"Mtp1PreNorm",
             [](ModelConfig& c) {
               c.num_nextn_predict_layers = 1;
               c.mtp_hidden = MtpHidden::kPreNorm;
             },
             scales_with(0.05, 0, 0)},
        Case{"Mtp1MaskedDocuments", [](ModelConfig& c) { c.num_nextn_predict_layers = 1; },
             scales_with(0.05, 0, 0), true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fathom
