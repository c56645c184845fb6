#include "arch.h"

#include <cstdlib>
#include <cstring>

namespace graffiti {
namespace {

constexpr int kHighest = GRAFFITI_TIER_COUNT - 1;

// GRAFFITI_MAX_TIER names the highest tier to use, so that one machine can stand for a smaller one; any other text is
// ignored.
int HighestAllowed() {
  const char* wanted = std::getenv("GRAFFITI_MAX_TIER");
  for (int tier = GRAFFITI_TIER_SCALAR; wanted != nullptr && tier <= kHighest; ++tier)
    if (std::strcmp(wanted, TierName(tier)) == 0) return tier;
  return kHighest;
}

}  // namespace

bool TierBuilt(int tier) {
  switch (tier) {
#define GRAFFITI_CASE(of, NAME, name, CPU, ...) GRAFFITI_ON_##CPU(case GRAFFITI_TIER_##NAME : return true;)
    GRAFFITI_EACH_TIER(GRAFFITI_CASE, )
#undef GRAFFITI_CASE
    default: return false;
  }
}

bool TierSupported(int tier) {
  static const int highest = HighestAllowed();
  if (tier > highest) return false;
  switch (tier) {
    case GRAFFITI_TIER_AUTO:
      return true;
#define HAS(feature) __builtin_cpu_supports(feature)
#define GRAFFITI_CASE(of, NAME, name, CPU, vectors, flags, test) \
  GRAFFITI_ON_##CPU(case GRAFFITI_TIER_##NAME : return test;)
    GRAFFITI_EACH_TIER(GRAFFITI_CASE, )
#undef GRAFFITI_CASE
#undef HAS
    default:
      return false;
  }
}

int BestTier() {
  static const int best = [] {
    int tier = kHighest;
    while (!TierSupported(tier)) --tier;
    return tier;
  }();
  return best;
}

const char* TierName(int tier) {
#define GRAFFITI_NAME(of, NAME, name, ...) name,
  static const char* const kNames[] = {"auto", GRAFFITI_EACH_TIER(GRAFFITI_NAME, )};
#undef GRAFFITI_NAME
  return tier >= 0 && tier <= kHighest ? kNames[tier] : nullptr;
}

}  // namespace graffiti
