// Floats by their bits, for the loops. `static`, since each tier compiles its own.
#ifndef GRAFFITI_OPS_KERNELS_FLOATS_H_
#define GRAFFITI_OPS_KERNELS_FLOATS_H_

#include <cstdint>

namespace graffiti {

static inline int32_t Bits(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

static inline float FromBits(int32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// Integers in the order of the floats with these bits; the same from such an integer to the bits.
static inline int32_t KeyOfBits(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_FLOATS_H_
