// The trained log-threshold quantizer on float arrays: forward and backward, each in one pass.
//
//   s  = 2^(ceil(log2_threshold) - (bits - signed)),   r = round(x / s)
//   y  = clip(r, low, high) * s
//   dx = g where low <= r <= high, else 0
//   dlog2_threshold = s * ln 2 * sum(g * {r - x/s inside, low below, high above})
//
// Jain et al., arXiv 1903.08066, section 3. The decision "inside" is made on the rounded value.
#ifndef GRAFFITI_OPS_KERNELS_FAKE_QUANTIZE_FAKE_QUANTIZE_H_
#define GRAFFITI_OPS_KERNELS_FAKE_QUANTIZE_FAKE_QUANTIZE_H_

#include <cstdint>

#include "arch.h"
#include "c_api.h"

namespace graffiti {

struct FakeQuantizeParams {
  float scale;    // a power of two
  float inverse;  // 1 / scale, exact
  float low;      // lowest code
  float high;     // highest code
  int rounding;
};

// Sums are taken over blocks of this many elements, each in double in one fixed order, then over the blocks in order:
// the threshold gradient depends neither on the number of threads nor on the instruction set.
constexpr int64_t kFakeQuantizeBlock = 4096;

struct FakeQuantizeLoops {
  void (*forward)(const FakeQuantizeParams&, const float* x, float* y, int64_t count);
  // Returns sum(g * term) over the array, without the factor s * ln 2. `dx` may be `g`.
  double (*backward)(const FakeQuantizeParams&, const float* g, const float* x, float* dx, int64_t count);
};
GRAFFITI_DECLARE_TIERS(FakeQuantizeLoops)

// Of a resolved tier; see graffiti_fake_quantize and its gradient in c_api.h.
int FakeQuantize(int64_t count, const float* x, const graffiti_fake_quantize_format& format, float* y, int tier,
                 const graffiti_parallel* parallel);
int FakeQuantizeGradient(int64_t count, const float* dy, const float* x, const graffiti_fake_quantize_format& format,
                         float* dx, float* dlog2_threshold, int tier, const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_FAKE_QUANTIZE_FAKE_QUANTIZE_H_
