// Weights in panels (kernels/panel.h) as tensors of a checkpoint file: docs/formats/panels.md. The
// shapes say the layout, so that no reader takes them for plain matrices:
//
//   NAME        I8 [rows/16, cols/4, 16, 4]  or  U8 [rows/16, cols/8, 16, 4]  (4 bits)
//   NAME_scale  BF16 [rows/16, groups, 16]
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ckpt/safetensors.h"
#include "model/parameters.h"

namespace fathom {

inline constexpr std::string_view kPanelScaleSuffix = "_scale";

// Whether a parameter may be stored in panels at all: a Linear that its products read as a whole,
// or the head, of a size that panels fit.
bool may_lie_in_panels(const ParameterSpec& spec);

// Which codes `quantize --to int8|int4` gives each parameter; nothing: it stays as it is. What one
// product reads together (q_a with kv_a, gate with up, all experts) has one format. kMixed keeps at
// 8 bits what is small and read for every token: the head, whose errors no later layer evens out,
// and kv_b_proj, through which each cached token is seen.
enum class PanelBits { kEight, kMixed, kFour };
std::vector<std::optional<DType>> plan_panels(const std::vector<ParameterSpec>& specs,
                                              PanelBits bits);

// The codes that a stored dtype holds (kI8 or kI4x2); nothing for other dtypes.
std::optional<DType> panel_codes_of(DType stored);
// What is stored for codes of a [rows, cols] matrix, and for their scales.
DType stored_panel_dtype(DType codes);
Shape stored_panel_shape(DType codes, int64_t rows, int64_t cols);
Shape stored_panel_scale_shape(DType codes, int64_t rows, int64_t cols);

}  // namespace fathom
