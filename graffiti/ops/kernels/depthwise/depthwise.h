// Depthwise products: every channel has its own taps. Sixteen-bit pairs (x, 0) * (w, 0) on vectors of channels, so that
// u8, s8 and s16 activations and s8, u8 and s16 weights are all exact. Pooling by a constant kernel is the same kernel
// with more taps.
//
//   acc[p][c] = init[c] + sum over t of x[base + pixel_offsets[p] + tap_offsets[t]][c] * w[t][c]
#ifndef GRAFFITI_OPS_KERNELS_DEPTHWISE_DEPTHWISE_H_
#define GRAFFITI_OPS_KERNELS_DEPTHWISE_DEPTHWISE_H_

#include <cstdint>

#include "arch.h"
#include "dot/dot.h"

namespace graffiti {

struct DepthwiseArgs {
  const uint8_t* base;  // every vector read may go up to 64 bytes past the last channel
  const int32_t* pixel_offsets;
  int64_t pixels;
  const int32_t* tap_offsets;  // bytes
  int64_t taps;
  const int32_t* weights;  // [channel block][tap][lanes], each in the low half of 32 bits; aligned to 64 bytes
  const int32_t* init;     // padded to whole blocks, like the epilogue's arrays
  const Epilogue* epilogue;  // nullptr: s32 out
  int64_t channels;
  void* out;
  int64_t out_stride;  // bytes from pixel to pixel
};

struct DepthwiseKernels {
  int lanes;
  void (*run)(int x_type, const DepthwiseArgs& args);  // S8, U8 or S16
};
GRAFFITI_DECLARE_TIERS(DepthwiseKernels)

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_DEPTHWISE_DEPTHWISE_H_
