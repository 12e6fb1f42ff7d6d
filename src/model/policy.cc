#include "model/policy.h"

#include <fmt/format.h>

#include "core/error.h"

namespace fathom {
namespace {

constexpr const Policy* kPolicies[] = {&kPolicyBf16,      &kPolicyFp32,      &kPolicyFp64,
                                       &kPolicyFp8,       &kPolicyFp8Hybrid, &kPolicyFp8Tensor,
                                       &kPolicyInt8Inputs};

std::string grouping(ScaleGrain grain, bool power_of_two) {
  const char* tile = "";
  switch (grain) {
    case ScaleGrain::kNone:
      return "-";
    case ScaleGrain::kRow:
      tile = "1x128";
      break;
    case ScaleGrain::kColumn:
      tile = "128x1";
      break;
    case ScaleGrain::kBlock:
    case ScaleGrain::kBlockPanel:
      tile = "128x128";
      break;
    case ScaleGrain::kTensor:
      tile = "tensor";
      break;
    case ScaleGrain::kPanel:
      tile = "1x128 or 1x32";
      break;
  }
  return power_of_two ? fmt::format("{}, power-of-two scales", tile) : std::string(tile);
}

std::string accumulation(const Accumulator& a) {
  switch (a.model) {
    case Accumulator::Model::kFp32:
      return fmt::format("fp32, slices of {} promoted", kScaleTile);
    case Accumulator::Model::kAlignAll:
    case Accumulator::Model::kAlignProducts:
      break;
  }
  return fmt::format("emulated tensor core {}, {} bits, {}",
                     a.model == Accumulator::Model::kAlignAll ? "A" : "B", a.bits,
                     a.promotion > 0 ? fmt::format("promoted every {}", a.promotion)
                                     : std::string("not promoted"));
}

}  // namespace

const Policy& policy_by_name(std::string_view name) {
  for (const Policy* policy : kPolicies) {
    if (name == policy->name) return *policy;
  }
  fail(ErrorKind::kUsage, "precision: found '{}', expected one of {}", name,
       fmt::join(policy_names(), ", "));
}

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const Policy* policy : kPolicies) {
    if (policy != &kPolicyInt8Inputs) names.emplace_back(policy->name);
  }
  return names;
}

std::vector<std::string> inference_policy_names() {
  return {kPolicyBf16.name, kPolicyInt8Inputs.name, kPolicyFp32.name};
}

std::vector<PolicyLine> describe_policy(const Policy& p) {
  const auto plain = [](DType dtype) { return std::string(dtype_name(dtype)); };
  std::vector<PolicyLine> lines = {
      {"embedding, output head, MTP joining projection", plain(p.weights), "-", "weights"},
      {"norm weights, router and its bias", plain(p.small), "-", ""},
      {"residual stream", plain(p.residual), "-", ""},
      {"attention core: queries, keys, values, scores", plain(p.activations), "-",
       "sums in " + plain(p.small)},
      {"router logits and scores, losses", plain(p.small), "-", ""},
  };
  const auto add = [&](std::string tensor, DType dtype, std::string tiles, std::string note = "") {
    lines.push_back({std::move(tensor), plain(dtype), std::move(tiles), std::move(note)});
  };
  if (!p.fp8.enabled) {
    add("Linear: weights", p.weights, "-");
    add("Linear: inputs and outputs", p.activations, "-");
    add("Linear: gradients of outputs", p.activations, "-");
  } else {
    const Fp8Recipe& f = p.fp8;
    const ScaleGrain rows = f.activations;
    const ScaleGrain columns = rows == ScaleGrain::kRow ? ScaleGrain::kColumn : rows;
    const bool two = f.dispatch_power_of_two;
    add("Linear: weights, Fprop and Dgrad", f.forward_codes, grouping(f.weights, false),
        "from the master copy, each step");
    add("Linear: input, Fprop", f.forward_codes, grouping(rows, false), "online");
    add("Linear: input, Wgrad", f.forward_codes, grouping(columns, false),
        "regrouped from the codes of Fprop");
    add("Linear: output", p.activations, "-", "");
    add("Linear: gradient of output, Dgrad", f.gradient_codes, grouping(rows, false), "online");
    add("Linear: gradient of output, Wgrad", f.gradient_codes, grouping(columns, false), "online");
    add("experts: dispatched input, Fprop and cached", f.forward_codes, grouping(rows, two));
    add("experts: dispatched gradient, Dgrad", f.gradient_codes, grouping(rows, two));
    add("experts: combined outputs and gradients", p.activations, "-");
    add("SwiGLU: cached input", f.forward_codes, grouping(rows, false), "output recomputed");
    if (f.attention_output_e5m6) {
      add("attention output: cached", DType::kE5M6, grouping(ScaleGrain::kRow, true),
          "for the backward of attention and of its Linear");
    }
    lines.push_back({"Linear: accumulation", accumulation(f.accumulator), "-", ""});
  }
  add("weight gradients", p.gradients, "-", "accumulated");
  add("master weights", p.weights == DType::kF64 ? DType::kF64 : DType::kF32, "-");
  add("AdamW moments", p.moments, "-");
  add("recomputed in backward", p.small, "-",
      p.recompute ? "RMSNorm, MLA up-projections, SwiGLU output" : "nothing");
  lines.back().format = "-";
  return lines;
}

}  // namespace fathom
