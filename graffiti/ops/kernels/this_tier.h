// For the files that are compiled once for each tier: each_tier.cc of every kernel family.
//
// The compiler is given GRAFFITI_TIER, the tier's number, GRAFFITI_TIER_IS_<NAME>, and GRAFFITI_VECTORS, the file of
// its struct Simd. All of it goes into the including file's unnamed namespace: a tier's instructions must not leak into
// shared inline functions. Only TierLoops<..., GRAFFITI_TIER>() is seen from outside.
#ifndef GRAFFITI_OPS_KERNELS_THIS_TIER_H_
#define GRAFFITI_OPS_KERNELS_THIS_TIER_H_

#include "arch.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#endif  // GRAFFITI_OPS_KERNELS_THIS_TIER_H_
