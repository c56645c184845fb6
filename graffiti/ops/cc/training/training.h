// Loops of low-bit training over short runs of floats: quantization with the tensor's extremes, and fused batch norm.
//
// Multi-level scaling (elements of a small float format under a scale per group) and the count of large elements are here too.
//
// Compiled once per tier (scalar.cc, x86_avx2.cc, x86_avx512.cc) from loops.h. Every sum has one order, whatever the tier and the number of threads:
// float32 over a block of rows in lanes of kLanes channels, then double over the blocks. No fused multiply-adds.
#ifndef GRAFFITI_OPS_CC_TRAINING_TRAINING_H_
#define GRAFFITI_OPS_CC_TRAINING_TRAINING_H_

#include <cstdint>
#include <string>

namespace graffiti {

constexpr int64_t kQuantizeBlock = 16384;  // elements of one unit of work
constexpr int64_t kNormRows = 256;         // rows of one partial sum
constexpr int64_t kPeriod = 64;            // at least so many floats of per-channel parameters, repeated, for flat loops

struct QuantizeParams {
  float inverse_step;
  float low, high;   // whole numbers
  bool stochastic;
  uint32_t key0, key1;  // mixed, see numerics/noise.py
};

// Order-preserving integers of the smallest and largest float seen; NaN and Inf lie outside the keys of finite numbers.
struct ExtremeKeys {
  int32_t low = INT32_MAX, high = INT32_MIN;
};

// Parameters of a batch norm, one float per channel, repeated to `period` floats.
struct NormParams {
  const float *mean, *scale, *beta;        // scale = gamma * inverse deviation
  const float *inverse, *mean_dy, *mean_dyx;  // backward only: mean of dy, mean of dy * normal
  int64_t period;
  bool relu;
};

// The small float format of multi-level scaling: exponent_bits = 0 is fixed point of mantissa_bits.
struct ElementFormat {
  int exponent_bits, mantissa_bits;
  bool carry;        // whether rounding may reach the next binade
  int top_exponent;  // -1 or 0
  bool stochastic;
  uint32_t key0, key1;
};

struct TrainingLoops {
  // codes[i] = clip(r(x[i] * inverse_step)), element i has the index `2 * half_first + i`; widens `keys`
  void (*quantize8)(const QuantizeParams& p, const float* x, int64_t n, uint32_t half_first, int8_t* codes, ExtremeKeys* keys);
  void (*quantize8u)(const QuantizeParams& p, const float* x, int64_t n, uint32_t half_first, uint8_t* codes, ExtremeKeys* keys);
  void (*quantize16)(const QuantizeParams& p, const float* x, int64_t n, uint32_t half_first, int16_t* codes, ExtremeKeys* keys);
  void (*extremes)(const float* x, int64_t n, ExtremeKeys* keys);
  // how many |x[i]| > bound
  int64_t (*count_above)(const float* x, int64_t n, float bound);
  // most[c / inner] = max(most[c / inner], |x[r][c]|) over rows of `width` elements, as the bits of non-negative floats
  void (*group_maximum)(const float* x, int64_t rows, int64_t width, int64_t inner, int32_t* most);
  // y[i] = sign(x[i]) * element(|x[i]| / divisor[j]) * factor[j], j = i mod period; element i has the flat index `first + i`
  void (*multi_level)(const ElementFormat& f, const float* x, int64_t n, int64_t first, const float* divisor, const float* factor, int64_t period, float* y);
  // sums over rows of x[r][c] - shift[c] and of its square
  void (*moments)(const float* x, int64_t rows, int64_t channels, const float* shift, float* sum, float* square);
  // y = (x - mean) * scale + beta, then perhaps + residual and max(y, 0), over n floats; x starts at channel 0, residual may be null
  void (*normalize)(const NormParams& p, const float* x, const float* residual, int64_t n, float* y);
  // sums over rows of dy and of dy * (x - mean); dy is zero where the ReLU was
  void (*norm_sums)(const NormParams& p, const float* dy, const float* x, int64_t rows, int64_t channels, float* sum, float* product);
  // the same with a ReLU over a sum: masked = dy where y > 0, perhaps in place, and sums of that
  void (*residual_sums)(const NormParams& p, const float* dy, const float* y, const float* x, int64_t rows, int64_t channels, float* masked, float* sum, float* product);
  // dx = scale * (dy - mean_dy - (x - mean) * inverse * mean_dyx), perhaps in place of dy
  void (*norm_gradient)(const NormParams& p, const float* dy, const float* x, int64_t n, float* dx);
};

const TrainingLoops& TrainingScalar();
const TrainingLoops& TrainingAvx2();
const TrainingLoops& TrainingAvx512();

}  // namespace graffiti

#endif  // GRAFFITI_OPS_CC_TRAINING_TRAINING_H_
