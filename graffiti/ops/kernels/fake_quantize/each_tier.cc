// The loops, compiled once for each tier and written so that GCC vectorizes them for its flags. Everything is in an
// unnamed namespace and nothing of the standard library is called, so that no tier's instructions leak into another.
#include "fake_quantize/fake_quantize.h"

namespace graffiti {
namespace {

template <int kMode>
inline float Round(float u) {
  if constexpr (kMode == GRAFFITI_HALF_EVEN) {
    return __builtin_rintf(u);  // the processor's rounding mode is half to even
  } else if constexpr (kMode == GRAFFITI_FLOOR) {
    return __builtin_floorf(u);
  } else {
    // Not floor(u + 0.5): that addition itself rounds next to a tie.
    const float magnitude = kMode == GRAFFITI_HALF_AWAY ? __builtin_fabsf(u) : u;
    const float floor = __builtin_floorf(magnitude);
    const float rounded = floor + (magnitude - floor >= 0.5f ? 1.0f : 0.0f);
    return kMode == GRAFFITI_HALF_AWAY ? __builtin_copysignf(rounded, u) : rounded;
  }
}

template <int kMode>
void ForwardLoop(const FakeQuantizeParams& params, const float* __restrict x, float* __restrict y, int64_t count) {
  const float scale = params.scale, inverse = params.inverse, low = params.low, high = params.high;
  for (int64_t i = 0; i < count; ++i) {
    float r = Round<kMode>(x[i] * inverse);
    r = r < low ? low : r;  // these comparisons are false for NaN: it passes through, as in TensorFlow's clip
    r = r > high ? high : r;
    y[i] = r * scale;
  }
}

// 16 lanes of double sums, the same lanes on every instruction set.
template <int kMode>
double BackwardBlock(const FakeQuantizeParams& params, const float* g, const float* x, float* dx, int64_t count) {
  constexpr int kLanes = 16;
  const float inverse = params.inverse, low = params.low, high = params.high;
  double sums[kLanes] = {};
  float terms[kLanes];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma GCC ivdep  // dx may be g, but then at the same index
    for (int lane = 0; lane < kLanes; ++lane) {
      const float u = x[i + lane] * inverse, gradient = g[i + lane];
      const float r = Round<kMode>(u);
      const bool below = r < low, inside = (r >= low) & (r <= high);
      const float error = r - u;
      const float edge = below ? low : high;
      terms[lane] = gradient * (inside ? error : edge);
      dx[i + lane] = inside ? gradient : 0.0f;
    }
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(terms[lane]);
  }
  for (int lane = 0; i < count; ++i, ++lane) {
    const float u = x[i] * inverse, gradient = g[i];
    const float r = Round<kMode>(u);
    const bool inside = r >= low && r <= high;
    sums[lane] += static_cast<double>(gradient * (inside ? r - u : r < low ? low : high));
    dx[i] = inside ? gradient : 0.0f;
  }
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

void Forward(const FakeQuantizeParams& params, const float* x, float* y, int64_t count) {
  switch (params.rounding) {
    case GRAFFITI_HALF_EVEN:
      return ForwardLoop<GRAFFITI_HALF_EVEN>(params, x, y, count);
    case GRAFFITI_HALF_UP:
      return ForwardLoop<GRAFFITI_HALF_UP>(params, x, y, count);
    case GRAFFITI_HALF_AWAY:
      return ForwardLoop<GRAFFITI_HALF_AWAY>(params, x, y, count);
    default:
      return ForwardLoop<GRAFFITI_FLOOR>(params, x, y, count);
  }
}

double Backward(const FakeQuantizeParams& params, const float* g, const float* x, float* dx, int64_t count) {
  switch (params.rounding) {
    case GRAFFITI_HALF_EVEN:
      return BackwardBlock<GRAFFITI_HALF_EVEN>(params, g, x, dx, count);
    case GRAFFITI_HALF_UP:
      return BackwardBlock<GRAFFITI_HALF_UP>(params, g, x, dx, count);
    case GRAFFITI_HALF_AWAY:
      return BackwardBlock<GRAFFITI_HALF_AWAY>(params, g, x, dx, count);
    default:
      return BackwardBlock<GRAFFITI_FLOOR>(params, g, x, dx, count);
  }
}

const FakeQuantizeLoops kLoops = {Forward, Backward};

}  // namespace

template <>
const FakeQuantizeLoops& TierLoops<FakeQuantizeLoops, GRAFFITI_TIER>() {
  return kLoops;
}

}  // namespace graffiti
