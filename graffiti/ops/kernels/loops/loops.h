// Everything that is not a product, as loops over short runs of elements that the compiler vectorizes once per tier.
//
// Elementwise ops are chains over a block of s32 values that stays in the first-level cache:
//   load (any type -> s32), combine, round and saturate, store (s32 -> any type).
#ifndef GRAFFITI_OPS_KERNELS_LOOPS_LOOPS_H_
#define GRAFFITI_OPS_KERNELS_LOOPS_LOOPS_H_

#include <cstdint>

#include "arch.h"

namespace graffiti {

constexpr int64_t kBlock = 512;  // elements a chain works on at once

struct Loops {
  void (*load)(int type, const void* x, int64_t n, int32_t* out);
  void (*store)(int type, const int32_t* x, int64_t n, void* out);  // x holds what the type holds
  void (*combine)(int operation, int32_t* x, const int32_t* y, int64_t n);
  // clamp(round(x / 2**shift), low, high) in place; shifts of round are 0..30, of round_any anything.
  // shift has n elements, or one where `common`.
  void (*round)(int rounding, int32_t* x, const int32_t* shift, bool common, int64_t n, int32_t low, int32_t high);
  void (*round_any)(int rounding, int32_t* x, const int32_t* shift, bool common, int64_t n, int32_t low, int32_t high);
  // clamp(x * 2**left, low, high) in place; left is 1..30, low and high are within +-2**30
  void (*shift_left)(int32_t* x, int32_t left, int64_t n, int32_t low, int32_t high);
  // clamp(round(op(x, y) / 2**shift), low, high) for 8-bit x, y and out, add or subtract, half to even, shift -5..14,
  // in one pass
  void (*add8)(bool subtract, int x_type, const void* x, int y_type, const void* y, int64_t n, int32_t shift,
               int32_t low, int32_t high, void* out);
  // the same for one 8-bit x: requantize between 8-bit formats
  void (*round8)(int x_type, const void* x, int64_t n, int32_t shift, int32_t low, int32_t high, void* out);
  void (*offset8)(const uint8_t* x, int64_t n, uint8_t* out);          // v ^ 0x80: s8 stored as v + 128
  void (*widen16)(int type, const void* x, int64_t n, int16_t* out);  // S8, U8 or S16 to s16
  void (*maximum)(int type, void* best, const void* x, int64_t n);    // best = max(best, x)
  // x * scale + offset, rounded after each; scale and offset have n elements, or one where `common`
  void (*rescale)(const float* x, int64_t n, const float* scale, const float* offset, bool common, float* out);
  // float -> s32 codes; half to even with a float scale (|low|, |high| <= 2**16). Returns whether there was a NaN.
  bool (*quantize)(const float* x, int64_t n, float scale, int32_t low, int32_t high, int32_t* out);
  // the same, in double and with any rounding and range
  bool (*quantize_any)(int rounding, const float* x, int64_t n, double scale, int32_t low, int32_t high, int32_t* out);
  void (*dequantize)(const int32_t* x, int64_t n, const double* scale, bool common, float* out);
};

GRAFFITI_DECLARE_TIERS(Loops)

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_LOOPS_LOOPS_H_
