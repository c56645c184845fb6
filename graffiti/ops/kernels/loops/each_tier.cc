// The loops of one tier: the compiler vectorizes them by its flags.
#include "loops/loops.h"
#include "this_tier.h"

namespace graffiti {
namespace {

#include "loops/loops.inc"

}  // namespace

template <>
const Loops& TierLoops<Loops, GRAFFITI_TIER>() {
  return kLoops;
}

}  // namespace graffiti
