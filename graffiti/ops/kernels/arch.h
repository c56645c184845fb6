// Instruction-set tiers: which ones this CPU has. A tier is an argument everywhere, so one machine tests all it can run.
#ifndef GRAFFITI_OPS_KERNELS_ARCH_H_
#define GRAFFITI_OPS_KERNELS_ARCH_H_

#include "c_api.h"

#if defined(__x86_64__) || defined(_M_X64)
#define GRAFFITI_X86_64 1
#else
#define GRAFFITI_X86_64 0
#endif

namespace graffiti {

bool TierSupported(int tier);
int BestTier();
const char* TierName(int tier);  // nullptr for an unknown one

// AUTO becomes the best tier; 0 where the tier cannot run here.
inline int ResolveTier(int tier) { return tier == GRAFFITI_TIER_AUTO ? BestTier() : TierSupported(tier) ? tier : 0; }

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_ARCH_H_
