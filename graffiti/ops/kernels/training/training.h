// The three products of a training step on codes: convolution forward, input gradient, weight gradient, to float32.
//
//   forward          y[b,p,q,o]   = scale * sum over u,v,c   x[b, p*sh + u*dh - top, q*sw + v*dw - left, c] *
//   w[u,v,c,o] input gradient   dx[b,h,w,c]  = scale * sum over u,v,o   dy[b,p,q,o] * w[u,v,c,o]       where h = p*sh +
//   u*dh - top, likewise w weight gradient  dw[u,v,c,o]  = scale * sum over b,p,q   x[b, p*sh + u*dh - top, ...] *
//   dy[b,p,q,o]
//
// Each sum is an exact integer, rounded once to float32 and multiplied once, so the result depends neither on the tier
// nor on the threads. All three run on the tile primitive of dot/: forward and input gradient as taps over a padded
// copy of an image (the input gradient one phase of the stride at a time), the weight gradient with pixels or images as
// the inner dimension, from interleaved copies.
#ifndef GRAFFITI_OPS_KERNELS_TRAINING_TRAINING_H_
#define GRAFFITI_OPS_KERNELS_TRAINING_TRAINING_H_

#include <cstdint>

#include "arch.h"

namespace graffiti {

// Columns in strips of `width`, which lie `bytes` apart; the last one is filled up with zeros.
struct Strips {
  int64_t columns, width, bytes;
};

// Which of the four bytes of a column and step count, and what is xored into each of them.
struct Masks {
  uint8_t keep[4];
  uint8_t flip;
};

template <typename From>
using InterleaveFunction = void (*)(const From* const* rows, int64_t stride, int64_t steps, const Masks& masks,
                                    const Strips& strips, uint8_t* to);

// Four rows of bytes, or two that become 16 bits; see Interleave() in interleave.h.
struct Interleaves {
  InterleaveFunction<uint8_t> bytes, u8;
  InterleaveFunction<int8_t> s8;
  InterleaveFunction<int16_t> s16;
  InterleaveFunction<uint8_t> Of(const uint8_t* const*, uint8_t) const { return bytes; }
  InterleaveFunction<uint8_t> Of(const uint8_t* const*, int16_t) const { return u8; }
  InterleaveFunction<int8_t> Of(const int8_t* const*, int16_t) const { return s8; }
  InterleaveFunction<int16_t> Of(const int16_t* const*, int16_t) const { return s16; }
};

// Loops that every tier has its own copy of.
struct TrainingStores {
  void (*scale32)(const int32_t* x, int64_t n, float scale, float* out);  // out = float(x) * scale
  void (*add)(const int32_t* x, int64_t n, double* sums);
  void (*scale64)(const double* x, int64_t n, float scale, float* out);   // out = float(x) * scale, x whole numbers
  Interleaves interleaves;
};
GRAFFITI_DECLARE_TIERS(TrainingStores)

// One of the three, with the arguments of graffiti_training_conv: checked, then run.
int TrainingProduct(int pass, const graffiti_conv_shape& s, int64_t batch, const void* first, int first_type,
                    const void* second, int second_type, float scale, float* out, int tier,
                    const graffiti_parallel* parallel);

// Behind it, for one group; what they take has been checked.
int TrainingForward(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const int8_t* w,
                    float scale, float* y, int tier, const graffiti_parallel* parallel);
int TrainingInputGradient(const graffiti_conv_shape& s, int64_t batch, const void* dy, int dy_type, const int8_t* w,
                          float scale, float* dx, int tier, const graffiti_parallel* parallel);
int TrainingWeightGradient(const graffiti_conv_shape& s, int64_t batch, const void* x, int x_type, const void* dy,
                           int dy_type, float scale, float* dw, int tier, const graffiti_parallel* parallel);

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_TRAINING_TRAINING_H_
