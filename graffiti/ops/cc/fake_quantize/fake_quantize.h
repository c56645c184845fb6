// The trained log-threshold quantizer on float arrays: forward and backward, each in one pass. No TensorFlow headers.
//
//   s  = 2^(ceil(log2_threshold) - (bits - signed)),   r = round(x / s)
//   y  = clip(r, low, high) * s
//   dx = g where low <= r <= high, else 0
//   dlog2_threshold = s * ln 2 * sum(g * {r - x/s inside, low below, high above})
//
// Jain et al., arXiv 1903.08066, section 3. The decision "inside" is made on the rounded value.
#ifndef GRAFFITI_OPS_CC_FAKE_QUANTIZE_FAKE_QUANTIZE_H_
#define GRAFFITI_OPS_CC_FAKE_QUANTIZE_FAKE_QUANTIZE_H_

#include <cstdint>

namespace graffiti {

enum class Rounding { kHalfEven = 0, kHalfUp = 1, kHalfAway = 2, kFloor = 3 };

struct FakeQuantizeParams {
  float scale;    // a power of two
  float inverse;  // 1 / scale, exact
  float low;      // lowest code
  float high;     // highest code
  Rounding rounding;
};

// Sums are taken over blocks of this many elements, each in double in one fixed order, then over the blocks in order:
// the threshold gradient depends neither on the number of threads nor on the instruction set.
constexpr int64_t kFakeQuantizeBlock = 4096;

struct FakeQuantizeLoops {
  const char* name;
  void (*forward)(const FakeQuantizeParams&, const float* x, float* y, int64_t count);
  // Returns sum(g * term) over the array, without the factor s * ln 2. `dx` may be `g`.
  double (*backward)(const FakeQuantizeParams&, const float* g, const float* x, float* dx, int64_t count);
};

const FakeQuantizeLoops& FakeQuantizeScalar();
const FakeQuantizeLoops& FakeQuantizeAvx2();    // the scalar loops where not compiled for x86
const FakeQuantizeLoops& FakeQuantizeAvx512();  // the same

// The exponent of the step, kept where both 2^e and 2^-e are normal float32 numbers.
int FakeQuantizeExponent(float log2_threshold, int bits, bool is_signed);

FakeQuantizeParams MakeFakeQuantizeParams(float log2_threshold, int bits, bool is_signed, bool narrow,
                                          Rounding rounding);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_CC_FAKE_QUANTIZE_FAKE_QUANTIZE_H_
