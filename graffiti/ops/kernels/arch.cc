#include "arch.h"

#include <cstdlib>
#include <cstring>

namespace graffiti {
namespace {

constexpr int kHighest = GRAFFITI_TIER_AVX512VNNI;

// GRAFFITI_MAX_TIER names the highest tier to use, so that one machine can stand for a smaller one; any other text is ignored.
int HighestAllowed() {
  const char* wanted = std::getenv("GRAFFITI_MAX_TIER");
  for (int tier = GRAFFITI_TIER_SCALAR; wanted != nullptr && tier <= kHighest; ++tier)
    if (std::strcmp(wanted, TierName(tier)) == 0) return tier;
  return kHighest;
}

}  // namespace

bool TierSupported(int tier) {
  static const int highest = HighestAllowed();
  if (tier > highest) return false;
  switch (tier) {
    case GRAFFITI_TIER_AUTO:
    case GRAFFITI_TIER_SCALAR:
      return true;
#if GRAFFITI_X86_64
    case GRAFFITI_TIER_AVX2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case GRAFFITI_TIER_AVX512VNNI:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && TierSupported(GRAFFITI_TIER_AVX2);
#endif
    default:
      return false;
  }
}

int BestTier() {
  static const int best = TierSupported(GRAFFITI_TIER_AVX512VNNI) ? GRAFFITI_TIER_AVX512VNNI
                          : TierSupported(GRAFFITI_TIER_AVX2)     ? GRAFFITI_TIER_AVX2
                                                                  : GRAFFITI_TIER_SCALAR;
  return best;
}

const char* TierName(int tier) {
  static const char* const kNames[] = {"auto", "scalar", "avx2", "avx512vnni"};
  return tier >= 0 && tier <= kHighest ? kNames[tier] : nullptr;
}

}  // namespace graffiti
