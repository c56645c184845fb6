#include <immintrin.h>

#include "arch.h"
#include "dot/dot.h"

namespace graffiti {
namespace {

#define GRAFFITI_DOT_TIER_AVX2
constexpr int kTier = GRAFFITI_TIER_AVX2;

#include "simd_avx2.inc"

struct DotS16S16 {
  static inline void Accumulate(Simd::V& c, Simd::V a, Simd::V w) { c = Simd::PairProduct(c, a, w); }
};

#include "dot/tile.inc"

}  // namespace

DotKernelList DotKernelsAvx2() { return {kKernels, sizeof(kKernels) / sizeof(kKernels[0])}; }

}  // namespace graffiti
