// What does not depend on the instruction set: the format's numbers, the work in blocks, the sum over them.
#include "fake_quantize/fake_quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common.h"

namespace graffiti {
namespace {

constexpr int64_t kGrain = 4;  // blocks

float PowerOfTwo(int exponent) {
  const uint32_t pattern = static_cast<uint32_t>(exponent + 127) << 23;
  float value;
  std::memcpy(&value, &pattern, sizeof(value));
  return value;
}

int MakeParams(const graffiti_fake_quantize_format& format, FakeQuantizeParams* params) {
  if (format.bits < 2 || format.bits > 24)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "fake_quantize takes 2 to 24 bits (float32 holds no more), got %d",
                format.bits);
  if (format.rounding < GRAFFITI_HALF_EVEN || format.rounding > GRAFFITI_FLOOR)
    return Fail(GRAFFITI_INVALID_ARGUMENT, "a rounding mode is 0 to 3, got %d", format.rounding);
  if (std::isnan(format.log2_threshold))
    return Fail(GRAFFITI_INVALID_ARGUMENT,
                "fake_quantize takes one log2_threshold that is a number, got NaN; look for NaN in the loss");
  const int width = format.bits - (format.is_signed ? 1 : 0);
  const float bounded = std::min(std::max(std::ceil(format.log2_threshold), -1024.0f), 1024.0f);
  // kept where both 2^e and 2^-e are normal float32 numbers
  const int exponent = std::min(std::max(static_cast<int>(bounded) - width, -126), 126);
  const float levels = PowerOfTwo(width);
  const float low = format.is_signed ? -levels + (format.narrow ? 1.0f : 0.0f) : 0.0f;
  *params = {PowerOfTwo(exponent), PowerOfTwo(-exponent), low, levels - 1.0f, format.rounding};
  return GRAFFITI_OK;
}

}  // namespace

int FakeQuantize(int64_t count, const float* x, const graffiti_fake_quantize_format& format, float* y, int tier,
                 const graffiti_parallel* parallel) {
  FakeQuantizeParams params;
  if (int code = MakeParams(format, &params)) return code;
  const FakeQuantizeLoops& loops = LoopsOf<FakeQuantizeLoops>(tier);
  ForEachBlock(parallel, count, kFakeQuantizeBlock, kGrain,
               [&](int64_t lo, int64_t hi) { loops.forward(params, x + lo, y + lo, hi - lo); });
  return GRAFFITI_OK;
}

int FakeQuantizeGradient(int64_t count, const float* dy, const float* x, const graffiti_fake_quantize_format& format,
                         float* dx, float* dlog2_threshold, int tier, const graffiti_parallel* parallel) {
  FakeQuantizeParams params;
  if (int code = MakeParams(format, &params)) return code;
  const FakeQuantizeLoops& loops = LoopsOf<FakeQuantizeLoops>(tier);
  std::vector<double> sums(CeilDiv(count, kFakeQuantizeBlock));
  ForEachBlock(parallel, count, kFakeQuantizeBlock, kGrain, [&](int64_t lo, int64_t hi) {
    sums[lo / kFakeQuantizeBlock] = loops.backward(params, dy + lo, x + lo, dx + lo, hi - lo);
  });
  double sum = 0;
  for (double part : sums) sum += part;
  *dlog2_threshold = static_cast<float>(sum * params.scale * 0.69314718055994530942);
  return GRAFFITI_OK;
}

}  // namespace graffiti
