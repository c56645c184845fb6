// The C ABI of what training does with floats: argument checks and tiers.
#include "batch_norm/batch_norm.h"
#include "c_api.h"
#include "checks.h"
#include "common.h"
#include "fake_quantize/fake_quantize.h"
#include "multi_level/multi_level.h"
#include "quantize/quantize.h"

using namespace graffiti;  // NOLINT: this file is the border

namespace graffiti {
namespace {

// At least one row and one channel, no more elements than memory has.
int CheckRows(int64_t rows, int64_t channels) {
  int64_t unused;
  if (rows >= 1 && channels >= 1 && CheckedProduct({rows, channels}, INT64_MAX / 8, &unused)) return GRAFFITI_OK;
  return Fail(GRAFFITI_INVALID_ARGUMENT,
              "batch norm takes at least one row and one channel, got %lld rows of %lld channels",
              static_cast<long long>(rows), static_cast<long long>(channels));
}

}  // namespace
}  // namespace graffiti

extern "C" {

int32_t graffiti_training_quantize(int64_t count, const float* x, float inverse_step, int32_t low, int32_t high,
                                   const uint32_t* seed, int32_t type, void* codes, float* extremes, int32_t tier,
                                   const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckCount(1, {extremes})) return code;
    if (int code = CheckCount(count, {x, codes})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    return TrainingQuantize(count, x, inverse_step, low, high, seed, type, codes, extremes, resolved, parallel);
  });
}

int32_t graffiti_extremes(int64_t count, const float* x, float* extremes, int32_t tier,
                          const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckCount(1, {extremes})) return code;
    if (int code = CheckCount(count, {x})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    FindExtremes(count, x, extremes, resolved, parallel);
    return GRAFFITI_OK;
  });
}

int32_t graffiti_count_above(int64_t count, const float* x, float bound, int64_t* above, int32_t tier,
                             const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckCount(1, {above})) return code;
    if (int code = CheckCount(count, {x})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    *above = CountLarge(count, x, bound, resolved, parallel);
    return GRAFFITI_OK;
  });
}

int32_t graffiti_group_maximum(const graffiti_group_layout* layout, const float* x, float* largest, int32_t tier,
                               const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    int64_t elements;
    if (int code = CheckGiven(layout, "layout")) return code;
    if (int code = CheckGroups(*layout, &elements)) return code;
    if (int code = CheckCount(elements, {x})) return code;
    if (int code = CheckCount(layout->outer * layout->groups, {largest})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    GroupMaximum(*layout, x, largest, resolved, parallel);
    return GRAFFITI_OK;
  });
}

int32_t graffiti_multi_level(const graffiti_group_layout* layout, const float* x, const float* divisors,
                             const float* factors, const graffiti_element_format* format, const uint32_t* seed,
                             float* y, int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    int64_t elements;
    if (int code = CheckGiven(layout, "layout")) return code;
    if (int code = CheckGiven(format, "format")) return code;
    if (int code = CheckGroups(*layout, &elements)) return code;
    if (int code = CheckCount(elements, {x, divisors, factors, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    return MultiLevel(*layout, x, divisors, factors, *format, seed, y, resolved, parallel);
  });
}

int32_t graffiti_batch_norm(const graffiti_batch_norm_inputs* inputs, const graffiti_batch_norm_outputs* outputs,
                            int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckGiven(inputs, "inputs")) return code;
    if (int code = CheckGiven(outputs, "outputs")) return code;
    if (int code = CheckRows(inputs->rows, inputs->channels)) return code;
    if (int code = CheckCount(1, {inputs->x, inputs->gamma, inputs->beta, outputs->y, outputs->mean, outputs->variance,
                                  outputs->inverse_deviation}))
      return code;
    if (int code = Tier(tier, &resolved)) return code;
    BatchNorm(*inputs, *outputs, resolved, parallel);
    return GRAFFITI_OK;
  });
}

int32_t graffiti_batch_norm_gradient(const graffiti_batch_norm_gradient_inputs* inputs,
                                     const graffiti_batch_norm_gradient_outputs* outputs, int32_t tier,
                                     const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckGiven(inputs, "inputs")) return code;
    if (int code = CheckGiven(outputs, "outputs")) return code;
    if (int code = CheckRows(inputs->rows, inputs->channels)) return code;
    if (int code = CheckCount(1, {inputs->dy, inputs->x, inputs->gamma, inputs->beta, inputs->mean,
                                  inputs->inverse_deviation, outputs->dx, outputs->dgamma, outputs->dbeta}))
      return code;
    if (inputs->y != nullptr && inputs->relu == 0)
      return Fail(GRAFFITI_INVALID_ARGUMENT, "without a ReLU the gradient of a residual is dy: leave it out");
    if (inputs->y != nullptr && (outputs->dresidual == nullptr || outputs->dresidual == outputs->dx))
      return Fail(GRAFFITI_INVALID_ARGUMENT,
                  "an array is missing: a residual's gradient has an array of its own, not that of dx");
    if (int code = Tier(tier, &resolved)) return code;
    BatchNormGradient(*inputs, *outputs, resolved, parallel);
    return GRAFFITI_OK;
  });
}

int32_t graffiti_fake_quantize(int64_t count, const float* x, const graffiti_fake_quantize_format* format, float* y,
                               int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckGiven(format, "format")) return code;
    if (int code = CheckCount(count, {x, y})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    return FakeQuantize(count, x, *format, y, resolved, parallel);
  });
}

int32_t graffiti_fake_quantize_gradient(int64_t count, const float* dy, const float* x,
                                        const graffiti_fake_quantize_format* format, float* dx, float* dlog2_threshold,
                                        int32_t tier, const graffiti_parallel* parallel) {
  return Guarded([&]() -> int {
    int resolved;
    if (int code = CheckGiven(format, "format")) return code;
    if (int code = CheckCount(1, {dlog2_threshold})) return code;
    if (int code = CheckCount(count, {dy, x, dx})) return code;
    if (int code = Tier(tier, &resolved)) return code;
    return FakeQuantizeGradient(count, dy, x, *format, dx, dlog2_threshold, resolved, parallel);
  });
}

}  // extern "C"
