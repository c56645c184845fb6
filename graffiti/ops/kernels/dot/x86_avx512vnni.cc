#include <immintrin.h>

#include "arch.h"
#include "dot/dot.h"

namespace graffiti {
namespace {

#define GRAFFITI_DOT_TIER_AVX512VNNI
constexpr int kTier = GRAFFITI_TIER_AVX512VNNI;

#include "simd_avx512.inc"

struct DotU8S8 {
  static inline void Accumulate(__m512i& c, __m512i a, __m512i w) { asm("vpdpbusd %2,%1,%0" : "+v"(c) : "v"(a), "v"(w)); }
};

struct DotS16S16 {
  static inline void Accumulate(Simd::V& c, Simd::V a, Simd::V w) { c = Simd::PairProduct(c, a, w); }
};

#include "dot/tile.inc"

}  // namespace

DotKernelList DotKernelsAvx512Vnni() { return {kKernels, sizeof(kKernels) / sizeof(kKernels[0])}; }

}  // namespace graffiti
