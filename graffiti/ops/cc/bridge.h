// Between TensorFlow's types and the kernels' C ABI (../kernels/c_api.h): types, names, status, threads, shapes.
#ifndef GRAFFITI_OPS_CC_BRIDGE_H_
#define GRAFFITI_OPS_CC_BRIDGE_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "c_api.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

#define GRAFFITI_CODES "{int8, uint8, int16, uint16, int32}"
#define GRAFFITI_TIERS graffiti::kTierAttribute
#define GRAFFITI_ROUNDINGS "rounding: {'half_even', 'half_up', 'half_away', 'floor'} = 'half_even'"

namespace graffiti {

// The attribute "tier: {'auto', ...} = 'auto'" of every native op.
#define GRAFFITI_TIER_NAME(of, NAME, name, ...) ", '" name "'"
constexpr char kTierAttribute[] = "tier: {'auto'" GRAFFITI_EACH_TIER(GRAFFITI_TIER_NAME, ) "} = 'auto'";
#undef GRAFFITI_TIER_NAME

namespace tf = tensorflow;
using tf::shape_inference::DimensionHandle;
using tf::shape_inference::InferenceContext;
using tf::shape_inference::ShapeHandle;

inline int32_t KernelType(tf::DataType type) {
  switch (type) {
    case tf::DT_INT8: return GRAFFITI_S8;
    case tf::DT_UINT8: return GRAFFITI_U8;
    case tf::DT_INT16: return GRAFFITI_S16;
    case tf::DT_UINT16: return GRAFFITI_U16;
    case tf::DT_INT32: return GRAFFITI_S32;
    case tf::DT_FLOAT: return GRAFFITI_F32;
    default: return -1;  // the registrations admit no other
  }
}

inline int32_t KernelType(const tf::Tensor& x) { return KernelType(x.dtype()); }

// An error whose sentence is the arguments joined.
template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// The kernels' status as TensorFlow's, with their sentence.
inline absl::Status FromKernels(int32_t status) {
  if (status == GRAFFITI_OK) return absl::OkStatus();
  if (status == GRAFFITI_NOT_A_NUMBER) {
    return Invalid("quantize expects numbers, its input holds NaN: ", graffiti_last_error());
  }
  return absl::InvalidArgumentError(graffiti_last_error());
}

inline absl::Status GetTier(tf::OpKernelConstruction* context, int32_t* tier) {
  if (graffiti_abi_version() != GRAFFITI_ABI_VERSION) {
    return Invalid("graffiti_kernels.so has ABI version ", graffiti_abi_version(), ", the op library expects ",
                   GRAFFITI_ABI_VERSION, "; build both again with: pip install --no-build-isolation -e .");
  }
  std::string name;
  TF_RETURN_IF_ERROR(context->GetAttr("tier", &name));
  for (int32_t known = GRAFFITI_TIER_AUTO + 1; known < GRAFFITI_TIER_COUNT; ++known) {
    if (name != graffiti_tier_name(known)) continue;
    if (!graffiti_tier_supported(known)) {
      return Invalid("this processor has no ", name, "; use tier 'auto', which is ",
                     graffiti_tier_name(graffiti_best_tier()), " here");
    }
    *tier = known;
    return absl::OkStatus();
  }
  *tier = GRAFFITI_TIER_AUTO;
  return absl::OkStatus();
}

inline absl::Status GetRounding(tf::OpKernelConstruction* context, int32_t* rounding) {
  std::string name;
  TF_RETURN_IF_ERROR(context->GetAttr("rounding", &name));
  *rounding = name == "half_even" ? GRAFFITI_HALF_EVEN
              : name == "half_up" ? GRAFFITI_HALF_UP
              : name == "half_away" ? GRAFFITI_HALF_AWAY : GRAFFITI_FLOOR;
  return absl::OkStatus();
}

// The attributes shift, low, high, rounding, output_type. No shift: no requantization, the accumulators themselves.
class Requantization {
 public:
  absl::Status Get(tf::OpKernelConstruction* context) {
    TF_RETURN_IF_ERROR(context->GetAttr("shift", &shift_));
    TF_RETURN_IF_ERROR(context->GetAttr("low", &numbers_.low));
    TF_RETURN_IF_ERROR(context->GetAttr("high", &numbers_.high));
    TF_RETURN_IF_ERROR(context->GetAttr("output_type", &output_type_));
    TF_RETURN_IF_ERROR(GetRounding(context, &numbers_.rounding));
    if (shift_.empty() && output_type_ != tf::DT_INT32) {
      return Invalid("accumulators are int32; codes of another type need a shift");
    }
    for (int32_t& shift : shift_) shift = std::min(std::max(shift, -62), 62);  // beyond, nothing changes any more
    numbers_.type = KernelType(output_type_);
    numbers_.shift = shift_.data();
    numbers_.shift_count = static_cast<int64_t>(shift_.size());
    return absl::OkStatus();
  }

