// The loops, compiled once for each tier and written so that GCC vectorizes them for its flags. Everything is in an
// unnamed namespace and nothing of the standard library is called, so that no tier's instructions leak into another.
#include "floats.h"
#include "multi_level/multi_level.h"

namespace graffiti {
namespace {

void GroupMaximum(const float* __restrict x, int64_t rows, int64_t width, int64_t inner, int32_t* __restrict most) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = x + r * width;
    if (inner == 1) {
      for (int64_t c = 0; c < width; ++c) {
        const int32_t bits = Bits(row[c]) & 0x7fffffff;
        most[c] = bits > most[c] ? bits : most[c];
      }
      continue;
    }
    for (int64_t g = 0; g < width / inner; ++g) {
      int32_t own = most[g];
      for (int64_t s = 0; s < inner; ++s) {
        const int32_t bits = Bits(row[g * inner + s]) & 0x7fffffff;
        own = bits > own ? bits : own;
      }
      most[g] = own;
    }
  }
}

constexpr int64_t kNoiseRun = 512;

// The generator's numbers of kNoiseRun + 32 elements from `first`, a multiple of 32, less one half.
inline void CenteredNoise(const NoiseKey& key, int64_t first, float* __restrict out) {
  for (int64_t g = 0; g < kNoiseRun + 32; g += 32) {
    const uint32_t counter = static_cast<uint32_t>((first + g) / 2) + key.first;
    for (int k = 0; k < 16; ++k) {
      const uint32_t word = MixNoise(counter + k, key.second);
      out[g + k] = static_cast<float>(static_cast<int32_t>(word & 0xffff)) * kTwoToMinus16 - 0.5f;
      out[g + 16 + k] = static_cast<float>(static_cast<int32_t>(word >> 16)) * kTwoToMinus16 - 0.5f;
    }
  }
}

void MultiLevel(const graffiti_element_format& f, const NoiseKey* key, const float* __restrict x, int64_t n,
                int64_t first, const GroupNumbers& numbers, float* __restrict y) {
  const float* __restrict divisor = numbers.divisor, * __restrict factor = numbers.factor;
  const int64_t period = numbers.period;
  const int shift = f.top_exponent + 1, mantissa = f.mantissa_bits;
  const bool fixed = f.exponent_bits == 0;
  const int32_t highest = fixed ? shift : shift - 1, lowest = fixed ? shift : 1 - (1 << f.exponent_bits) + shift;
  const float unit = shift ? 2.0f : 1.0f;
  const float largest = (1.0f - FromBits((127 - mantissa - !fixed) << 23)) * unit;
  const float top_code = fixed || f.carry ? 1e9f : FromBits((128 + mantissa) << 23) - 1.0f;
  const float magic = 12582912.0f;
  float noise[kNoiseRun + 32] = {};
  for (int64_t i = 0, j = 0; i < n;) {
    int64_t count = n - i < period - j ? n - i : period - j;
    if (count > kNoiseRun) count = kNoiseRun;
    const int64_t aligned = (first + i) & ~int64_t{31};
    const float* own = noise;
    if (key != nullptr) {
      CenteredNoise(*key, aligned, noise);
      own = noise + (first + i - aligned);
    }
    const float *from = x + i, *by = divisor + j, *times = factor + j;
    float* to = y + i;
    for (int64_t k = 0; k < count; ++k) {
      const float m = __builtin_fabsf(from[k]) / by[k];
      int32_t e = (Bits(m) >> 23) - 127;
      e = e < lowest ? lowest : e;
      e = e > highest ? highest : e;
      float code = (m * FromBits((mantissa - e + 127) << 23) + own[k] + magic) - magic;
      code = code > 0.0f ? code : 0.0f;
      code = code < top_code ? code : top_code;
      float element = code * FromBits((e - mantissa + 127) << 23);
      element = element < largest ? element : largest;
      to[k] = FromBits(Bits(element * times[k]) ^ (Bits(from[k]) & static_cast<int32_t>(0x80000000)));
    }
    i += count;
    j = j + count == period ? 0 : j + count;
  }
}

const MultiLevelLoops kLoops = {GroupMaximum, MultiLevel};

}  // namespace

template <>
const MultiLevelLoops& TierLoops<MultiLevelLoops, GRAFFITI_TIER>() {
  return kLoops;
}

}  // namespace graffiti
