// The C ABI of what training does with floats: argument checks and tiers.
#include "c_api.h"
#include "checks.h"
#include "common.h"
#include "fake_quantize/fake_quantize.h"
#include "multi_level/multi_level.h"
#include "quantize/quantize.h"

using namespace graffiti;  // NOLINT: this file is the border

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