  // NULL for the accumulators; an error where the number of shifts is neither 1 nor that of the channels.
  absl::Status For(int64_t channels, const graffiti_requantization** numbers) const {
    if (shift_.size() > 1 && numbers_.shift_count != channels) {
      return Invalid("expected one shift or one for each of the ", channels, " channels of the last axis, got ",
                     shift_.size());
    }
    *numbers = shift_.empty() ? nullptr : &numbers_;
    return absl::OkStatus();
  }

 private:
  std::vector<int32_t> shift_;
  graffiti_requantization numbers_;
  tf::DataType output_type_;
};

// TensorFlow's own threads in the form that the kernels take.
class Threads {
 public:
  explicit Threads(tf::OpKernelContext* context) : workers_(context->device()->tensorflow_cpu_worker_threads()) {
    parallel_ = {Run, this, workers_ == nullptr ? 1 : workers_->num_threads};
  }
  const graffiti_parallel* get() const { return parallel_.threads > 1 ? &parallel_ : nullptr; }
  int64_t count() const { return parallel_.threads; }

 private:
  static void Run(void* self, int64_t n, void (*fn)(void*, int64_t, int64_t), void* argument) {
    const auto* workers = static_cast<Threads*>(self)->workers_;
    // The kernels cut the work into parts worth a thread: the cost says "never join two of them".
    tf::Shard(workers->num_threads, workers->workers, n, /*cost_per_unit=*/1 << 20,
              [fn, argument](int64_t lo, int64_t hi) { fn(argument, lo, hi); });
  }

  const tf::DeviceBase::CpuWorkerThreads* workers_;
  graffiti_parallel parallel_;
};

// Strides, dilation and padding of a window over height and width.
struct Window {
  std::vector<int32_t> strides, dilation{1, 1}, pads;
  std::string padding;

  template <typename Context>  // InferenceContext or OpKernelConstruction
  absl::Status Get(Context* context, bool has_dilation) {
    TF_RETURN_IF_ERROR(context->GetAttr("strides", &strides));
    if (has_dilation) {
      dilation.clear();  // GetAttr appends
      TF_RETURN_IF_ERROR(context->GetAttr("dilation", &dilation));
    }
    TF_RETURN_IF_ERROR(context->GetAttr("padding", &padding));
    TF_RETURN_IF_ERROR(context->GetAttr("pads", &pads));
    for (int32_t n : strides) if (n < 1) return Invalid("strides are at least 1");
    for (int32_t n : dilation) if (n < 1) return Invalid("dilations are at least 1");
    for (int32_t n : pads) if (n < 0) return Invalid("pads are at least 0");
    if (strides.size() != 2 || dilation.size() != 2 || pads.size() != 4) {
      return Invalid("expected two strides, two dilations and four pads (top, bottom, left, right)");
    }
    return absl::OkStatus();
  }

  // Length of the output and zeros in front along axis 0 (height) or 1 (width); `same` is TensorFlow's.
  absl::Status Axis(int axis, int64_t size, int64_t window, int64_t* out, int64_t* front) const {
    const int64_t stride = strides[axis], reach = (window - 1) * dilation[axis] + 1;
    *front = 0;
    if (padding == "same") {
      *out = (size + stride - 1) / stride;
      *front = std::max<int64_t>((*out - 1) * stride + reach - size, 0) / 2;
      return absl::OkStatus();
    }
    if (padding == "explicit") {
      *front = pads[2 * axis];
      size += pads[2 * axis] + pads[2 * axis + 1];
    }
    if (size < reach) {
      return Invalid("a window that reaches over ", reach, " does not fit an axis of ", size);
    }
    *out = (size - reach) / stride + 1;
    return absl::OkStatus();
  }

  // The same for a shape function: unknown stays unknown.
  absl::Status Infer(InferenceContext* c, int axis, DimensionHandle size, DimensionHandle window,
                     DimensionHandle* out) const {
    *out = c->UnknownDim();
    if (!c->ValueKnown(size) || !c->ValueKnown(window)) return absl::OkStatus();
    int64_t length, front;
    TF_RETURN_IF_ERROR(Axis(axis, c->Value(size), c->Value(window), &length, &front));
    *out = c->MakeDim(length);
    return absl::OkStatus();
  }
};

}  // namespace graffiti

#endif  // GRAFFITI_OPS_CC_BRIDGE_H_
