// Instruction-set tiers: which ones this CPU has. A tier is an argument everywhere, so one machine tests all it can
// run.
#ifndef GRAFFITI_OPS_KERNELS_ARCH_H_
#define GRAFFITI_OPS_KERNELS_ARCH_H_

#include "c_api.h"

#if defined(__x86_64__) || defined(_M_X64)
#define GRAFFITI_X86_64 1
#else
#define GRAFFITI_X86_64 0
#endif

// GRAFFITI_ON_<CPU of a row of tiers.inc>(text): the text where the tier is built, nothing elsewhere.
#define GRAFFITI_ON_any(...) __VA_ARGS__
#if GRAFFITI_X86_64
#define GRAFFITI_ON_x86_64(...) __VA_ARGS__
#else
#define GRAFFITI_ON_x86_64(...)
#endif

namespace graffiti {

bool TierBuilt(int tier);      // whether this library has it
bool TierSupported(int tier);  // whether this CPU has it too
int BestTier();
const char* TierName(int tier);  // nullptr for an unknown one

// AUTO becomes the best tier; 0 where the tier cannot run here.
inline int ResolveTier(int tier) { return tier == GRAFFITI_TIER_AUTO ? BestTier() : TierSupported(tier) ? tier : 0; }

// A family of loops is a struct of function pointers, `Loops`. Its each_tier.cc is compiled once for each tier
// (build.py) and defines TierLoops<Loops, GRAFFITI_TIER>(); its header has GRAFFITI_DECLARE_TIERS(Loops).
template <typename Loops, int kTier>
const Loops& TierLoops();

#define GRAFFITI_DECLARE_TIERS(Loops) GRAFFITI_EACH_TIER(GRAFFITI_DECLARE_TIER, Loops)
#define GRAFFITI_DECLARE_TIER(Loops, NAME, name, CPU, ...) \
  GRAFFITI_ON_##CPU(template <> const Loops& TierLoops<Loops, GRAFFITI_TIER_##NAME>();)

// A family's loops of a resolved tier.
template <typename Loops>
const Loops& LoopsOf(int tier) {
  switch (tier) {
#define GRAFFITI_CASE(Loops, NAME, name, CPU, ...) \
  GRAFFITI_ON_##CPU(case GRAFFITI_TIER_##NAME : return TierLoops<Loops, GRAFFITI_TIER_##NAME>();)
    GRAFFITI_EACH_TIER(GRAFFITI_CASE, Loops)
#undef GRAFFITI_CASE
    default: return TierLoops<Loops, GRAFFITI_TIER_SCALAR>();
  }
}

}  // namespace graffiti

#endif  // GRAFFITI_OPS_KERNELS_ARCH_H_
