// Floats to codes under one step that is any float, with the extremes of the floats from the same pass; extremes alone;
// how many floats are large.
#ifndef GRAFFITI_OPS_KERNELS_QUANTIZE_QUANTIZE_H_
#define GRAFFITI_OPS_KERNELS_QUANTIZE_QUANTIZE_H_

#include <cstdint>

#include "arch.h"
#include "c_api.h"
#include "noise.h"

namespace graffiti {

constexpr int64_t kQuantizeBlock = 16384;  // elements of one unit of work

struct QuantizeParams {
  float inverse_step;
  float low, high;  // whole numbers
  bool stochastic;
  NoiseKey key;
};

// Order-preserving integers of the smallest and largest float seen; NaN and Inf lie outside the keys of finite numbers.
struct ExtremeKeys {
  int32_t low = INT32_MAX, high = INT32_MIN;
};

// codes[i] = clip(r(x[i] * inverse_step)), element i has the index `2 * half_first + i`; widens `keys`.
template <typename Code>
using QuantizeFunction = void (*)(const QuantizeParams& p, const float* x, int64_t n, uint32_t half_first, Code* codes,
                                  ExtremeKeys* keys);

struct QuantizeLoops {
  QuantizeFunction<int8_t> s8;
  QuantizeFunction<uint8_t> u8;
  QuantizeFunction<int16_t> s16;
  void (*extremes)(const float* x, int64_t n, ExtremeKeys* keys);
  // how many |x[i]| > bound
  int64_t (*count_above)(const float* x, int64_t n, float bound);
};
GRAFFITI_DECLARE_TIERS(QuantizeLoops)

// Of a resolved tier; see graffiti_training_quantize, graffiti_extremes and graffiti_count_above in c_api.h.
int TrainingQuantize(int64_t count, const float* x, float inverse_step, int32_t low, int32_t high, const uint32_t* seed,
                     int32_t type, void* codes, float* extremes, int tier, const graffiti_parallel* parallel);
void FindExtremes(int64_t count, const float* x, float* extremes, int tier, const graffiti_parallel* parallel);
int64_t CountLarge(int64_t count, const float* x, float bound, int tier, const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_QUANTIZE_QUANTIZE_H_
