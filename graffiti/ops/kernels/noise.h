// The counter-based generator of stochastic rounding in C++; graffiti/numerics/noise.py specifies it.
#ifndef GRAFFITI_OPS_KERNELS_NOISE_H_
#define GRAFFITI_OPS_KERNELS_NOISE_H_

#include <cstdint>

namespace graffiti {

constexpr uint32_t kNoiseGolden = 0x9E3779B9u, kNoiseSecond = 0x5BD1E995u;
constexpr float kTwoToMinus16 = 1.52587890625e-5f;

// The mixer, of a word or of a vector of words. `static`, as all here: each tier compiles its own.
template <typename Words>
static inline Words MixNoise(Words w, Words extra) {
  w = (w ^ (w >> 17)) * 0xED5AD4BBu + extra;
  w = (w ^ (w >> 11)) * 0xAC4C1B51u;
  w = (w ^ (w >> 15)) * 0x31848BABu;
  return w ^ (w >> 14);
}

// The two words behind a seed. Word j of the generator is MixNoise(j + first, second).
struct NoiseKey {
  uint32_t first, second;
};

static inline NoiseKey KeyOfSeed(const uint32_t* seed) {
  const uint32_t first = MixNoise(seed[0] + kNoiseGolden, seed[1]);
  return {first, MixNoise(first + kNoiseGolden, seed[1] ^ kNoiseSecond)};
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_NOISE_H_
