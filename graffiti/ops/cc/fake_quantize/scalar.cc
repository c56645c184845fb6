// The loops with the compiler's baseline instructions, and what does not depend on the instruction set.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "loops.h"

namespace graffiti {

const FakeQuantizeLoops& FakeQuantizeScalar() {
  static const FakeQuantizeLoops loops{"scalar", Forward, Backward};
  return loops;
}

int FakeQuantizeExponent(float log2_threshold, int bits, bool is_signed) {
  const float bounded = std::min(std::max(std::ceil(log2_threshold), -1024.0f), 1024.0f);
  return std::min(std::max(static_cast<int>(bounded) - (bits - (is_signed ? 1 : 0)), -126), 126);
}

static float PowerOfTwo(int exponent) {
  const uint32_t pattern = static_cast<uint32_t>(exponent + 127) << 23;
  float value;
  std::memcpy(&value, &pattern, sizeof(value));
  return value;
}

FakeQuantizeParams MakeFakeQuantizeParams(float log2_threshold, int bits, bool is_signed, bool narrow,
                                          Rounding rounding) {
  const int exponent = FakeQuantizeExponent(log2_threshold, bits, is_signed);
  const float levels = PowerOfTwo(bits - (is_signed ? 1 : 0));
  const float low = is_signed ? -levels + (narrow ? 1.0f : 0.0f) : 0.0f;
  return {PowerOfTwo(exponent), PowerOfTwo(-exponent), low, levels - 1.0f, rounding};
}

}  // namespace graffiti
