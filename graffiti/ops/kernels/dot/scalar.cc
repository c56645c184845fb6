#include "arch.h"
#include "dot/dot.h"

namespace graffiti {
namespace {

#define GRAFFITI_DOT_TIER_SCALAR
constexpr int kTier = GRAFFITI_TIER_SCALAR;

#include "simd_scalar.inc"

struct DotS16S16 {
  static inline void Accumulate(Simd::V& c, Simd::V a, Simd::V w) { c = Simd::PairProduct(c, a, w); }
};

#include "dot/tile.inc"

}  // namespace

DotKernelList DotKernelsScalar() { return {kKernels, sizeof(kKernels) / sizeof(kKernels[0])}; }

}  // namespace graffiti
