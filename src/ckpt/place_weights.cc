#include "ckpt/place_weights.h"

#include <algorithm>

#include "ckpt/panel_tensors.h"

namespace fathom {
namespace {

bool keeps_formats(const Policy& policy) {
  return policy.weights == DType::kBF16 && !policy.fp8.enabled;
}

class Placer {
 public:
  Placer(const CheckpointReader& reader, const std::vector<ParameterSpec>& specs,
         const Policy& policy, bool map)
      : reader_(reader), specs_(specs), policy_(policy), map_(map) {}

  std::vector<ParameterPlace> places() {
    places_.resize(specs_.size());
    for (size_t begin = 0; begin < specs_.size();) {
      size_t end = begin + 1;
      while (end < specs_.size() && specs_[end].packed) ++end;
      place_run(begin, end);
      begin = end;
    }
    return std::move(places_);
  }

 private:
  // Parameters that one product, or one product of stacked experts, reads.
  void place_run(size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) places_[i] = stored_place(i);
    const ParameterPlace& first = places_[begin];
    bool alike = true;
    for (size_t i = begin; i < end; ++i) {
      alike = alike && places_[i].dtype == first.dtype && places_[i].grain == first.grain;
    }
    if (!alike) {
      for (size_t i = begin; i < end; ++i) places_[i] = plain_place(i);
    }
    if (!map_ || !joins(begin, end)) {
      for (size_t i = begin; i < end; ++i) places_[i].data = places_[i].scales = nullptr;
    }
  }

  ParameterPlace plain_place(size_t i) const {
    return {.dtype = policy_.weight_dtypes().of(specs_[i])};
  }

  // As it is stored, if that can be used; the pointers show where.
  ParameterPlace stored_place(size_t i) const {
    const ParameterSpec& spec = specs_[i];
    const StoredTensor& stored = *reader_.find(spec.name);
    const SafetensorsEntry& entry = *stored.entry;
    ParameterPlace place = plain_place(i);
    if (entry.dtype == place.dtype) {
      if (aligned(stored, dtype_bytes(place.dtype))) place.data = stored.shard->bytes(entry);
      return place;
    }
    if (!keeps_formats(policy_)) return place;
    const std::optional<DType> codes = panel_codes_of(entry.dtype);
    if (codes) {
      const StoredTensor& scales = *reader_.find(spec.name + std::string(kPanelScaleSuffix));
      place = {.dtype = *codes, .grain = ScaleGrain::kPanel};
      if (aligned(scales, dtype_bytes(DType::kBF16))) set_data(place, stored, scales);
    } else if (entry.dtype == DType::kE4M3 && !spec.name.ends_with("kv_b_proj.weight") &&
               reader_.config().fp8_block_rows == kScaleTile &&
               reader_.config().fp8_block_cols == kScaleTile) {
      const StoredTensor& scales = *reader_.find(spec.name + "_scale_inv");
      place = {.dtype = DType::kE4M3, .grain = ScaleGrain::kBlock};
      if (aligned(scales, dtype_bytes(DType::kF32))) set_data(place, stored, scales);
    }
    return place;
  }

  static void set_data(ParameterPlace& place, const StoredTensor& codes,
                       const StoredTensor& scales) {
    place.data = codes.shard->bytes(*codes.entry);
    place.scales = scales.shard->bytes(*scales.entry);
  }

  static bool aligned(const StoredTensor& stored, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(stored.shard->bytes(*stored.entry)) %
               static_cast<uintptr_t>(bytes) ==
           0;
  }

  // Whether a run can be used where it lies.
  bool joins(size_t begin, size_t end) const {
    std::vector<TensorView> codes, scales;
    int64_t groups = 1;
    for (size_t i = begin; i < end; ++i) {
      const ParameterPlace& place = places_[i];
      if (place.data == nullptr) return false;
      groups = std::max(groups, specs_[i].expert_idx + 1);
      if (end == begin + 1) return true;
      const Shape& shape = specs_[i].shape;
      void* data = const_cast<void*>(place.data);
      void* scale_data = const_cast<void*>(place.scales);
      if (place.grain == ScaleGrain::kPanel) {
        codes.emplace_back(data, place.dtype, panel_code_shape(place.dtype, shape[0], shape[1]));
        scales.emplace_back(scale_data, DType::kBF16,
                            panel_scale_shape(place.dtype, shape[0], shape[1]));
      } else {
        codes.emplace_back(data, place.dtype, shape);
        if (place.grain == ScaleGrain::kNone) continue;
        scales.emplace_back(scale_data, DType::kF32, scale_shape(place.grain, shape[0], shape[1]));
      }
    }
    return tensors_join(codes, groups) && (scales.empty() || tensors_join(scales, groups));
  }

  const CheckpointReader& reader_;
  const std::vector<ParameterSpec>& specs_;
  const Policy& policy_;
  bool map_;
  std::vector<ParameterPlace> places_;
};

}  // namespace

std::vector<ParameterPlace> place_weights(const CheckpointReader& reader,
                                          const std::vector<ParameterSpec>& specs,
                                          const Policy& policy, bool map) {
  return Placer(reader, specs, policy, map).places();
}

bool copy_for_panels(const ModelConfig& config, const std::vector<ParameterSpec>& specs,
                     int64_t available_bytes, std::vector<ParameterPlace>& places) {
  const std::vector<bool> fits = fit_for_panels(config, specs, places);
  int64_t num_bytes = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (fits[i]) num_bytes += specs[i].shape.num_elements() * dtype_bytes(places[i].dtype);
  }
  if (static_cast<double>(num_bytes) > kPanelMemoryShare * static_cast<double>(available_bytes))
    return false;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (fits[i]) places[i].data = places[i].scales = nullptr;
  }
  return true;
}

}  // namespace fathom
