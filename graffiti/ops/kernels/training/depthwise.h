// The three products of a depthwise convolution's training step, see training.h: sums over a window's taps and over
// pixels, channel by channel.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_DEPTHWISE_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_DEPTHWISE_H_

#include <cstdint>

#include "arch.h"

namespace graffiti {

// Where a tap reads its two operands, in elements.
struct Tap {
  int64_t a, w;
};

// `count` columns of a row of outputs, from `column` on in steps of column_step, which read the same taps of the
// window, each a_step elements further than the one before.
struct Run {
  int64_t column, count;
  int64_t first_tap, end_tap;  // of the first of them
};

// One row of outputs. out[column * out_stride + c * out_step] = scale * sum over the row's and the column's taps of
// a[row.a + tap.a + c] * w[row.w + tap.w + c].
struct GatherArgs {
  const void* a;
  const int32_t* w;  // each in the low half, the high one 0
  const Tap* rows;
  int64_t row_count;
  const Tap* taps;
  const Run* runs;
  int64_t run_count, column_step, a_step, channels;
  float scale;
  float* out;
  int64_t out_stride, out_step;
  bool stream;  // past the caches, see streams.h; out_step is 1
};

// sums[k * tap_sums + c] += sum over q of x[q * x_stride + k * tap_x + c] * dy[q * dy_stride + c], for 1 to kTapsAtOnce
// taps k
constexpr int64_t kTapsAtOnce = 3;
struct CorrelateArgs {
  const void *x, *dy;
  int64_t taps, tap_x, tap_sums;
  int64_t pixels, x_stride, dy_stride, channels;
  int32_t* sums;
};

struct DepthwiseLoops {
  int lanes;  // of a vector
  void (*gather[3][2])(const GatherArgs&);       // by the type of a; sums in 32 or 64 bits
  void (*correlate[2][3])(const CorrelateArgs&);  // by the types of x and dy
};
GRAFFITI_DECLARE_TIERS(DepthwiseLoops)

// shape.groups == shape.channels, kernel (h, w, channels, multiplier); the arguments are those of
// graffiti_training_conv.
int TrainingDepthwise(int pass, const graffiti_conv_shape& shape, int64_t batch, const void* first, int first_type,
                      const void* second, int second_type, float scale, float* out, int tier,
                      const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_DEPTHWISE_H_
