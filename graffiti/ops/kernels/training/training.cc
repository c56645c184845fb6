#include "training/training.h"

#include <algorithm>

#include "common.h"
#include "training/depthwise.h"

namespace graffiti {
namespace {

// Whether one of the three products takes these types: x s8 or u8, the kernel s8, the gradient s8 or s16.
bool TakesTypes(int pass, int first_type, int second_type) {
  const auto is_x = [](int type) { return type == GRAFFITI_S8 || type == GRAFFITI_U8; };
  const auto is_gradient = [](int type) { return type == GRAFFITI_S8 || type == GRAFFITI_S16; };
  switch (pass) {
    case GRAFFITI_FORWARD: return is_x(first_type) && second_type == GRAFFITI_S8;
    case GRAFFITI_INPUT_GRADIENT: return is_gradient(first_type) && second_type == GRAFFITI_S8;
    case GRAFFITI_WEIGHT_GRADIENT: return is_x(first_type) && is_gradient(second_type);
    default: return false;
  }
}

int CheckShape(const graffiti_conv_shape& s, int64_t batch) {
  constexpr int64_t kLimit = INT32_MAX;  // offsets inside an image are 32-bit
  for (int64_t v : {s.channels, s.out_channels, s.kernel_height, s.kernel_width, s.stride_h, s.stride_w, s.dilation_h,
                    s.dilation_w})
    if (v < 1 || v > kLimit)
      return Fail(GRAFFITI_INVALID_ARGUMENT,
                  "training products: channels, window, strides and dilation are 1 to 2147483647, got %lld",
                  static_cast<long long>(v));
  for (int64_t v : {s.height, s.width, s.out_height, s.out_width})
    if (v < 0 || v > kLimit)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "training products: sizes are 0 to 2147483647, got %lld",
                  static_cast<long long>(v));
  if (batch < 0 || s.spread_h != 1 || s.spread_w != 1)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "training products take a batch of at least 0 and no spread");
  if (s.pad_top < -kLimit || s.pad_top > kLimit || s.pad_left < -kLimit || s.pad_left > kLimit)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "training products: pads are -2147483647 to 2147483647, got %lld and %lld",
                static_cast<long long>(s.pad_top), static_cast<long long>(s.pad_left));
  if (s.groups != 1 && (s.groups != s.channels || s.out_channels % s.channels != 0))
    return Fail(GRAFFITI_INVALID_ARGUMENT,
                "training products take one group, or as many as channels with a whole number of outputs for each");
  const int64_t reach_h = s.kernel_height * s.dilation_h, reach_w = s.kernel_width * s.dilation_w;
  const int64_t rows = std::max<int64_t>(s.out_height - 1, 0) * s.stride_h;
  const int64_t columns = std::max<int64_t>(s.out_width - 1, 0) * s.stride_w;
  int64_t unused;
  if (!CheckedProduct({std::max(s.height, rows) + reach_h, std::max(s.width, columns) + reach_w, s.channels, 4}, kLimit,
                      &unused) ||
      !CheckedProduct({s.out_height + 1, s.out_width + 1, s.out_channels, 4}, kLimit, &unused) ||
      !CheckedProduct({s.kernel_height, s.kernel_width, s.channels, s.out_channels, 8}, kLimit, &unused))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "training products: one image or the kernel takes more than 2 GiB");
  return GRAFFITI_OK;
}

// An array of no elements may be NULL; every other one must be there.
int CheckArrays(int pass, const graffiti_conv_shape& s, int64_t batch, const void* first, const void* second,
                const void* out) {
  const bool has_x = batch > 0 && s.height > 0 && s.width > 0, has_y = batch > 0 && s.out_height > 0 && s.out_width > 0;
  const bool forward = pass == GRAFFITI_FORWARD, weights = pass == GRAFFITI_WEIGHT_GRADIENT;
  const bool needs_first = forward || weights ? has_x : has_y, needs_second = !weights || has_y;
  const bool needs_out = forward ? has_y : weights || has_x;
  if ((needs_first && first == nullptr) || (needs_second && second == nullptr) || (needs_out && out == nullptr))
    return Fail(GRAFFITI_INVALID_ARGUMENT, "an array is missing");
  return GRAFFITI_OK;
}

}  // namespace

int TrainingProduct(int pass, const graffiti_conv_shape& s, int64_t batch, const void* first, int first_type,
                    const void* second, int second_type, float scale, float* out, int tier,
                    const graffiti_parallel* parallel) {
  if (!TakesTypes(pass, first_type, second_type))
    return Fail(GRAFFITI_INVALID_ARGUMENT,
                "training products take x as s8 or u8, kernels as s8 and dy as s8 or s16, got %s and %s in pass %d",
                TypeName(first_type), TypeName(second_type), pass);
  if (int code = CheckShape(s, batch)) return code;
  if (int code = CheckArrays(pass, s, batch, first, second, out)) return code;
  if (s.groups != 1)
    return TrainingDepthwise(pass, s, batch, first, first_type, second, second_type, scale, out, tier, parallel);
  switch (pass) {
    case GRAFFITI_FORWARD:
      return TrainingForward(s, batch, first, first_type, static_cast<const int8_t*>(second), scale, out, tier,
                             parallel);
    case GRAFFITI_INPUT_GRADIENT:
      return TrainingInputGradient(s, batch, first, first_type, static_cast<const int8_t*>(second), scale, out, tier,
                                   parallel);
    default:
      return TrainingWeightGradient(s, batch, first, first_type, second, second_type, scale, out, tier, parallel);
  }
}

}  // namespace graffiti
