#include "ckpt/panel_tensors.h"

#include "kernels/panel.h"

namespace fathom {

bool may_lie_in_panels(const ParameterSpec& spec) {
  const bool head = spec.name == "lm_head.weight";  // the embedding is read by single rows
  return (spec.fp8_in_published || head) && panels_fit(spec.shape[0], spec.shape[1]) &&
         spec.row_part % kPanelRows == 0;
}

std::vector<std::optional<DType>> plan_panels(const std::vector<ParameterSpec>& specs,
                                              PanelBits bits) {
  std::vector<std::optional<DType>> plan(specs.size());
  for (size_t begin = 0; begin < specs.size();) {
    size_t end = begin + 1;
    while (end < specs.size() && specs[end].packed) ++end;
    bool all_fit = true;
    for (size_t i = begin; i < end; ++i) all_fit = all_fit && may_lie_in_panels(specs[i]);
    for (size_t i = begin; all_fit && i < end; ++i) {
      const bool wide = specs[i].kind == ParameterKind::kEmbedding || specs[i].row_part > 0;
      const bool four = bits == PanelBits::kFour || (bits == PanelBits::kMixed && !wide);
      plan[i] = four ? DType::kI4x2 : DType::kI8;
    }
    begin = end;
  }
  return plan;
}

std::optional<DType> panel_codes_of(DType stored) {
  if (stored == DType::kI8) return DType::kI8;
  if (stored == DType::kU8) return DType::kI4x2;
  return std::nullopt;
}

DType stored_panel_dtype(DType codes) { return codes == DType::kI4x2 ? DType::kU8 : DType::kI8; }

Shape stored_panel_shape(DType codes, int64_t rows, int64_t cols) {
  const int64_t word_columns = codes == DType::kI4x2 ? 8 : 4;
  return Shape{rows / kPanelRows, cols / word_columns, kPanelRows, kPanelWordBytes};
}

Shape stored_panel_scale_shape(DType codes, int64_t rows, int64_t cols) {
  return Shape{rows / kPanelRows, panel_scale_shape(codes, rows, cols)[1], kPanelRows};
}

}  // namespace fathom
