// Batch norm for training on float32 rows of channels, fused with a residual sum and a ReLU; forward and backward.
//
//   y  = (x - mean) * scale + beta,  scale = gamma * inverse deviation;  then perhaps + residual, then perhaps max(y,
//   0) dx = scale * (g - mean(g) - (x - mean) * inverse deviation * mean(g * normal)),  g = dy where the ReLU passed
//
// Every sum has one order, whatever the tier and the number of threads: float32 over blocks of kNormRows rows, four
// rows at a time, ((a + b) + (c + d)), then double over the blocks. No fused multiply-adds. numerics/training.py is the
// same in numpy.
#ifndef GRAFFITI_OPS_KERNELS_BATCH_NORM_BATCH_NORM_H_
#define GRAFFITI_OPS_KERNELS_BATCH_NORM_BATCH_NORM_H_

#include <cstdint>

#include "arch.h"
#include "c_api.h"

namespace graffiti {

constexpr int64_t kNormRows = 256;  // rows of one partial sum

// One float per channel, repeated to `period` floats.
struct NormParams {
  const float *mean, *scale, *beta;
  const float *inverse, *mean_dy, *mean_dyx;  // backward only: mean of dy, mean of dy * normal
  int64_t period;
  bool relu;
};

struct BatchNormLoops {
  // sums over rows of x[r][c] - shift[c] and of its square
  void (*moments)(const float* x, int64_t rows, int64_t channels, const float* shift, float* sum, float* square);
  // y = (x - mean) * scale + beta, then perhaps + residual and max(y, 0), over n floats; x starts at channel 0
  void (*normalize)(const NormParams& p, const float* x, const float* residual, int64_t n, float* y);
  // sums over rows of dy and of dy * (x - mean); dy is zero where the ReLU was
  void (*norm_sums)(const NormParams& p, const float* dy, const float* x, int64_t rows, int64_t channels, float* sum,
                    float* product);
  // the same with a ReLU over a sum: masked = dy where y > 0, perhaps in place, and sums of that
  void (*residual_sums)(const NormParams& p, const float* dy, const float* y, const float* x, int64_t rows,
                        int64_t channels, float* masked, float* sum, float* product);
  // dx = scale * (dy - mean_dy - (x - mean) * inverse * mean_dyx), perhaps in place of dy
  void (*norm_gradient)(const NormParams& p, const float* dy, const float* x, int64_t n, float* dx);
};
GRAFFITI_DECLARE_TIERS(BatchNormLoops)

// Of a resolved tier; see graffiti_batch_norm and graffiti_batch_norm_gradient in c_api.h.
void BatchNorm(const graffiti_batch_norm_inputs& in, const graffiti_batch_norm_outputs& out, int tier,
               const graffiti_parallel* parallel);
void BatchNormGradient(const graffiti_batch_norm_gradient_inputs& in, const graffiti_batch_norm_gradient_outputs& out,
                       int tier, const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_BATCH_NORM_BATCH_NORM_H_
